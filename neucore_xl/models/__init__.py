"""Features to scores: backbones, heads and composers as plain ``torch.nn`` modules."""
