"""Sentences of a dataset become sequence files, concept lists and their scores."""
