"""System `text-only`: f = t̂. The sentence alone; what a reference image adds is measured against it."""

from __future__ import annotations

from neucore_xl.models.features import FeatureSet, QueryFeatures
from neucore_xl.models.head import Head, Text
from neucore_xl.models.layers import l2


class TextOnly(Head):
    """The query is the pretrained pooled feature of the sentence; only the temperature is trained."""

    def queries(self, references: FeatureSet, text: Text) -> QueryFeatures:
        return FeatureSet({"vector": l2(text.sentence.pooled)})
