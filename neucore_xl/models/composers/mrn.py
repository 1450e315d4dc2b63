"""System `mrn`: h₀ = t̂; h_s = W_s h_(s−1) + tanh(U_s h_(s−1)) ⊙ tanh(V₂ tanh(V₁ i)); f = h₃.

Source: Kim et al., Multimodal Residual Learning for Visual QA (NIPS 2016), as a baseline of composed retrieval in
Vo et al. (CVPR 2019). Every block has maps of its own. What differs: i and t̂ are the tower's
pooled features at length √D, the last block maps to the joint space in place of a classifier, and targets keep their
pretrained feature.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from neucore_xl.config.schema import Settings
from neucore_xl.models.backbone import Backbone
from neucore_xl.models.features import FeatureSet, QueryFeatures
from neucore_xl.models.head import Head, Text
from neucore_xl.models.layers import l2, unit_variance

BLOCKS = 3


class MultimodalResidual(nn.Module):
    """One block: W h + tanh(U h) ⊙ tanh(V₂ tanh(V₁ i))."""

    def __init__(self, d_in: int, d_image: int, d_out: int) -> None:
        super().__init__()
        self.shortcut, self.question = nn.Linear(d_in, d_out), nn.Linear(d_in, d_out)
        self.image1, self.image2 = nn.Linear(d_image, d_out), nn.Linear(d_out, d_out)

    def forward(self, h: Tensor, image: Tensor) -> Tensor:
        """``h [B, d_in]`` and ``image [B, D]`` to ``[B, d_out]``."""
        seen = torch.tanh(self.image2(torch.tanh(self.image1(image))))
        return self.shortcut(h) + torch.tanh(self.question(h)) * seen


class Mrn(Head):
    """The text, to which every block adds a product of what is said and what is seen."""

    def __init__(self, settings: Settings, backbone: Backbone) -> None:
        super().__init__(settings, backbone)
        d, joint = settings.model.width, backbone.embed_dim
        widths = [joint, *[d] * (BLOCKS - 1), joint]
        self.blocks = nn.ModuleList(MultimodalResidual(a, joint, b) for a, b in pairwise(widths))

    def queries(self, references: FeatureSet, text: Text) -> QueryFeatures:
        i, h = unit_variance(references["pooled"]), unit_variance(text.sentence.pooled)
        for block in self.blocks:
            h = block(h, i)
        return FeatureSet({"vector": l2(h)})
