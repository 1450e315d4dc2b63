"""System `tcir`: c_n = Σ_l softmax_l(v_n · w_l / √d) w_l; f = F · mean over n of g_n ⊙ v_n + (1 − g_n) ⊙ c_n.

v_n = image regions and w_l = words in one space of width d, g_n = σ(G[v_n ; c_n]), F linear. Source: the row "TCIR" of
Zhao and Xu (NEUCORE, 2023), which stands for Chawla et al., Leveraging Style and Content features for Text Conditioned
Image Retrieval (CVPRW 2021). The papers of this project give a row of figures and no equation. This is built from
what the literature says of the system in a sentence, attention over image regions and words in a shared space, fused
by a gated sum; its hierarchy of depths and its separate style are not here, and the published figures are not to be
expected. Targets keep their pretrained feature.
"""

from __future__ import annotations

import torch
from torch import nn

from neucore_xl.config.schema import Settings
from neucore_xl.data.batches import ImageFeatures
from neucore_xl.models.backbone import Backbone
from neucore_xl.models.features import FeatureSet, QueryFeatures
from neucore_xl.models.head import Head, Text
from neucore_xl.models.layers import l2, token_projection


class Tcir(Head):
    """Every region reads the words, and a gate says how much of it they replace."""

    def __init__(self, settings: Settings, backbone: Backbone) -> None:
        super().__init__(settings, backbone)
        d = settings.model.width
        self.image_tokens = token_projection(backbone.token_width, d)
        self.words = token_projection(backbone.word_width, d)
        self.gate = nn.Linear(2 * d, d)
        self.dropout = nn.Dropout(settings.model.dropout)
        self.out = nn.Linear(d, backbone.embed_dim)

    def look(self, images: ImageFeatures) -> FeatureSet:
        """``pooled [U, D]`` for targets, ``tokens [U, N, d]``."""
        return FeatureSet({"pooled": l2(images.pooled), "tokens": self.image_tokens(images.tokens)})

    def queries(self, references: FeatureSet, text: Text) -> QueryFeatures:
        regions, words = references["tokens"], self.words(text.sentence.words)
        logits = (regions @ words.transpose(1, 2)).float() * words.shape[-1] ** -0.5
        weights = logits.masked_fill(~text.sentence.mask[:, None], -torch.inf).softmax(-1)
        # a masked word has weight 0, whatever stands in its place
        said = weights.to(words.dtype) @ words
        gate = self.gate(torch.cat([regions, said], -1)).sigmoid()
        fused = gate * regions + (1 - gate) * said
        return FeatureSet({"vector": l2(self.out(self.dropout(fused.mean(1))))})
