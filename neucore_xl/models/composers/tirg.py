"""System `tirg`: f = a₀ · σ(G[i ; t̂]) ⊙ i + a₁ · R[i ; t̂], a = (1, 10) at the start and learned.

Source: Vo et al., Composing Text and Image for Image Retrieval (CVPR 2019), equations 1 to 3. G is norm, ReLU and a
linear map from 2D to D; R is norm, ReLU, a linear map from 2D to 2D, ReLU, and one to D. What differs: a layer norm
where the original has a batch norm, so that no query depends on its company; i and t̂ are the tower's pooled features
at length √D, the size that ResNet features have, to which a₁ = 10 belongs; targets keep their pretrained feature.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from neucore_xl.config.schema import Settings
from neucore_xl.models.backbone import Backbone
from neucore_xl.models.features import FeatureSet, QueryFeatures
from neucore_xl.models.head import Head, Text
from neucore_xl.models.layers import l2, unit_variance


class GatedResidual(nn.Module):
    """a₀ · σ(G[i ; t̂]) ⊙ i + a₁ · R[i ; t̂]: what of the image stays, and what comes."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(nn.LayerNorm(2 * d), nn.ReLU(), nn.Linear(2 * d, d))
        self.residual = nn.Sequential(
            nn.LayerNorm(2 * d), nn.ReLU(), nn.Linear(2 * d, 2 * d), nn.ReLU(), nn.Linear(2 * d, d)
        )
        self.weights = nn.Parameter(torch.tensor([1.0, 10.0]))

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """``image [B, D]`` and ``text [B, D]``, of length √D, to ``[B, D]``."""
        both = torch.cat([image, text], -1)
        return self.weights[0] * self.gate(both).sigmoid() * image + self.weights[1] * self.residual(both)


class Tirg(Head):
    """A gate keeps parts of the image, a residual adds what the text asks for."""

    def __init__(self, settings: Settings, backbone: Backbone) -> None:
        super().__init__(settings, backbone)
        self.composition = GatedResidual(backbone.embed_dim)

    def queries(self, references: FeatureSet, text: Text) -> QueryFeatures:
        i, t = unit_variance(references["pooled"]), unit_variance(text.sentence.pooled)
        return FeatureSet({"vector": l2(self.composition(i, t))})
