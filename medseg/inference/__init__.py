"""The sliding window: planned, run in slabs, decided, brought home."""
