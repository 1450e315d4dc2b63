"""Which systems are compared, and how each is run: overrides, seeds, and those that this backbone cannot carry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from neucore_xl.ablation.plan import Variant, folder_name
from neucore_xl.config.schema import BackboneSettings, Settings
from neucore_xl.data.settings import job_settings
from neucore_xl.errors import UserError
from neucore_xl.models.backbone import Backbone, build_backbone
from neucore_xl.models.composer import Composer
from neucore_xl.models.composers.image_only import ImageOnly
from neucore_xl.models.composers.product import Product
from neucore_xl.models.composers.text_only import TextOnly
from neucore_xl.models.registry import composer_class, composer_names, composer_of

ALL = "all"
CLOSED_FORM = ("train.steps=1", "train.warmup_steps=0")  # fitted before the first step
_OWN_WEIGHTS = ("local-dir:", "hf-hub:")  # names of backbones that bring weights


@dataclass(frozen=True)
class Skipped:
    """A system of ``all`` that is left out, and why, in one sentence."""

    name: str
    why: str


def chosen_systems(asked: str) -> list[str]:
    """The names in ``asked``: ``all``, or names between commas.

    Raises ``UserError`` for no name, one that comes twice, and an unknown one (with the nearest name).
    """
    names = [name.strip() for name in asked.split(",") if name.strip()]
    if not names:
        raise UserError("--systems names no system: give all, or names such as tirg,neucore-xl")
    if names == [ALL]:
        return list(composer_names())
    if ALL in names:
        raise UserError("--systems: all stands alone; name the systems one by one to add one of your own")
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"--systems: {name} comes twice")
        composer_class(name)
    return names


def planned_systems(asked: str, recipe: str, overrides: Sequence[str]) -> tuple[list[Variant], list[Skipped]]:
    """What is compared, in the order of ``asked`` (of ``all``: of the registry), and what of ``all`` is left out.

    Every system is built once on the backbone of the recipe. Raises ``UserError`` as ``chosen_systems`` does, for
    settings that cannot be used, and for a named system that the backbone or feature folder cannot carry.
    """
    for argument in overrides:
        if argument.partition("=")[0] == "model.name":
            raise UserError("model.name is set by --systems: leave it out")
    names, everything = chosen_systems(asked), asked.strip() == ALL
    plain = job_settings(recipe, overrides)
    backbone = build_backbone(plain.backbone, plain.model.tokens)
    variants, skipped = [], []
    for name in names:
        cls = composer_class(name)
        own = (f"model.name={name}", *(CLOSED_FORM if cls.closed_form else ()))
        try:
            settings = job_settings(recipe, (*overrides, *own))
            build(settings, backbone)
        except UserError as error:
            if not everything:
                raise
            skipped.append(Skipped(name, str(error)))
            continue
        variants.append(Variant(name, folder_name(name), own, why_one_seed(cls, settings.backbone)))
    if not variants:
        raise UserError(f"none of the systems can be built here; the first says: {skipped[0].why}")
    if len({v.folder for v in variants}) != len(variants):
        raise UserError("--systems: two names would share a folder; give names that differ in letters or digits")
    return variants, skipped


def build(settings: Settings, backbone: Backbone) -> Composer:
    """The composer of ``settings`` with a vocabulary of one concept; torch's random state stays as it was.

    Raises ``UserError`` where the backbone cannot carry it.
    """
    with torch.random.fork_rng(devices=()):
        return composer_of(settings, backbone, lambda: torch.zeros(1, backbone.embed_dim))


def why_one_seed(system: type[Composer], backbone: BackboneSettings) -> str:
    """Why one seed is enough for ``system``, empty where it is not.

    Towers that are trained, or whose weights are drawn with the seed, make every system depend on it. So does a choice
    on held-out training pairs, which the seed holds out: that of a closed form.
    """
    drawn = backbone.pretrained is None and not backbone.name.startswith(_OWN_WEIGHTS)
    if drawn or backbone.freeze != "all" or backbone.lora is not None:
        return ""
    return "nothing that ranks is trained or chosen" if system in (ImageOnly, TextOnly, Product) else ""
