"""A run on disk and a model at work: run folders, cached features, loading a run, encoding queries and galleries."""
