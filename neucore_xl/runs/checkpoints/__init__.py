"""Checkpoints: written whole, found, checked, restored, converted."""
