"""Systems `ridge` and `ridge-words`: f = l2(W x), ridge regression to the target's feature in closed form.

`ridge`: x = [i ; t̂ ; 1]; `ridge-words`: x = [i ; tf-idf of the sentence's words ; 1]. λ is chosen on a held-out part of
the training pairs, then W is fitted on all of them (`models/starts/ridge.py`); no step follows a gradient. What a
trained head does not beat, it has not learned. Before it is fitted f is i.
"""

from __future__ import annotations

from typing import ClassVar

from neucore_xl.config.schema import Settings
from neucore_xl.models.backbone import Backbone
from neucore_xl.models.features import FeatureSet, QueryFeatures
from neucore_xl.models.head import Head, Text
from neucore_xl.models.layers import l2
from neucore_xl.models.starts.start import Part, Start


class Ridge(Head):
    """The best linear guess of the target's feature, from the pooled features of image and sentence."""

    closed_form = True
    reads: ClassVar[Part] = "ridge"

    def __init__(self, settings: Settings, backbone: Backbone) -> None:
        super().__init__(settings, backbone, Start(backbone.embed_dim, (self.reads,)))

    def queries(self, references: FeatureSet, text: Text) -> QueryFeatures:
        f = self.start(references["pooled"], l2(text.sentence.pooled), text.sequence.words)
        return FeatureSet({"vector": f})


class RidgeWords(Ridge):
    """The same from the words of the sentence, which a pooled feature does not tell apart."""

    reads = "words"
