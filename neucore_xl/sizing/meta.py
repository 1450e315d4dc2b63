"""The model of a recipe as shapes only: parameters on torch's meta device, no weights, no download, no memory.

What a plan is made of: every parameter has the name, shape and ``requires_grad`` of the real model's.
"""

from __future__ import annotations

import torch

from neucore_xl.config.schema import BackboneSettings, Settings
from neucore_xl.data.features.folder import FeatureFolder
from neucore_xl.models.backbone import Backbone
from neucore_xl.models.composer import Composer
from neucore_xl.models.given import GivenImages
from neucore_xl.models.registry import composer_class, composer_of
from neucore_xl.models.towers import outline_model


def meta_backbone(settings: BackboneSettings, tokens: int | None = None, *, levels: int = 1) -> Backbone:
    """``build_backbone`` of the same arguments on the meta device; ids of its tokenizer are zeros ``[B, L]``.

    Raises ``UserError`` for an unknown name or tag, an unreadable config, and a text tower whose architecture is
    not on this machine, and ``backbone.features`` that are no folder of features.
    """
    given = None if settings.features is None else GivenImages(FeatureFolder(settings.features), tokens)
    with torch.device("meta"):
        opened = outline_model(settings)
        return Backbone(
            opened, settings.freeze, settings.activation_checkpointing, settings.lora,
            tokens=tokens, given=given, levels=levels,
        )  # fmt: skip


def meta_composer(settings: Settings, vocabulary_size: int) -> tuple[Composer, Backbone]:
    """The composer of ``settings`` on the meta device, and its backbone.

    ``vocabulary_size``: concepts C of the training sentences, whose features a system that aligns concepts holds.
    Raises ``UserError`` as ``meta_backbone`` does, and for an unknown system.
    """
    levels = composer_class(settings.model.name).levels
    backbone = meta_backbone(settings.backbone, settings.model.tokens, levels=levels)
    with torch.device("meta"):
        count = vocabulary_size if settings.loss.concept_weight > 0 else 0
        # made on the CPU: autocast, which the heads switch off around their norms, knows no meta device
        composer = composer_of(settings, backbone, lambda: torch.zeros(count, backbone.embed_dim, device="cpu"))
    return composer.to("meta"), backbone
