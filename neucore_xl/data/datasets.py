"""One door to every dataset: a name, a folder and a split become a ``Split``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from neucore_xl.data import cirr, fashion_iq
from neucore_xl.data.triplets import Split
from neucore_xl.errors import UserError, did_you_mean, nearest

if TYPE_CHECKING:
    from neucore_xl.config.schema import DataSettings

NAMES = ("cirr", "fashion-iq")


def open_split(
    name: str,
    root: Path | str,
    split: str,
    *,
    categories: Sequence[str] = fashion_iq.CATEGORIES,
    captions: str = "12",
    gallery: str = "original",
    empty_text: Literal["refuse", "keep"] = "refuse",
) -> Split:
    """``split`` of the dataset ``name`` (``cirr`` or ``fashion-iq``) below ``root``; no image is opened.

    ``categories``, ``captions`` (``12``, ``21``, ``both``) and ``gallery`` (``original``, ``val``) matter to
    Fashion-IQ alone. ``empty_text`` says what becomes of a labelled row without words. Raises ``UserError``
    for an unknown name or switch, a missing folder or split, and every row that cannot be read.
    """
    root = Path(root)
    require_known("dataset", name, NAMES)
    require_known("captions", captions, ("12", "21", "both"))
    require_known("gallery", gallery, ("original", "val"))
    require_known("empty_text", empty_text, ("refuse", "keep"))
    require_root(root)
    if name == "cirr":
        _require_split(root, split, cirr.splits_in(root), cirr.captions_path(root, split))
        return cirr.read_split(root, split, empty_text=empty_text)
    present = fashion_iq.splits_in(root)
    for category in categories:
        require_known("Fashion-IQ category", category, tuple(dict.fromkeys((*fashion_iq.CATEGORIES, *present))))
        path = fashion_iq.captions_path(root, category, split)
        _require_split(root, split, present.get(category, ()), path)
    return fashion_iq.read_split(
        root,
        split,
        categories=categories,
        captions=cast(fashion_iq.Captions, captions),
        gallery=cast(fashion_iq.GalleryKind, gallery),
        empty_text=empty_text,
    )


def open_from_settings(settings: DataSettings, split: str) -> Split:
    """``split`` as the settings of a run describe it; raises as ``open_split`` does."""
    return open_split(
        settings.name,
        settings.root,
        split,
        categories=settings.categories,
        captions=settings.captions,
        empty_text=settings.empty_text,
    )


def require_root(root: Path) -> None:
    """Raises ``UserError`` unless ``root`` is a folder."""
    if not root.is_dir():
        raise UserError(f"The data folder {root} does not exist; set data.root to the folder that holds captions/.")


def require_targets(split: Split) -> None:
    """Raises ``UserError`` naming a row without a target: such a split can be neither trained on nor scored."""
    for triplet in split.triplets:
        if triplet.target is None:
            where = f"Split {split.name!r} of {split.root}"
            raise UserError(f"{where} has no labels (pair {triplet.id} has no target); take a labelled split.")


def require_known(what: str, value: str, allowed: Sequence[str]) -> None:
    """Raises ``UserError`` with the nearest allowed value unless ``value`` is one of them."""
    if value in allowed:
        return
    raise UserError(f"Unknown {what} {value!r}{did_you_mean(nearest(value, allowed))} (one of {', '.join(allowed)}).")


def _require_split(root: Path, split: str, present: Sequence[str], path: Path) -> None:
    if path.exists():
        return
    there = (
        f"captions are there of {', '.join(present)}" if present else f"{root / 'captions'} holds none of this format"
    )
    raise UserError(f"Split {split!r} has no captions: {path} does not exist ({there}).")
