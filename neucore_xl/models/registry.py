"""The rows of the results table by name. A new system is one file in ``composers`` and one line here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from neucore_xl.config.schema import Settings
from neucore_xl.errors import UserError, did_you_mean, nearest
from neucore_xl.models.backbone import Backbone
from neucore_xl.models.composer import Composer
from neucore_xl.models.composers.concat import Concat
from neucore_xl.models.composers.image_only import ImageOnly
from neucore_xl.models.composers.neucore import Neucore
from neucore_xl.models.composers.neucore_xl import NeucoreXL
from neucore_xl.models.composers.residual import Residual
from neucore_xl.models.composers.text_only import TextOnly

if TYPE_CHECKING:
    from neucore_xl.language.vocabulary import Vocabulary

_PLAIN: dict[str, Callable[[Settings, Backbone], Composer]] = {
    "image-only": ImageOnly,
    "text-only": TextOnly,
    "concat": Concat,
    "residual": Residual,
}
_ALIGNING: dict[str, Callable[[Settings, Backbone, Tensor], Composer]] = {
    "neucore-xl": NeucoreXL,
    "neucore": Neucore,
}


def composer_names() -> tuple[str, ...]:
    """Every row that ``model.name`` may ask for."""
    return (*_ALIGNING, *_PLAIN)


def build_composer(settings: Settings, backbone: Backbone, vocabulary: Vocabulary) -> Composer:
    """The composer ``settings.model.name`` on ``backbone``, its heads freshly initialised.

    Rows that align concepts hold the pretrained text features ``[C, D]`` of the vocabulary's names, encoded here on
    the device the backbone is on; none are encoded when ``loss.concept_weight`` is 0.

    Raises ``UserError`` for an unknown row, with the nearest known one.
    """
    names = vocabulary.names if settings.loss.concept_weight > 0 else ()
    return composer_of(settings, backbone, lambda: encode_names(backbone, names))


def composer_of(settings: Settings, backbone: Backbone, concepts: Callable[[], Tensor]) -> Composer:
    """The composer on ``backbone``; ``concepts`` gives the features ``[C, D]`` of rows that align concepts."""
    name = settings.model.name
    if name in _PLAIN:
        return _PLAIN[name](settings, backbone)
    if name in _ALIGNING:
        return _ALIGNING[name](settings, backbone, concepts())
    hint = did_you_mean(nearest(name, composer_names(), cutoff=0.0))
    raise UserError(f"model.name: no system {name!r}{hint} (There are {', '.join(composer_names())}.)")


CHUNK = 256


@torch.no_grad()
def encode_names(backbone: Backbone, names: Sequence[str]) -> Tensor:
    """Pooled text features ``[C, D]`` (not normalised) of C names, in chunks, on the device the backbone is on."""
    device = next(backbone.parameters()).device
    training = backbone.training
    backbone.eval()
    parts = [
        backbone.encode_texts(backbone.tokenizer(list(names[i : i + CHUNK])).to(device)).pooled.float()
        for i in range(0, len(names), CHUNK)
    ]
    backbone.train(training)
    return torch.cat(parts) if parts else torch.zeros(0, backbone.embed_dim, device=device)
