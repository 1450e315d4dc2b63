"""Image features that were given: read by image name, with one number of tokens and in the width of the joint space.

Legend: U images, N tokens, Dv token width, D width of the joint space.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from neucore_xl.data.batches import ImageFeatures
from neucore_xl.data.features.folder import FeatureFolder, first_of
from neucore_xl.errors import UserError
from neucore_xl.models.grid import pooled_to

MOST_TOKENS = 64  # of an image, unless model.tokens says otherwise
_SEED = 0


class GivenImages:
    """A feature folder in the place of an image tower; picklable.

    Every image has ``n_tokens`` tokens: ``tokens``, or where that is None as many as the image of the folder that has
    most, at most 64. An image of another number is pooled to it (or stretched: neighbours are averaged), so heads
    never see padding. Maps are pooled as maps, see ``pooled_to``.
    """

    def __init__(self, folder: FeatureFolder, tokens: int | None = None) -> None:
        manifest = folder.manifest
        self.folder, self.token_width, self.pooled_width = folder, manifest.token_width, manifest.pooled_width
        self.n_tokens = tokens or min(manifest.most, MOST_TOKENS)
        self._widen: Tensor | None = None

    def widen_to(self, width: int) -> None:
        """Carry pooled features into ``width`` dimensions, which are as many as they have or more."""
        self._widen = orthonormal(width, self.pooled_width) if width > self.pooled_width else None

    def images(self, names: Sequence[str]) -> ImageFeatures:
        """Tokens ``[U, N, Dv]`` and pooled ``[U, D]`` of ``names``, fp32; ``KeyError`` for a name that is not there."""
        rows = [self.folder.tokens(name) for name in names]
        tokens = torch.empty(len(rows), self.n_tokens, self.token_width)
        by_length: dict[int, list[int]] = {}
        for i, row in enumerate(rows):
            by_length.setdefault(len(row), []).append(i)
        for places in by_length.values():
            same = torch.from_numpy(np.stack([rows[i] for i in places]).astype(np.float32))
            tokens[places] = pooled_to(same, self.n_tokens, square=self.folder.manifest.grid)
        pooled = torch.from_numpy(self.folder.pooled(names))
        return ImageFeatures(tokens, pooled if self._widen is None else pooled @ self._widen.T)

    def check(self, names: Sequence[str], where: str) -> None:
        """Raise ``UserError`` where images ``names`` of ``where`` have no features: how many, and the first three."""
        if missing := self.folder.missing(names):
            raise UserError(
                f"backbone.features={self.folder.path} has no features of {len(missing)} of the {len(set(names))} "
                f"images of {where} ({first_of(missing)}): import these too, or name another folder."
            )


def orthonormal(wide: int, narrow: int) -> Tensor:
    """A fixed random matrix ``[wide, narrow]`` fp32 on the CPU with orthonormal columns: it keeps inner products."""
    generator = torch.Generator(device="cpu").manual_seed(_SEED)
    matrix = torch.empty(wide, narrow, device="cpu")
    return torch.nn.init.orthogonal_(matrix, generator=generator)
