"""A run on disk and its parts: the folder, its environment, its checkpoints, and the system that they become."""
