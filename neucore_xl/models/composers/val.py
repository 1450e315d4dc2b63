"""System `val`: at three depths, the text chooses what of the image stays and what attention over both adds.

z_n = W_z [x_n ; t̂]; x'_n = w_J · J_n ⊙ x_n + w_S · W_O SelfAttention(z)_n; J_n = σ(C mean of z) · σ(p · z_n), one gate
for each channel times one for each place; f = [mean of x' at depth 1 ; at depth 2 ; at depth 3], and a target is
[mean of x ; mean of x ; mean of x], both of unit length and width 3d. w_J = 1 and w_S = 0 at the start, both learned.

Source: Chen, Gong and Bazzani, Image Search with Text Feedback by Visiolinguistic Attention Learning (CVPR 2020). What
differs: X are the tower's tokens of each depth, brought to width d; 1 × 1 convolutions on them are linear maps, and the
gate of the places is one too, since not every tower's tokens are a map; t̂ is the tower's pooled text; the similarities
of the three depths are one cosine. The paper's loss is `loss.kind=hardest-hinge`; its second one, against captions of
the pictures, is not here.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from neucore_xl.config.schema import Settings
from neucore_xl.data.batches import ImageFeatures
from neucore_xl.models.backbone import Backbone
from neucore_xl.models.features import FeatureSet, QueryFeatures, TargetFeatures
from neucore_xl.models.head import Head, Text
from neucore_xl.models.layers import Attention, l2, token_projection, unit_variance


class VisiolinguisticAttention(nn.Module):
    """x' of one depth."""

    def __init__(self, d: int, d_text: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.join = nn.Linear(d + d_text, d)
        self.channels, self.places = nn.Linear(d, d), nn.Linear(d, 1)
        self.attention = Attention(d, heads, dropout)
        self.weights = nn.Parameter(torch.tensor([1.0, 0.0]))  # of what stays, of what is added

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        """``x [B, N, d]`` and ``text [B, D]`` to ``[B, N, d]``."""
        z = self.join(torch.cat([x, text[:, None].expand(-1, x.shape[1], -1)], -1))
        gate = self.channels(z.mean(1, keepdim=True)).sigmoid() * self.places(z).sigmoid()
        return self.weights[0] * gate * x + self.weights[1] * self.attention(z, z)


class Val(Head):
    """From coarse to fine: the same composition at three depths of the tower."""

    levels: ClassVar[int] = 3
    fewest_levels: ClassVar[int] = 3

    def __init__(self, settings: Settings, backbone: Backbone) -> None:
        super().__init__(settings, backbone)
        model, d = settings.model, settings.model.width
        widths = backbone.token_widths[-self.levels :]
        self.image_tokens = nn.ModuleList(token_projection(width, d) for width in widths)
        self.compositions = nn.ModuleList(
            VisiolinguisticAttention(d, backbone.embed_dim, model.heads, model.dropout) for _ in widths
        )

    def look(self, images: ImageFeatures) -> FeatureSet:
        """``tokens0 [U, N_0, d]`` to ``tokens2``, the earliest depth first."""
        depths = (*images.levels, images.tokens)[-self.levels :]
        return FeatureSet(
            {f"tokens{k}": into(x) for k, (into, x) in enumerate(zip(self.image_tokens, depths, strict=True))}
        )

    def targets(self, images: FeatureSet) -> TargetFeatures:
        return FeatureSet({"vector": l2(torch.cat([images[f"tokens{k}"].mean(1) for k in range(self.levels)], -1))})

    def queries(self, references: FeatureSet, text: Text) -> QueryFeatures:
        t = unit_variance(text.sentence.pooled)
        composed = [compose(references[f"tokens{k}"], t).mean(1) for k, compose in enumerate(self.compositions)]
        return FeatureSet({"vector": l2(torch.cat(composed, -1))})
