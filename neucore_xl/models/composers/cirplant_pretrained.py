"""System `cirplant-pretrained`: f = what a pretrained BERT makes of v behind the words, v = l2(F i).

Source: Liu et al., Image Retrieval on Real-life Images with Pre-trained Vision-and-Language Models (ICCV 2021),
section 3.2. The input of the transformer is [W ; v], its word embeddings and one token for the whole image, and the
output *at the image's place* is the query; targets are l2(F y) with the same F. The transformer is the BERT of
`model.language_model`, trained along at `train.lr_backbone`; the paper starts it from OSCAR, whose weights serve here
if they are saved as a BERT. What differs: v enters at length √H, as large as what the embedding's norm makes of a word,
with the position behind the last word and the second segment. The text tower is not read; `model.width` and
`model.exchange_layers` are the BERT's own. The paper's loss is `loss.kind=soft-triplet`.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from neucore_xl.config.schema import Settings
from neucore_xl.data.batches import ImageFeatures
from neucore_xl.language.bert import LanguageModel
from neucore_xl.models.backbone import Backbone
from neucore_xl.models.features import FeatureSet, QueryFeatures, TargetFeatures
from neucore_xl.models.head import Head, Text
from neucore_xl.models.layers import l2, unit_variance


class CirplantPretrained(Head):
    """`cirplant` whose transformer knows language before it sees an image."""

    needs_language_model = True

    def __init__(self, settings: Settings, backbone: Backbone) -> None:
        super().__init__(settings, backbone)
        self.language = LanguageModel(settings.model)
        self.language_tokenizer = self.language.tokenizer
        self.image = nn.Linear(backbone.embed_dim, self.language.width)

    def pretrained_parameters(self) -> Iterable[nn.Parameter]:
        return self.language.parameters()

    def look(self, images: ImageFeatures) -> FeatureSet:
        """``vector [U, H]``: v, of unit length."""
        return FeatureSet({"vector": l2(self.image(unit_variance(images.pooled)))})

    def targets(self, images: FeatureSet) -> TargetFeatures:
        return images

    def queries(self, references: FeatureSet, text: Text) -> QueryFeatures:
        x, _ = self.language(text.language_ids, unit_variance(references["vector"]))
        return FeatureSet({"vector": l2(x[:, -1])})
