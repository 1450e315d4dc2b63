"""Files to triplets to batches. Knows no network."""
