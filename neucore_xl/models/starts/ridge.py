"""Ridge regression to the target's feature, in closed form: from image and sentence, and from image and words.

W = (XᵀX + λI)⁻¹ XᵀY with X = [ī ; t̄ ; 1] or [ī ; tf-idf of the words ; 1] and Y the targets' (centred) unit vectors;
rows of tf-idf have unit length. Where there are fewer pairs than columns the same W is Xᵀ(XXᵀ + λI)⁻¹Y.
Legend: n pairs, D joint width, V words of the table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.linalg
import scipy.sparse
import torch
from torch import Tensor

from neucore_xl.language.bag import NO_WORD
from neucore_xl.models.layers import l2
from neucore_xl.models.starts.pairs import Pairs
from neucore_xl.models.starts.start import NOBODY, TABLE, Part, Start

LEAST_COUNT = 2  # sentences that must hold a word


@dataclass(frozen=True)
class RidgeMaps:
    """The features of ``pairs`` as a start would see them, ``centred`` or not, and the maps from them."""

    pairs: Pairs
    centred: bool
    image_mean: Tensor
    text_mean: Tensor
    images: Tensor
    text: Tensor

    @staticmethod
    def of(pairs: Pairs, *, centred: bool) -> RidgeMaps:
        """Of all pairs; means are taken over images and sentences once each."""
        image_mean, text_mean = pairs.images.mean(0), pairs.text.mean(0)
        if not centred:
            image_mean, text_mean = torch.zeros_like(image_mean), torch.zeros_like(text_mean)
        return RidgeMaps(
            pairs, centred, image_mean, text_mean, l2(pairs.images - image_mean), l2(pairs.text - text_mean)
        )

    @cached_property
    def words(self) -> tuple[Tensor, Tensor, scipy.sparse.csr_array]:
        """The table of words ``[V]`` (sorted), their idf ``[V]`` and tf-idf ``[n, V]`` of the sentences."""
        return word_features(self.pairs.words)

    def part(self, part: Part) -> Tensor:
        """A part that needs no map ``[n, D]``."""
        if part == "image":
            return self.images[self.pairs.reference]
        if part == "text":
            return self.text
        assert self.pairs.steps is not None
        return self.pairs.steps

    def predictions(
        self, part: Part, fitted: Tensor, asked: Tensor, penalties: Sequence[float]
    ) -> Iterator[tuple[float, Tensor]]:
        """(λ, unit vectors ``[H, D]`` of the pairs ``asked``) of the map fitted on the pairs ``fitted``."""
        x, y = self._columns(part), self.images[self.pairs.target].numpy()
        for penalty, weights in solved(x.rows(fitted), y[fitted.numpy()], penalties):
            yield penalty, l2(torch.from_numpy(x.rows(asked) @ weights))

    def buffers(self, start: Start, penalties: Mapping[Part, float]) -> dict[str, Tensor]:
        """The buffers of ``start`` with maps fitted on all pairs."""
        found: dict[str, Tensor] = {}
        if start.centring:
            found |= {"image_mean": self.image_mean, "text_mean": self.text_mean}
        y = self.images[self.pairs.target].numpy()
        for part, penalty in penalties.items():
            ((_, weights),) = solved(self._columns(part), y, [penalty])
            whole = torch.from_numpy(weights)
            if part == "ridge":
                found["ridge"] = whole
                continue
            table, idf, _ = self.words
            found["word_table"] = torch.full((TABLE,), NOBODY)
            found["word_table"][: len(table)] = table
            found["word_idf"] = torch.nn.functional.pad(idf, (0, TABLE - len(idf)))
            found["word_ridge"] = torch.nn.functional.pad(whole, (0, 0, 0, TABLE - len(table)))
        return found

    def _columns(self, part: Part) -> Columns:
        one = np.ones((len(self.pairs), 1), np.float32)
        i = self.images[self.pairs.reference].numpy()
        if part == "ridge":
            return Columns(np.hstack([i, self.text.numpy(), one]))
        return Columns(np.hstack([i, one]), self.words[2])


@dataclass(frozen=True)
class Columns:
    """A matrix ``[n, ·]`` of dense columns and, behind them, sparse ones, in fp32; no product lays out the latter."""

    dense: np.ndarray
    sparse: scipy.sparse.csr_array | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """n and the number of all columns."""
        return len(self.dense), self.dense.shape[1] + (0 if self.sparse is None else self.sparse.shape[1])

    def rows(self, index: Tensor) -> Columns:
        """The rows at ``index``."""
        at = index.numpy()
        return Columns(self.dense[at], None if self.sparse is None else self.sparse[at])

    def __matmul__(self, right: np.ndarray) -> np.ndarray:
        if self.sparse is None:
            return self.dense @ right
        cut = self.dense.shape[1]
        return self.dense @ right[:cut] + self.sparse @ right[cut:]

    def transposed_times(self, right: np.ndarray) -> np.ndarray:
        """Xᵀ · ``right [n, D]``."""
        own = self.dense.T @ right
        return own if self.sparse is None else np.vstack([own, self.sparse.T @ right])

    def gram(self, *, of_rows: bool) -> np.ndarray:
        """XXᵀ ``[n, n]``, or XᵀX."""
        own = self.dense @ self.dense.T if of_rows else self.dense.T @ self.dense
        if self.sparse is None:
            return own
        if of_rows:
            return own + (self.sparse @ self.sparse.T).toarray()
        cross = self.sparse.T @ self.dense
        return np.block([[own, cross.T], [cross, (self.sparse.T @ self.sparse).toarray()]])


def word_features(words: Tensor) -> tuple[Tensor, Tensor, scipy.sparse.csr_array]:
    """Of the words ``[n, W]`` of n sentences: the table ``[V]``, sorted, idf ``[V]`` and tf-idf ``[n, V]``.

    V: the ``TABLE`` most frequent of those in two sentences or more; idf = log((1 + n) / (1 + sentences)) + 1, rows of
    unit length (as scikit-learn has it).
    """
    rows, columns = (words != NO_WORD).nonzero(as_tuple=True)
    distinct, place, counts = torch.unique(words[rows, columns], return_inverse=True, return_counts=True)
    frequent = torch.argsort(counts, descending=True, stable=True)[:TABLE]
    kept = torch.zeros(len(distinct), dtype=torch.bool)
    kept[frequent] = True
    kept &= counts >= LEAST_COUNT
    index = torch.where(kept, kept.cumsum(0) - 1, -1)
    idf = (torch.log((1 + len(words)) / (1 + counts[kept].double())) + 1).float()
    at = index[place]
    rows, at = rows[at >= 0], at[at >= 0]
    length = torch.zeros(len(words)).index_add_(0, rows, idf[at].square()).sqrt()
    values = (idf[at] / length[rows]).numpy()
    shape = (len(words), int(kept.sum()))
    return distinct[kept], idf, scipy.sparse.csr_array((values, (rows.numpy(), at.numpy())), shape=shape)


def solved(x: Columns, y: np.ndarray, penalties: Sequence[float]) -> Iterator[tuple[float, np.ndarray]]:
    """(λ, W ``[columns of x, D]``) for each of ``penalties``; ``y [n, D]``, all in fp32."""
    wide = x.shape[1] > x.shape[0]
    gram, right = x.gram(of_rows=wide), y if wide else x.transposed_times(y)
    for penalty in penalties:
        shifted = gram.copy()
        shifted.flat[:: len(gram) + 1] += penalty
        factor = scipy.linalg.cho_factor(shifted, lower=True, overwrite_a=True, check_finite=False)
        solution = scipy.linalg.cho_solve(factor, right, check_finite=False)
        yield penalty, x.transposed_times(solution) if wide else solution
