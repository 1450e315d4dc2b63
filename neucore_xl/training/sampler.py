"""The order of the data as a pure function of (seed, step): resuming needs the step number and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

from neucore_xl.errors import UserError


class BatchOrder:
    """Which triplets make up micro-batch number m = 0, 1, 2, … of a run.

    Epoch e is a permutation of all triplets drawn from (``seed``, e), cut into full micro-batches; the rest of the
    epoch (fewer than ``size`` triplets) is left out and differs from epoch to epoch. With ``groups`` (one label a
    triplet, such as the Fashion-IQ category) every micro-batch holds one group: each group is permuted and cut by
    itself and the micro-batches of all groups are shuffled.

    Raises ``UserError`` where not one full micro-batch can be made.
    """

    def __init__(self, count: int, size: int, seed: int, groups: Sequence[str] | None = None) -> None:
        if groups is not None and len(groups) != count:
            raise ValueError(f"{len(groups)} group labels for {count} triplets")
        if groups is None:
            members = [np.arange(count)]
        else:
            labels = np.asarray(groups)
            members = [np.flatnonzero(labels == name) for name in dict.fromkeys(groups)]
        self._members = [m for m in members if len(m) >= size]
        if not self._members:
            largest = max((len(m) for m in members), default=0)
            what = "triplets" if groups is None else "triplets of one category"
            raise UserError(
                f"there are {largest} training {what} and a micro-batch takes {size}: lower train.batch_size "
                "or raise train.accumulate"
            )
        self.size = size
        self.seed = seed
        self.per_epoch = sum(len(m) // size for m in self._members)
        self._epoch = -1
        self._batches = np.empty((0, size), dtype=np.int64)

    def epoch_of(self, micro: int) -> int:
        """The epoch, from 0, that micro-batch ``micro`` belongs to."""
        return micro // self.per_epoch

    def indices(self, micro: int) -> list[int]:
        """The ``size`` triplet indices of micro-batch ``micro``."""
        epoch, place = divmod(micro, self.per_epoch)
        if epoch != self._epoch:  # one epoch is kept: steps come in order
            self._batches, self._epoch = self._cut(epoch), epoch
        return [int(i) for i in self._batches[place]]

    def _cut(self, epoch: int) -> np.ndarray:
        """Micro-batches ``[per_epoch, size]`` of one epoch."""
        random = np.random.default_rng([self.seed, epoch])
        full = [random.permutation(m)[: len(m) // self.size * self.size].reshape(-1, self.size) for m in self._members]
        batches = np.concatenate(full)
        return batches[random.permutation(len(batches))] if len(full) > 1 else batches


class StepSampler(Sampler[list[int]]):
    """Micro-batches ``start … stop − 1`` of an order, for ``DataLoader(batch_sampler=…)``."""

    def __init__(self, order: BatchOrder, start: int, stop: int) -> None:
        self.order, self.start, self.stop = order, start, stop

    def __len__(self) -> int:
        return max(0, self.stop - self.start)

    def __iter__(self) -> Iterator[list[int]]:
        for micro in range(self.start, self.stop):
            yield self.order.indices(micro)
