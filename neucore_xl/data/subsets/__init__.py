"""Subsets of similar pictures and the nine pairs of each, to be annotated as CIRR was."""
