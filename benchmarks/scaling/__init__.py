"""What devices send each other."""
