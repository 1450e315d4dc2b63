"""How a split is read where its dataset leaves a choice, and what is said of a choice that there is not."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from neucore_xl.errors import UserError, did_you_mean, nearest

if TYPE_CHECKING:
    from neucore_xl.config.schema import DataSettings

Captions = Literal["12", "21", "both"]
GalleryKind = Literal["original", "val"]
EmptyText = Literal["refuse", "keep"]


@dataclass(frozen=True)
class Switches:
    """The choices of all datasets together; a dataset that does not know a choice reads as it always does.

    ``categories`` (None: all that the dataset has), ``captions`` (joined in order, in reverse, or as two queries) and
    ``gallery`` (all images of the split file, or those of its rows) are Fashion-IQ's. ``empty_text`` says what
    becomes of a labelled row without words, in every dataset. Raises ``UserError`` for a value that there is not.
    """

    categories: tuple[str, ...] | None = None
    captions: Captions = "12"
    gallery: GalleryKind = "original"
    empty_text: EmptyText = "refuse"

    def __post_init__(self) -> None:
        require_known("captions", self.captions, get_args(Captions))
        require_known("gallery", self.gallery, get_args(GalleryKind))
        require_known("empty_text", self.empty_text, get_args(EmptyText))

    @classmethod
    def of(cls, settings: DataSettings) -> Switches:
        """The switches that a run's settings hold (the gallery is a choice of an evaluation alone)."""
        return cls(categories=settings.categories, captions=settings.captions, empty_text=settings.empty_text)


def require_known(what: str, value: str, allowed: Sequence[str]) -> None:
    """Raises ``UserError`` with the nearest allowed value unless ``value`` is one of them."""
    if value in allowed:
        return
    raise UserError(f"Unknown {what} {value!r}{did_you_mean(nearest(value, allowed))} (one of {', '.join(allowed)}).")


def require_captions(root: Path, split: str, path: Path, present: Sequence[str]) -> None:
    """Raises ``UserError`` naming the splits that are ``present`` unless the caption file ``path`` of one exists."""
    if os.path.lexists(path):
        return
    there = (
        f"captions are there of {', '.join(present)}" if present else f"{root / 'captions'} holds none of this format"
    )
    raise UserError(f"Split {split!r} has no captions: {path} does not exist ({there}).")
