"""The ways to run a network: one `Predictor` each."""
