"""Scores to rankings to numbers a paper can print. Knows no model."""
