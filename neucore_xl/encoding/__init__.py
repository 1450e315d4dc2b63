"""From names and sentences to features and scores."""
