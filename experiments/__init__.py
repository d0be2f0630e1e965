"""The harness: from a named experiment to one record per run.

Importing this package imports nothing heavy, so that ``list`` and ``status`` answer without torch.
"""
