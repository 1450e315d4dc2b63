"""System `steps`: f = l2(i + α · Σ_k ±(T(phrase_k) − T(anchor))), the planned edits as directions; nothing is trained.

The sign is minus for an edit that takes away (`negation`); T(anchor) is the unit vector of a neutral text, so that a
phrase counts by what it says beyond naming a picture. α is chosen in closed form on the training pairs. The idea of a
difference of two texts as a direction is that of AdaST and of text-guided image editing; one direction per planned edit
is NEUCORE-XL's sum of edits without parameters. Before it is fitted α is 0.
"""

from __future__ import annotations

from torch import Tensor

from neucore_xl.config.schema import Settings
from neucore_xl.language.sequence import OPERATION_INDEX, Operation
from neucore_xl.models.backbone import Backbone
from neucore_xl.models.features import FeatureSet, QueryFeatures
from neucore_xl.models.head import Head, Text
from neucore_xl.models.layers import l2
from neucore_xl.models.names import encode_names
from neucore_xl.models.starts.start import Start

ANCHOR = "a picture"


class Steps(Head):
    """Whether a sequence of edits says more than its sentence, before any head learns to read it."""

    closed_form = True
    reads_sequence = True

    def __init__(self, settings: Settings, backbone: Backbone) -> None:
        super().__init__(settings, backbone, Start(backbone.embed_dim, ("image", "steps"), free=("steps",)))
        self.anchor: Tensor
        self.register_buffer("anchor", l2(encode_names(backbone, [ANCHOR])[0]), persistent=False)

    def moves(self, text: Text) -> Tensor:
        """Σ_k ±(T(phrase_k) − T(anchor)) over the real steps ``[B, D]``, fp32."""
        sequence = text.sequence
        sign = 1.0 - 2.0 * (sequence.operation == OPERATION_INDEX[Operation.NEGATION])
        phrases = l2(text.short_rows(sequence.phrase)) - self.anchor.float()
        return (phrases * (sign * sequence.step_mask)[..., None]).sum(1)

    def parts(self, text: Text) -> dict[str, Tensor]:
        """Also ``steps [B, D]``."""
        return {**super().parts(text), "steps": self.moves(text)}

    def queries(self, references: FeatureSet, text: Text) -> QueryFeatures:
        f = self.start(references["pooled"], l2(text.sentence.pooled), steps=self.moves(text))
        return FeatureSet({"vector": f})
