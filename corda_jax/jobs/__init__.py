"""What a user runs: train and evaluate."""
