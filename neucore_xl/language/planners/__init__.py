"""Planners of fusion sequences that need no language model."""
