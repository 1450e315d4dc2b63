"""Systems `maaf`, `maaf-it`, `maaf-rp`, `maaf-bert`: one transformer over the tokens of two depths and the words.

[X'_1 ; X'_2 ; W'] = Transformer([X_1 ; X_2 ; W]).
`maaf`: f = mean of (mean of X'_1, mean of X'_2, mean of W'), pooled resolution by resolution; `maaf-it`: the same
without W'; `maaf-rp`: f = ½ (mean of all of X'_1 and X'_2 + mean of W'); `maaf-bert`: `maaf` with W from the BERT of
`model.language_model`. A target is pooled alike from Transformer([X_1 ; X_2]), without text. Source: Dodds et al.,
Modality-Agnostic Attention Fusion for visual search with text feedback (2020); the names of the variants are those of
Liu et al. (ICCV 2021).

What differs: tokens and words are the tower's, which know their places, so none get positions here; each depth has a
projection of its own. Two depths are read where the backbone has them, as the paper reads the last two or three stages
of a ResNet; with one, `maaf-rp` is `maaf`. Layers: `model.exchange_layers`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor, nn

from neucore_xl.config.schema import Settings
from neucore_xl.data.batches import ImageFeatures
from neucore_xl.language.bert import LanguageModel
from neucore_xl.models.backbone import Backbone
from neucore_xl.models.features import FeatureSet, QueryFeatures, TargetFeatures
from neucore_xl.models.head import Head, Text
from neucore_xl.models.layers import Transformer, l2, token_projection


class Maaf(Head):
    """Attention that does not ask which token is a place and which a word."""

    levels: ClassVar[int] = 2
    pools_words: ClassVar[bool] = True
    by_resolution: ClassVar[bool] = True

    def __init__(self, settings: Settings, backbone: Backbone) -> None:
        super().__init__(settings, backbone)
        model, d = settings.model, settings.model.width
        *earlier, last = backbone.token_widths[-self.levels :]
        self.image_tokens = token_projection(last, d)
        self.earlier_tokens = nn.ModuleList(token_projection(width, d) for width in earlier)
        self.words = token_projection(self.open_words(settings, backbone), d)
        self.transformer = Transformer(d, model.heads, model.exchange_layers, model.dropout)

    def open_words(self, settings: Settings, backbone: Backbone) -> int:
        """Prepare what ``read`` reads with, and return the width of its words."""
        return backbone.word_width

    def read(self, text: Text) -> tuple[Tensor, Tensor]:
        """Words ``[B, L, Dt]`` and their mask ``[B, L]``."""
        return text.sentence.words, text.sentence.mask

    def look(self, images: ImageFeatures) -> FeatureSet:
        """``tokens [U, N, d]`` of the last depth, and ``tokens0 [U, N_0, d]`` of the one before it, if it is read."""
        depths = (*images.levels, images.tokens)[-len(self.earlier_tokens) - 1 : -1]
        earlier = {f"tokens{k}": into(x) for k, (into, x) in enumerate(zip(self.earlier_tokens, depths, strict=True))}
        return FeatureSet({"tokens": self.image_tokens(images.tokens), **earlier})

    def targets(self, images: FeatureSet) -> TargetFeatures:
        depths = list(images.values())
        pools = self.pools(self.transformer(torch.cat(depths, 1)), depths)
        return FeatureSet({"vector": l2(torch.stack(pools).mean(0))})

    def queries(self, references: FeatureSet, text: Text) -> QueryFeatures:
        depths, (words, real) = list(references.values()), self.read(text)
        tokens = torch.cat(depths, 1)
        n = tokens.shape[1]
        mask = torch.cat([real.new_ones(len(real), n), real], 1)
        x = self.transformer(torch.cat([tokens, self.words(words)], 1), mask)
        pools = self.pools(x[:, :n], depths)
        if self.pools_words:
            pools.append(_mean(x[:, n:], real))
        return FeatureSet({"vector": l2(torch.stack(pools).mean(0))})

    def pools(self, x: Tensor, depths: list[Tensor]) -> list[Tensor]:
        """The means ``[B, d]`` of the image's places ``x [B, N, d]``: one a depth, or one of all."""
        if not self.by_resolution:
            return [x.mean(1)]
        return [part.mean(1) for part in x.split([depth.shape[1] for depth in depths], 1)]


class MaafIt(Maaf):
    """`maaf` without the words in what is pooled at the end ("-IT")."""

    pools_words = False


class MaafRp(Maaf):
    """`maaf` that pools all places alike, whatever their resolution ("-RP")."""

    by_resolution = False


class MaafBert(Maaf):
    """`maaf` with the words of a pretrained BERT, trained along, in place of the text tower's ("-BERT")."""

    needs_language_model = True

    def open_words(self, settings: Settings, backbone: Backbone) -> int:
        self.language = LanguageModel(settings.model)
        self.language_tokenizer = self.language.tokenizer
        return self.language.width

    def pretrained_parameters(self) -> Iterable[nn.Parameter]:
        return self.language.parameters()

    def read(self, text: Text) -> tuple[Tensor, Tensor]:
        words: tuple[Tensor, Tensor] = self.language(text.language_ids)
        return words


def _mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of ``x [B, L, d]`` over the places where ``mask [B, L]``."""
    weight = mask[..., None].to(x.dtype)
    return (x * weight).sum(1) / weight.sum(1)
