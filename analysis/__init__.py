"""From records to tables, figures and statistics. Reads what the harness wrote; imports no deep-learning framework."""
