"""One run: from a cell to its record."""
