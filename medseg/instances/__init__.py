"""Objects out of classes: touching or scattered structures told apart, in physical units, exact in blocks."""
