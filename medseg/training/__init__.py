"""Learning: the floor that makes models. Nothing below it knows that it exists."""
