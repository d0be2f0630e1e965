"""A finished run's model in use."""
