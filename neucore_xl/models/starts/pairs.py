"""The training pairs as a start sees them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Pairs:
    """n pairs of a training split: unit vectors ``images [U, D]`` and ``text [n, D]``; ``reference`` and ``target``
    ``[n]`` index the images; ``words [n, W]`` int64; ``steps [n, D]`` where a start reads them."""

    images: Tensor
    text: Tensor
    reference: Tensor
    target: Tensor
    words: Tensor
    steps: Tensor | None = None

    def __len__(self) -> int:
        return len(self.text)
