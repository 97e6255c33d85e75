"""Smart annotation: a few clicks or strokes become labels. Pure functions on arrays; no screen here."""
