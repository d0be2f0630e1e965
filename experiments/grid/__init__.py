"""Many runs: which there are, which are left, and the engines that carry them out."""
