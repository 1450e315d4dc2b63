"""neucore-xl: composed image retrieval at scale (CLIP backbones, planned fusion sequences, sharded training)."""

__version__ = "0.1.0"
