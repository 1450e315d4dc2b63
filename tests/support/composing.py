"""Small composers for tests, moved off their start, and the rows of what they are given."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from neucore_xl.config.schema import Settings
from neucore_xl.data.batches import Batch
from neucore_xl.models.composer import Composer
from neucore_xl.models.features import FeatureSet
from neucore_xl.models.registry import build_composer


def build(backbone: Any, vocabulary: Any, name: str, fusion: str = "clauses", **model: Any) -> Composer:
    """The system ``name``, small, its heads drawn with one seed; ``model``: further settings of that section."""
    torch.manual_seed(0)
    sizes = {"name": name, "width": 16, "heads": 2, "exchange_layers": 1}
    settings = Settings.model_validate({"model": sizes | model, "fusion": {"sequence": fusion}})
    return build_composer(settings, backbone, vocabulary)


def stir(composer: Composer) -> Composer:
    """Move every trained parameter off its initial value, so that no path is still zero."""
    g = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, p in composer.named_parameters():
            if not name.startswith("backbone."):
                p += 0.2 * torch.randn(p.shape, generator=g)
    return composer


def queries(composer: Composer, batch: Batch) -> FeatureSet:
    """The queries of ``batch``, composed from its references."""
    return composer("compose", rows(batch.images, batch.reference), batch.texts, batch.sequence)


def rows(features: Any, index: Tensor | slice) -> Any:
    """The rows of ``features`` at ``index``, of every tensor in it."""
    found = {name: getattr(features, name) for name in features.__dataclass_fields__}
    return type(features)(
        **{n: tuple(level[index] for level in t) if isinstance(t, tuple) else t[index] for n, t in found.items()}
    )
