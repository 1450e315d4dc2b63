"""Scores to loss to weights. The only room that knows devices' engines and ranks."""
