"""System `artemis`: s = ⟨l2(W t̂), l2(A_E ⊙ y)⟩ + ⟨l2(A_I ⊙ i), l2(A_I ⊙ y)⟩, A = softmax of MLP(t̂), one for each.

Source: Delmas et al., ARTEMIS: Attention-based Retrieval with Text-Explicit Matching and Implicit Similarity (ICLR
2022). Explicit matching asks the target for what the text says, implicit similarity for what the
text leaves of the reference. Over all pairs each term is two matrix products (`models/matching.py`). What differs: i,
t̂ and y are the tower's pooled features. `model.score=cosine` takes ⟨l2(l2(W t̂) ⊙ A_E + l2(A_I ⊙ i) ⊙ A_I), y⟩, the
same but for the length of A ⊙ y, as one inner product.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from neucore_xl.config.schema import Settings
from neucore_xl.models import matching
from neucore_xl.models.backbone import Backbone
from neucore_xl.models.features import FeatureSet, QueryFeatures, TargetFeatures
from neucore_xl.models.head import Head, Text
from neucore_xl.models.layers import l2, mlp, unit_variance


class Artemis(Head):
    """No composition: two scores, weighed channel by channel by the text."""

    def __init__(self, settings: Settings, backbone: Backbone) -> None:
        super().__init__(settings, backbone)
        model, d = settings.model, backbone.embed_dim
        self.asked = nn.Linear(d, d)
        self.explicit = mlp(d, model.width, d, dropout=model.dropout, activation=nn.ReLU)
        self.implicit = mlp(d, model.width, d, dropout=model.dropout, activation=nn.ReLU)

    def queries(self, references: FeatureSet, text: Text) -> QueryFeatures:
        """For the full score ``explicit`` and ``implicit [B, D]``: the query's side times A; ``…_attention``: A."""
        t = unit_variance(text.sentence.pooled)
        a_explicit, a_implicit = _attention(self.explicit(t)), _attention(self.implicit(t))
        explicit = l2(self.asked(t)) * a_explicit
        implicit = l2(a_implicit * references["pooled"]) * a_implicit
        features = {"vector": l2(explicit + implicit)}
        if self.score_mode == "full":
            features |= {"explicit": explicit, "explicit_attention": a_explicit}
            features |= {"implicit": implicit, "implicit_attention": a_implicit}
        return FeatureSet(features)

    def score(self, queries: QueryFeatures, targets: TargetFeatures) -> Tensor:
        if self.score_mode == "cosine":
            return super().score(queries, targets)
        with torch.autocast(queries["vector"].device.type, enabled=False):
            t = targets["vector"].float()
            terms = [
                matching.attended(queries[name].float(), queries[f"{name}_attention"].float(), t)
                for name in ("explicit", "implicit")
            ]
            return terms[0] + terms[1]


def _attention(logits: Tensor) -> Tensor:
    """Softmax over the channels, in fp32; at mean 1 instead of sum 1, which changes no score."""
    return logits.float().softmax(-1) * logits.shape[-1]
