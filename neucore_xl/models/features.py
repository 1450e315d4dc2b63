"""What composers hand out: named tensors with one leading dimension, and the result of a training forward."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class FeatureSet(dict[str, Tensor]):
    """Named tensors ``[R, ...]`` that describe R queries or R targets; slicing and joining act on every tensor.

    Composers choose the names. Whoever scores, gathers or stores them needs to know none. It is a ``dict`` because
    DDP and ZeRO-3 look for the tensors of a forward's result in dictionaries and tuples.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        if not tensors:
            raise ValueError("a FeatureSet needs at least one tensor")
        rows = {name: t.shape[0] for name, t in tensors.items()}
        if len(set(rows.values())) != 1:
            raise ValueError(f"tensors of one FeatureSet differ in their rows: {rows}")
        super().__init__(tensors)

    @property
    def rows(self) -> int:
        """R, the number of queries or targets."""
        return next(iter(self.values())).shape[0]

    def map(self, function: Callable[[Tensor], Tensor]) -> FeatureSet:
        """Every tensor replaced by ``function(tensor)``."""
        return FeatureSet({k: function(v) for k, v in self.items()})

    def select(self, index: Tensor | slice) -> FeatureSet:
        """The rows at ``index``."""
        return self.map(lambda t: t[index])

    @staticmethod
    def cat(parts: Sequence[FeatureSet]) -> FeatureSet:
        """The rows of ``parts`` one after the other; all parts have the same names."""
        return FeatureSet({k: torch.cat([p[k] for p in parts]) for k in parts[0]})


QueryFeatures = FeatureSet
TargetFeatures = FeatureSet


class ComposerOutput(NamedTuple):
    """What one training forward returns.

    ``queries`` [B rows], ``targets`` [G rows] (the batch's gallery columns), ``log_scale [1]`` (θ, clamped), and
    where the system aligns concepts ``concept_logits [B, C]``; ``penalties`` are further scalar losses by name.
    """

    queries: QueryFeatures
    targets: TargetFeatures
    log_scale: Tensor
    concept_logits: Tensor | None = None
    penalties: dict[str, Tensor] | None = None
