"""System `film`: X' = X + ReLU((1 + γ(t̂)) ⊙ C X + β(t̂)) on the tokens; f = F · mean of X'.

Source: Perez et al., FiLM: Visual Reasoning with a General Conditioning Layer (AAAI 2018), as a baseline of composed
retrieval in Vo et al. (CVPR 2019): the residual block of the paper behind the image tower, γ and β linear in t̂, then
the mean and a linear map F. What differs: C is a linear map of each token where the paper has convolutions, since the
tokens of a transformer have seen their neighbours; targets keep their pretrained feature.
"""

from __future__ import annotations

from torch import nn
from torch.nn import functional as F

from neucore_xl.config.schema import Settings
from neucore_xl.data.batches import ImageFeatures
from neucore_xl.models.backbone import Backbone
from neucore_xl.models.features import FeatureSet, QueryFeatures
from neucore_xl.models.head import Head, Text
from neucore_xl.models.layers import l2, token_projection, unit_variance


class Film(Head):
    """The text scales and shifts every channel of the image's tokens."""

    def __init__(self, settings: Settings, backbone: Backbone) -> None:
        super().__init__(settings, backbone)
        d, joint = settings.model.width, backbone.embed_dim
        self.image_tokens = token_projection(backbone.token_width, d)
        self.modulation = nn.Linear(joint, 2 * d)
        self.content = nn.Linear(d, d)
        self.dropout = nn.Dropout(settings.model.dropout)
        self.out = nn.Linear(d, joint)

    def look(self, images: ImageFeatures) -> FeatureSet:
        """``pooled [U, D]`` for targets, ``tokens [U, N, d]``."""
        return FeatureSet({"pooled": l2(images.pooled), "tokens": self.image_tokens(images.tokens)})

    def queries(self, references: FeatureSet, text: Text) -> QueryFeatures:
        x = references["tokens"]
        gamma, beta = self.modulation(unit_variance(text.sentence.pooled))[:, None].chunk(2, -1)
        x = x + F.relu((1 + gamma) * self.content(x) + beta)
        return FeatureSet({"vector": l2(self.out(self.dropout(x.mean(1))))})
