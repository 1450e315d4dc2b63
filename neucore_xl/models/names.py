"""Names of concepts and other short texts, through the text tower, before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from neucore_xl.models.backbone import Backbone

_CHUNK = 256  # names per forward pass of the text tower


@torch.no_grad()
def encode_names(backbone: Backbone, names: Sequence[str]) -> Tensor:
    """Pooled text features ``[C, D]`` (not normalised) of C names, in chunks, on the device the backbone is on."""
    device = next(backbone.parameters()).device
    training = backbone.training
    backbone.eval()
    parts = [
        backbone.encode_texts(backbone.tokenizer(list(names[i : i + _CHUNK])).to(device)).pooled.float()
        for i in range(0, len(names), _CHUNK)
    ]
    backbone.train(training)
    return torch.cat(parts) if parts else torch.zeros(0, backbone.embed_dim, device=device)
