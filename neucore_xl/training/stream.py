"""The training stream: triplets in the run's order, collated here or in worker processes.

An optimiser step takes ``train.accumulate`` batches, which are numbered through the whole run. Every process draws the
same order and plans the same batches; it reads only the images and texts of its own share.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from neucore_xl.config.schema import Settings, TrainSettings
from neucore_xl.data.batches import Batch, Inputs
from neucore_xl.data.triplets import Split, Triplet
from neucore_xl.encoding.collate import Collator
from neucore_xl.encoding.inputs import CachedInputs, GivenInputs
from neucore_xl.errors import UserError
from neucore_xl.parallel.world import World


def queries_a_batch(train: TrainSettings) -> int:
    """Queries of one of the ``train.accumulate`` batches of an optimiser step, those of all processes together."""
    return train.batch_size // train.accumulate


@dataclass(frozen=True)
class Share:
    """What one process takes of a batch: ``forwards`` equal parts, of ``world_size`` times as many.

    ``of(settings, world)`` raises ``UserError`` where the numbers do not divide.
    """

    rank: int = 0
    world_size: int = 1
    forwards: int = 1

    @staticmethod
    def of(train: TrainSettings, world: World) -> Share:
        batch = queries_a_batch(train)
        if batch % world.world_size:
            raise UserError(
                f"{world.world_size} processes do not divide a batch of {batch} queries (train.batch_size="
                f"{train.batch_size}, train.accumulate={train.accumulate}): choose a train.batch_size that they divide."
            )
        local = batch // world.world_size
        micro = train.micro_batch or local
        if local % micro:
            raise UserError(
                f"train.micro_batch={micro} does not divide the {local} queries of each process (train.batch_size="
                f"{train.batch_size}, train.accumulate={train.accumulate}, {world.world_size} processes)."
            )
        return Share(world.rank, world.world_size, local // micro)

    @property
    def parts(self) -> int:
        """Parts of a whole batch."""
        return self.world_size * self.forwards

    @property
    def own(self) -> range:
        """The numbers of this process's parts."""
        return range(self.rank * self.forwards, (self.rank + 1) * self.forwards)


class BatchOrder:
    """Which triplets make up batch number 0, 1, 2, … of a run.

    Epoch e is a permutation of all triplets drawn from (``seed``, e), cut into full batches; the rest of the epoch
    (fewer than ``size`` triplets) is left out and differs from epoch to epoch. With ``groups`` (one label a triplet,
    such as the Fashion-IQ category) every batch holds one group: each group is permuted and cut by itself and the
    batches of all groups are shuffled.

    Raises ``UserError`` where not one full batch can be made.
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
                f"there are {largest} training {what} and a batch takes {size} (train.batch_size / train.accumulate): "
                "lower train.batch_size or raise train.accumulate"
            )
        self.size = size
        self.seed = seed
        self.per_epoch = sum(len(m) // size for m in self._members)
        self._epoch = -1
        self._batches = np.empty((0, size), dtype=np.int64)

    def indices(self, number: int) -> list[int]:
        """The ``size`` triplet indices of batch ``number``."""
        epoch, place = divmod(number, self.per_epoch)
        if epoch != self._epoch:  # one epoch is kept: steps come in order
            self._batches, self._epoch = self._cut(epoch), epoch
        return [int(i) for i in self._batches[place]]

    def _cut(self, epoch: int) -> np.ndarray:
        """Batches ``[per_epoch, size]`` of one epoch."""
        random = np.random.default_rng([self.seed, epoch])
        full = [random.permutation(m)[: len(m) // self.size * self.size].reshape(-1, self.size) for m in self._members]
        batches = np.concatenate(full)
        return batches[random.permutation(len(batches))] if len(full) > 1 else batches


def batch_order(split: Split, settings: Settings) -> BatchOrder:
    """The order of a run over ``split``; raises ``UserError`` where no batch can be filled."""
    train = settings.train
    groups = [t.category or "" for t in split.triplets] if settings.data.one_category_per_batch else None
    return BatchOrder(len(split.triplets), queries_a_batch(train), train.seed, groups)


class StepSampler(Sampler[list[int]]):
    """Batches ``start … stop − 1`` of an order, for ``DataLoader(batch_sampler=…)``."""

    def __init__(self, order: BatchOrder, start: int, stop: int) -> None:
        self.order, self.start, self.stop = order, start, stop

    def __len__(self) -> int:
        return max(0, self.stop - self.start)

    def __iter__(self) -> Iterator[list[int]]:
        for number in range(self.start, self.stop):
            yield self.order.indices(number)


def training_stream(
    split: Split,
    order: BatchOrder,
    collator: Collator,
    settings: Settings,
    start: int,
    workers: int,
    share: Share | None = None,
) -> Iterator[list[Batch] | UserError]:
    """This process's parts of the batches that follow optimiser step ``start``, up to the last of the run.

    The stream draws no number from torch's global generator, and an unreadable image arrives as the error itself.
    """
    a_step = settings.train.accumulate
    loader = DataLoader(
        _Triplets(split.triplets),
        batch_sampler=StepSampler(order, start * a_step, settings.train.steps * a_step),
        collate_fn=_Collate(collator, share or Share()),
        num_workers=workers,
        generator=torch.Generator().manual_seed(settings.train.seed),
        # Threads of many decoders would fight over the cores of the training process.
        worker_init_fn=_one_thread if workers else None,
        prefetch_factor=4 if workers else None,
    )
    return iter(loader)


def workers_for(inputs: Inputs, settings: Settings) -> int:
    """Loader processes: none where images come from the cache, which is faster read here than sent from there."""
    stored = isinstance(inputs, GivenInputs) or (isinstance(inputs, CachedInputs) and inputs.cache_images)
    return 0 if stored else settings.data.workers


class _Triplets(Dataset[Triplet]):
    def __init__(self, triplets: Sequence[Triplet]) -> None:
        self.triplets = triplets

    def __len__(self) -> int:
        return len(self.triplets)

    def __getitem__(self, index: int) -> Triplet:
        return self.triplets[index]


class _Collate:
    """The collator, its ``UserError`` returned: raised in a worker, it would arrive wrapped in a trace."""

    def __init__(self, collator: Collator, share: Share) -> None:
        self.collator, self.share = collator, share

    def __call__(self, triplets: list[Triplet]) -> list[Batch] | UserError:
        try:
            return self.collator.parts(triplets, self.share.parts, self.share.own)
        except UserError as error:
            return error


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)
