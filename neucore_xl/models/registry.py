"""The systems by name. A new one is a file in ``composers`` and a line here, or a class in a module of your own."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor

from neucore_xl.config.schema import Settings
from neucore_xl.errors import UserError, did_you_mean, nearest
from neucore_xl.models.backbone import Backbone
from neucore_xl.models.composer import Composer
from neucore_xl.models.composers.artemis import Artemis
from neucore_xl.models.composers.cirplant import Cirplant
from neucore_xl.models.composers.cirplant_pretrained import CirplantPretrained
from neucore_xl.models.composers.combiner import Combiner
from neucore_xl.models.composers.composeae import ComposeAE
from neucore_xl.models.composers.concat import Concat
from neucore_xl.models.composers.cosmo import Cosmo
from neucore_xl.models.composers.film import Film
from neucore_xl.models.composers.image_only import ImageOnly
from neucore_xl.models.composers.maaf import Maaf, MaafBert, MaafIt, MaafRp
from neucore_xl.models.composers.mrn import Mrn
from neucore_xl.models.composers.neucore import Neucore
from neucore_xl.models.composers.neucore_xl import NeucoreXL
from neucore_xl.models.composers.product import Product
from neucore_xl.models.composers.random import Random
from neucore_xl.models.composers.random_image_text import RandomImageText
from neucore_xl.models.composers.relationship import Relationship
from neucore_xl.models.composers.residual import Residual
from neucore_xl.models.composers.ridge import Ridge, RidgeWords
from neucore_xl.models.composers.steps import Steps
from neucore_xl.models.composers.sum import Sum
from neucore_xl.models.composers.tcir import Tcir
from neucore_xl.models.composers.text_only import TextOnly
from neucore_xl.models.composers.tirg import Tirg
from neucore_xl.models.composers.tirg_lastconv import TirgLastConv
from neucore_xl.models.composers.val import Val
from neucore_xl.models.names import encode_names

if TYPE_CHECKING:
    from neucore_xl.language.vocabulary import Vocabulary

_COMPOSERS: dict[str, type[Composer]] = {
    "neucore-xl": NeucoreXL,
    "neucore": Neucore,
    "image-only": ImageOnly,
    "text-only": TextOnly,
    "concat": Concat,
    "residual": Residual,
    "random": Random,
    "random-image-text": RandomImageText,
    "tirg": Tirg,
    "tirg-lastconv": TirgLastConv,
    "mrn": Mrn,
    "film": Film,
    "relationship": Relationship,
    "maaf": Maaf,
    "maaf-it": MaafIt,
    "maaf-rp": MaafRp,
    "maaf-bert": MaafBert,
    "val": Val,
    "composeae": ComposeAE,
    "cosmo": Cosmo,
    "artemis": Artemis,
    "tcir": Tcir,
    "cirplant": Cirplant,
    "cirplant-pretrained": CirplantPretrained,
    "combiner": Combiner,
    "product": Product,
    "sum": Sum,
    "steps": Steps,
    "ridge": Ridge,
    "ridge-words": RidgeWords,
}


def composer_names() -> tuple[str, ...]:
    """Every system that comes with the package, by the name that ``model.name`` asks for."""
    return tuple(_COMPOSERS)


def composer_class(name: str) -> type[Composer]:
    """The class that ``model.name`` asks for: by its name here, or as ``module:Class`` in a module of your own.

    Raises ``UserError`` for an unknown name, with the nearest known one, and for what cannot be imported or is no
    ``Composer``.
    """
    if name in _COMPOSERS:
        return _COMPOSERS[name]
    if ":" in name:
        return _imported(name)
    hint = did_you_mean(nearest(name, composer_names(), cutoff=0.0))
    raise UserError(
        f"model.name: no system {name!r}{hint} (There are {', '.join(composer_names())}, or module:Class for one of "
        "your own.)"
    )


def build_composer(settings: Settings, backbone: Backbone, vocabulary: Vocabulary) -> Composer:
    """The composer ``settings.model.name`` on ``backbone``, its heads freshly initialised.

    Systems that align concepts hold the pretrained text features ``[C, D]`` of the vocabulary's names, encoded here
    on the device the backbone is on; none are encoded when ``loss.concept_weight`` is 0.

    Raises ``UserError`` as ``composer_class`` does, and for a backbone of fewer depths than the system needs.
    """
    names = vocabulary.names if settings.loss.concept_weight > 0 else ()
    return composer_of(settings, backbone, lambda: encode_names(backbone, names))


def composer_of(settings: Settings, backbone: Backbone, concepts: Callable[[], Tensor]) -> Composer:
    """The composer on ``backbone``; ``concepts`` gives the features ``[C, D]`` of systems that align concepts."""
    composer = composer_class(settings.model.name)
    if composer.fewest_levels > 1 and (given := len(backbone.token_widths)) < composer.fewest_levels:
        raise UserError(
            f"model.name: system {settings.model.name} reads {composer.fewest_levels} depths of the image tower, but "
            f"this backbone gives {given}; take a tower of more blocks, or a system that reads one depth."
        )
    if composer.aligns_concepts:
        return composer(settings, backbone, concepts())
    return composer(settings, backbone)


def _imported(name: str) -> type[Composer]:
    try:
        found = pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"model.name: cannot import {name} ({error}); install its module or put its folder on PYTHONPATH."
        ) from error
    if not (isinstance(found, type) and issubclass(found, Composer)):
        raise UserError(f"model.name: {name} is no Composer; derive it from neucore_xl.models.composer.Composer.")
    return found
