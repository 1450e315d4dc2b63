"""System `sum`: f = l2(i + g · t̂), g chosen in closed form on the training pairs; nothing is trained.

Source: the additive baseline of Baldrati et al. (CVPRW 2022), there with g = 1. Before it is fitted g is 0.
"""

from __future__ import annotations

from neucore_xl.config.schema import Settings
from neucore_xl.models.backbone import Backbone
from neucore_xl.models.features import FeatureSet, QueryFeatures
from neucore_xl.models.head import Head, Text
from neucore_xl.models.layers import l2
from neucore_xl.models.starts.start import Start


class Sum(Head):
    """One number decides how much the sentence counts beside the image."""

    closed_form = True

    def __init__(self, settings: Settings, backbone: Backbone) -> None:
        super().__init__(settings, backbone, Start(backbone.embed_dim, ("image", "text"), free=("text",)))

    def queries(self, references: FeatureSet, text: Text) -> QueryFeatures:
        return FeatureSet({"vector": self.start(references["pooled"], l2(text.sentence.pooled))})
