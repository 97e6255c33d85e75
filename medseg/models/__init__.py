"""What a model says of itself, and how it is found, checked and loaded."""
