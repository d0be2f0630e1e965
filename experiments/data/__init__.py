"""Datasets, their nested stratified subsets, and the batches that training sees."""
