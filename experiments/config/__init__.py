"""What a user asks for: YAML files, their keys, and the cells that they name."""
