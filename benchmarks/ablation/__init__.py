"""What each part of the method is worth on the street world."""
