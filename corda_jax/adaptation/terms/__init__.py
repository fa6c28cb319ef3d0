"""What the student learns from: one file an idea."""
