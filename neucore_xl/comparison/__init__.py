"""Systems side by side on one backbone: the same features, budget and seeds, in the tables of the papers."""
