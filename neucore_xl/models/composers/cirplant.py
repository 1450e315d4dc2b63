"""System `cirplant` (from scratch): f = what a transformer over [W ; v] makes of v, v = l2(F i).

Source: Liu et al., Image Retrieval on Real-life Images with Pre-trained Vision-and-Language Models (ICCV 2021),
section 3.2, the row without initialisation. One token stands for the whole image, v = l2(F i) with F linear, and the
output *at its place* is the query; targets are l2(F y) with the same F. What differs: the words are those of the text
tower, which know their places, so none are added; the blocks normalise before attention, so that v passes through them
as a sum; `model.exchange_layers` layers and `model.width` in place of BERT's 12 and 768. The paper's loss is
`loss.kind=soft-triplet`; its second row, from a pretrained language transformer, is `cirplant-pretrained`.
"""

from __future__ import annotations

import torch
from torch import nn

from neucore_xl.config.schema import Settings
from neucore_xl.data.batches import ImageFeatures
from neucore_xl.models.backbone import Backbone
from neucore_xl.models.features import FeatureSet, QueryFeatures, TargetFeatures
from neucore_xl.models.head import Head, Text
from neucore_xl.models.layers import Block, l2, token_projection, unit_variance


class Cirplant(Head):
    """The image's token is changed by the words that it attends to."""

    def __init__(self, settings: Settings, backbone: Backbone) -> None:
        super().__init__(settings, backbone)
        model, d = settings.model, settings.model.width
        self.image = nn.Linear(backbone.embed_dim, d)
        self.words = token_projection(backbone.word_width, d)
        self.kind = nn.Parameter(torch.randn(2, d) * 0.02)  # of a word, of the image
        self.blocks = nn.ModuleList(Block(d, model.heads, model.dropout) for _ in range(model.exchange_layers))

    def look(self, images: ImageFeatures) -> FeatureSet:
        """``vector [U, d]``: v, of unit length."""
        return FeatureSet({"vector": l2(self.image(unit_variance(images.pooled)))})

    def targets(self, images: FeatureSet) -> TargetFeatures:
        return images

    def queries(self, references: FeatureSet, text: Text) -> QueryFeatures:
        words = self.words(text.sentence.words) + self.kind[0]
        image = unit_variance(references["vector"]) + self.kind[1]
        real = text.sentence.mask
        x, mask = torch.cat([words, image[:, None]], 1), torch.cat([real, real.new_ones(len(real), 1)], 1)
        for block in self.blocks:
            x = block(x, mask)
        return FeatureSet({"vector": l2(x[:, -1])})
