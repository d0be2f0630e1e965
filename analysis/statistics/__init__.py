"""Intervals, tests and curves from arrays of answers; nothing here reads a file."""
