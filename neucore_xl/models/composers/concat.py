"""System `concat`: f = MLP([i ; t̂]), a two-layer perceptron with ReLU (the baseline of TIRG, Vo et al., 2019)."""

from __future__ import annotations

import torch
from torch import nn

from neucore_xl.config.schema import Settings
from neucore_xl.models.backbone import Backbone
from neucore_xl.models.features import FeatureSet, QueryFeatures
from neucore_xl.models.head import Head, Text
from neucore_xl.models.layers import l2, mlp, unit_variance


class Concat(Head):
    """The query is learned from nothing but the two pooled features; targets keep their pretrained feature."""

    def __init__(self, settings: Settings, backbone: Backbone) -> None:
        super().__init__(settings, backbone)
        d = backbone.embed_dim
        self.mlp = mlp(2 * d, settings.model.width, d, dropout=settings.model.dropout, activation=nn.ReLU)

    def queries(self, references: FeatureSet, text: Text) -> QueryFeatures:
        both = torch.cat([unit_variance(references["pooled"]), unit_variance(text.sentence.pooled)], -1)
        return FeatureSet({"vector": l2(self.mlp(both))})
