"""Borders of a label map moved to where the image has its own."""
