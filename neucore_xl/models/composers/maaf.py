"""Systems `maaf` and `maaf-it`: one transformer over image tokens and words, [X' ; W'] = Transformer([X ; W]).

`maaf`: f = ½ (mean of X' + mean of W'); `maaf-it`: f = mean of X'. Targets are the mean of Transformer(X), without
text. Source: Dodds et al., Modality-Agnostic Attention Fusion for visual search with text feedback (2020); the names
of the variants are those of Liu et al. (ICCV 2021). What differs: tokens and words are the tower's; they come from one
depth, where the paper takes two or three resolutions of a ResNet. Its pooling resolution by resolution is then the
plain mean, so that the variant `maaf-rp` would be `maaf` itself; `maaf-bert` would need BERT's words beside the
tower's. Layers: `model.exchange_layers`. Neither tokens nor words get positions here: both know theirs.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from neucore_xl.config.schema import Settings
from neucore_xl.data.batches import ImageFeatures
from neucore_xl.models.backbone import Backbone
from neucore_xl.models.features import FeatureSet, QueryFeatures, TargetFeatures
from neucore_xl.models.head import Head, Text
from neucore_xl.models.layers import Transformer, l2, token_projection


class Maaf(Head):
    """Attention that does not ask which token is a place and which a word."""

    pools_words: ClassVar[bool] = True

    def __init__(self, settings: Settings, backbone: Backbone) -> None:
        super().__init__(settings, backbone)
        model, d = settings.model, settings.model.width
        self.image_tokens = token_projection(backbone.token_width, d)
        self.words = token_projection(backbone.word_width, d)
        self.transformer = Transformer(d, model.heads, model.exchange_layers, model.dropout)

    def look(self, images: ImageFeatures) -> FeatureSet:
        """``tokens [U, N, d]``."""
        return FeatureSet({"tokens": self.image_tokens(images.tokens)})

    def targets(self, images: FeatureSet) -> TargetFeatures:
        return FeatureSet({"vector": l2(self.transformer(images["tokens"]).mean(1))})

    def queries(self, references: FeatureSet, text: Text) -> QueryFeatures:
        tokens, real = references["tokens"], text.sentence.mask
        n = tokens.shape[1]
        mask = torch.cat([real.new_ones(len(real), n), real], 1)
        x = self.transformer(torch.cat([tokens, self.words(text.sentence.words)], 1), mask)
        f = x[:, :n].mean(1)
        if self.pools_words:
            f = (f + _mean(x[:, n:], real)) / 2
        return FeatureSet({"vector": l2(f)})


class MaafIt(Maaf):
    """`maaf` without the words in what is pooled at the end ("-IT")."""

    pools_words = False


def _mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of ``x [B, L, d]`` over the places where ``mask [B, L]``."""
    weight = mask[..., None].to(x.dtype)
    return (x * weight).sum(1) / weight.sum(1)
