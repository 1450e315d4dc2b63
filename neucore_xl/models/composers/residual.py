"""System `residual`: f = s + Δ, Δ = MLP([i ; t̂]) zero at the start: the simplest head on the pretrained space.

s is the best closed form of image, text and words (`model.start=auto`, `models/starts/start.py`), or i
(`model.start=image`).
"""

from __future__ import annotations

import torch
from torch import nn

from neucore_xl.config.schema import Settings
from neucore_xl.models.backbone import Backbone
from neucore_xl.models.features import FeatureSet, QueryFeatures
from neucore_xl.models.head import Head, Text
from neucore_xl.models.layers import l2, mlp, unit_variance
from neucore_xl.models.starts.start import Start


class Residual(Head):
    """A floor of NEUCORE-XL, whose direct path contains it (docs/model.md)."""

    def __init__(self, settings: Settings, backbone: Backbone) -> None:
        super().__init__(settings, backbone, Start.of(settings.model, backbone.embed_dim))
        d = backbone.embed_dim
        self.dropout = nn.Dropout(settings.model.dropout)
        self.delta = mlp(2 * d, settings.model.width, d, dropout=settings.model.dropout, zero=True)

    def queries(self, references: FeatureSet, text: Text) -> QueryFeatures:
        both = torch.cat([unit_variance(references["pooled"]), unit_variance(text.sentence.pooled)], -1)
        return FeatureSet({"vector": l2(self.base(references, text) + self.delta(self.dropout(both)))})
