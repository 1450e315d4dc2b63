"""System `product`: s = ⟨i, y⟩ · ⟨t̂, y⟩, the product of the image's and the sentence's similarity; nothing is trained.

Source: the plain baseline of BASIC (Psomas et al., Instance-level composed image retrieval, 2025), which centres and
projects the features before. It is no inner product of one query: `model.score=cosine` changes nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from neucore_xl.models.features import FeatureSet, QueryFeatures, TargetFeatures
from neucore_xl.models.head import Head, Text
from neucore_xl.models.layers import l2


class Product(Head):
    """An image must answer both; neither can make up for the other."""

    closed_form = True

    def queries(self, references: FeatureSet, text: Text) -> QueryFeatures:
        """``vector [B, D]``: i, and ``text [B, D]``: t̂."""
        return FeatureSet({"vector": references["pooled"], "text": l2(text.sentence.pooled)})

    def score(self, queries: QueryFeatures, targets: TargetFeatures) -> Tensor:
        with torch.autocast(queries["vector"].device.type, enabled=False):
            t = targets["vector"].float().T
            return (queries["vector"].float() @ t) * (queries["text"].float() @ t)
