"""Annotate, learn, predict, correct: a queue of cases that a model and a person work through together."""
