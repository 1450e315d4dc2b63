"""The training stream: triplets in the run's order, collated here or in worker processes.

Every process draws the same order and plans the same batches; it reads only the images and texts of its own share.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.utils.data import DataLoader, Dataset

from neucore_xl.config.schema import Settings, TrainSettings
from neucore_xl.data.batches import Batch, Inputs
from neucore_xl.data.triplets import Split, Triplet
from neucore_xl.errors import UserError
from neucore_xl.parallel.world import World
from neucore_xl.runs.collate import Collator
from neucore_xl.runs.inputs import CachedInputs
from neucore_xl.training.sampler import BatchOrder, StepSampler


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
        part = train.batch_size // train.accumulate
        if part % world.world_size:
            raise UserError(
                f"{world.world_size} processes do not divide a batch of {part} queries (train.batch_size="
                f"{train.batch_size}, train.accumulate={train.accumulate}): choose a train.batch_size that they divide."
            )
        local = part // world.world_size
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


def batch_order(split: Split, settings: Settings) -> BatchOrder:
    """The order of a run over ``split``; raises ``UserError`` where no batch can be filled."""
    train = settings.train
    groups = [t.category or "" for t in split.triplets] if settings.data.one_category_per_batch else None
    return BatchOrder(len(split.triplets), train.batch_size // train.accumulate, train.seed, groups)


def workers_for(inputs: Inputs, settings: Settings) -> int:
    """Loader processes: none where images come from the cache, which is faster read here than sent from there."""
    return 0 if isinstance(inputs, CachedInputs) and inputs.cache_images else settings.data.workers


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
    micro = settings.train.accumulate
    loader = DataLoader(
        _Triplets(split.triplets),
        batch_sampler=StepSampler(order, start * micro, settings.train.steps * micro),
        collate_fn=_Collate(collator, share or Share()),
        num_workers=workers,
        generator=torch.Generator().manual_seed(settings.train.seed),
        # Threads of many decoders would fight over the cores of the training process.
        worker_init_fn=_one_thread if workers else None,
        prefetch_factor=4 if workers else None,
    )
    return iter(loader)


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
