"""Weights & Biases as a mirror of the run folders: sent while runs train, or later, and read back."""
