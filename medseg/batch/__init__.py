"""Many cases: each in a guarded child, each result whole or absent, every stop resumable."""
