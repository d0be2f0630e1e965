"""What the harness costs, measured as ratios inside one run."""
