"""System `image-only`: f = i. The reference image alone; what a text adds is measured against it."""

from __future__ import annotations

from neucore_xl.models.features import FeatureSet, QueryFeatures
from neucore_xl.models.head import Head, Text


class ImageOnly(Head):
    """The query is the pretrained pooled feature of the reference; only the temperature is trained."""

    def queries(self, references: FeatureSet, text: Text) -> QueryFeatures:
        return FeatureSet({"vector": references["pooled"]})
