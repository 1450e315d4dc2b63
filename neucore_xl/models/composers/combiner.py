"""System `combiner`: f = l2(W_o ReLU(W_c m) + λ · t̂ + (1 − λ) · i), m = [ReLU(P_t t̂) ; ReLU(P_i i)], λ = σ(MLP(m)).

Source: Baldrati et al., Effective conditioned and composed image retrieval combining CLIP-based features (CVPR 2022)
and Conditioned and composed image retrieval combining and partially fine-tuning CLIP-based features (CVPRW 2022). What
differs: `model.width` for the projections and the hidden layers (the original: four times and eight times the joint
width), `model.dropout` for its 0.5. i and t̂ are at length √D, as large beside W_o as CLIP's own features are before
they are normalised.
"""

from __future__ import annotations

import torch
from torch import nn

from neucore_xl.config.schema import Settings
from neucore_xl.models.backbone import Backbone
from neucore_xl.models.features import FeatureSet, QueryFeatures
from neucore_xl.models.head import Head, Text
from neucore_xl.models.layers import l2, mlp, unit_variance


class Combiner(Head):
    """A learned blend of image and text, and what neither of them says alone."""

    def __init__(self, settings: Settings, backbone: Backbone) -> None:
        super().__init__(settings, backbone)
        d, joint, dropout = settings.model.width, backbone.embed_dim, settings.model.dropout
        self.text = nn.Sequential(nn.Linear(joint, d), nn.ReLU(), nn.Dropout(dropout))
        self.image = nn.Sequential(nn.Linear(joint, d), nn.ReLU(), nn.Dropout(dropout))
        self.combination = mlp(2 * d, d, joint, dropout=dropout, activation=nn.ReLU)
        self.share = mlp(2 * d, d, 1, dropout=dropout, activation=nn.ReLU)

    def queries(self, references: FeatureSet, text: Text) -> QueryFeatures:
        i, t = unit_variance(references["pooled"]), unit_variance(text.sentence.pooled)
        both = torch.cat([self.text(t), self.image(i)], -1)
        share = self.share(both).float().sigmoid()
        return FeatureSet({"vector": l2(self.combination(both) + share * t + (1 - share) * i)})
