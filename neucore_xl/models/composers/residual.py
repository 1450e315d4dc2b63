"""System `residual`: f = i + Δ, Δ = MLP([i ; t̂]) zero at the start: the simplest head on the pretrained space."""

from __future__ import annotations

import torch

from neucore_xl.config.schema import Settings
from neucore_xl.models.backbone import Backbone
from neucore_xl.models.features import FeatureSet, QueryFeatures
from neucore_xl.models.head import Head, Text
from neucore_xl.models.layers import l2, mlp, unit_variance


class Residual(Head):
    """A floor of NEUCORE-XL, whose direct path contains it (docs/model.md)."""

    def __init__(self, settings: Settings, backbone: Backbone) -> None:
        super().__init__(settings, backbone)
        d = backbone.embed_dim
        self.delta = mlp(2 * d, settings.model.width, d, dropout=settings.model.dropout, zero=True)

    def queries(self, references: FeatureSet, text: Text) -> QueryFeatures:
        i = references["pooled"]
        both = torch.cat([unit_variance(i), unit_variance(text.sentence.pooled)], -1)
        return FeatureSet({"vector": l2(i + self.delta(both))})
