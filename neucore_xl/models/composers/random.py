"""System `random`: the head of `tirg` as it was drawn, on pretrained features.

Source: row "Random (init. ResNet)" of Liu et al., Image Retrieval on Real-life Images with Pre-trained
Vision-and-Language Models (ICCV 2021): pretrained features, random weights for all other parameters. The other random
row of that table, theoretical chance, needs no model. The weights are drawn with `train.seed` and stored with a
checkpoint; with frozen towers only θ is trained, which changes no ranking.
"""

from __future__ import annotations

from torch import nn

from neucore_xl.config.schema import Settings
from neucore_xl.models.backbone import Backbone
from neucore_xl.models.composers.tirg import GatedResidual
from neucore_xl.models.features import FeatureSet, QueryFeatures
from neucore_xl.models.head import Head, Text
from neucore_xl.models.layers import l2, unit_variance


class Random(Head):
    """What a composition that has learned nothing leaves of the pretrained space."""

    def __init__(self, settings: Settings, backbone: Backbone) -> None:
        super().__init__(settings, backbone)
        self.composition = _as_drawn(GatedResidual(backbone.embed_dim))

    def queries(self, references: FeatureSet, text: Text) -> QueryFeatures:
        i, t = unit_variance(references["pooled"]), unit_variance(text.sentence.pooled)
        return FeatureSet({"vector": l2(self.composition(i, t))})


def _as_drawn(module: nn.Module) -> nn.Module:
    """``module`` with buffers in place of its parameters: no optimiser moves them, and checkpoints hold them."""
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            delattr(part, name)
            part.register_buffer(name, parameter.detach())
    return module
