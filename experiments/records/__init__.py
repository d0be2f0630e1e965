"""What a run leaves: its record, its rows, its lock and heartbeat."""
