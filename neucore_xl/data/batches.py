"""The Batch: what one step of training or one chunk of encoding hands to a model, with its shapes.

Legend: U distinct images, B queries, G gallery columns, P distinct short texts, K fusion steps, M concepts of a
query, C concepts of the vocabulary, N image tokens, L words, D width of the joint space, Dv/Dt tower widths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class ImageFeatures:
    """Output of an image tower: ``tokens [U, N, Dv]`` and ``pooled [U, D]``, not normalised.

    ``levels``: the tokens ``[U, N_k, D_k]`` of earlier depths, the earliest first, for systems that read several.
    """

    tokens: Tensor
    pooled: Tensor
    levels: tuple[Tensor, ...] = ()

    def __len__(self) -> int:
        return self.pooled.shape[0]


@dataclass(frozen=True)
class TextFeatures:
    """Output of a text tower: ``words [B, L, Dt]``, ``pooled [B, D]``, not normalised; ``mask [B, L]`` true: word."""

    words: Tensor
    pooled: Tensor
    mask: Tensor

    def __len__(self) -> int:
        return self.pooled.shape[0]


ImageInput = Tensor | ImageFeatures  # pixels [U, 3, H, W] (preprocessed), or features of a frozen tower
TextInput = Tensor | TextFeatures  # token ids [B, L] int64, or features of a frozen tower


class Inputs(Protocol):
    """Turns names and sentences into what a model takes: pixels and token ids, or cached features."""

    def images(self, names: Sequence[str]) -> ImageInput: ...

    def texts(self, texts: Sequence[str]) -> TextInput: ...


@dataclass(frozen=True)
class SequenceBatch:
    """Planned edits and named concepts of B queries; short texts are encoded once per distinct text.

    ``short_texts``: P distinct phrases and concept names; ``phrase [B, K]`` and ``concept [B, M]`` index them
    (0 where masked); ``operation [B, K]`` indexes ``Operation``; ``step_mask [B, K]`` and ``concept_mask [B, M]``
    are true on real entries. Steps are packed to the left. K or M may be 0. ``active``: for each of the K steps, how
    many queries have it; a model that is told runs a step for these alone, without asking a device for the number.
    ``language_ids [B, L]``: the sentences for systems with a language model of their own, -1 behind each.
    ``words [B, W]``: the distinct words of each sentence as numbers (``language.bag``), 0 where there is none.
    """

    short_texts: TextInput
    phrase: Tensor
    operation: Tensor
    step_mask: Tensor
    concept: Tensor
    concept_mask: Tensor
    active: tuple[int, ...] | None = None
    language_ids: Tensor | None = None
    words: Tensor | None = None


@dataclass(frozen=True)
class Batch:
    """B queries over U distinct images (each image of the batch is decoded and encoded once).

    A batch is whole, or one of the equal parts of a larger batch that several processes or forward passes share.
    ``reference [B]``, ``target [B]`` and ``gallery [W]`` index ``images``: the columns that this part contributes.
    The gallery is the columns of all parts, one part after the other, G = parts · W; ``positive [B]`` and
    ``exclude [B, G]`` are about those. Every image occurs once among the columns, so two queries of the same target
    share their positive; parts with fewer columns than W are filled up with columns that are excluded everywhere.
    ``exclude`` is true where a column must not be a negative of a row, or was not drawn as one. ``concept_labels
    [B, C]`` is the multi-hot of C(T) over the training vocabulary, or None without a concept loss. ``target`` may be
    left out of a whole batch.
    """

    ids: tuple[str, ...]
    images: ImageInput
    reference: Tensor
    texts: TextInput
    sequence: SequenceBatch
    gallery: Tensor
    positive: Tensor
    exclude: Tensor
    concept_labels: Tensor | None = None
    target: Tensor | None = None

    @property
    def target_images(self) -> Tensor:
        """Where each query's target is among ``images`` ``[B]``."""
        return self.gallery[self.positive] if self.target is None else self.target

    def __len__(self) -> int:
        return self.reference.shape[0]


def move(value: T, device: torch.device | str, non_blocking: bool = False) -> T:
    """``value`` with every tensor inside it (dataclasses, mappings, tuples) on ``device``."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=non_blocking)  # type: ignore[return-value]
    if is_dataclass(value) and not isinstance(value, type):
        changes: dict[str, Any] = {f.name: move(getattr(value, f.name), device, non_blocking) for f in fields(value)}
        return replace(value, **changes)
    if isinstance(value, Mapping):
        return {k: move(v, device, non_blocking) for k, v in value.items()}  # type: ignore[return-value]
    if isinstance(value, tuple) and value and isinstance(value[0], Tensor):
        return tuple(move(v, device, non_blocking) for v in value)  # type: ignore[return-value]
    return value
