"""What the commands say and make of records: the one room of the harness that knows `analysis`."""

SOME_FAILED, BAD_INPUT, STOPPED = 1, 2, 130
"""Exit codes of a command that did not get through."""
