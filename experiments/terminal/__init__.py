"""What the terminal shows, while a grid runs and after."""
