"""A composer at work: galleries and queries become features, and features become scores in chunks.

Many ranks share the work in whole chunks, chunk i to rank i mod world: every forward has the rows that it has in one
process, so features and metrics are equal to the bit. A rank that has no chunk left in a round encodes one row whose
result is dropped, and all chunks take the same number of fusion steps, because under ZeRO-3 every rank must call the
same modules equally often.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from neucore_xl.config.schema import EvaluationSettings
from neucore_xl.data.batches import ImageInput, move
from neucore_xl.data.triplets import Triplet
from neucore_xl.encoding.collate import Collator
from neucore_xl.models.composer import Composer
from neucore_xl.models.features import FeatureSet, QueryFeatures, TargetFeatures
from neucore_xl.parallel.world import World
from neucore_xl.progress import track

T = TypeVar("T")
Forward = Callable[..., FeatureSet]  # the composer's root forward, as it is or wrapped by an engine


@dataclass(frozen=True)
class Encoder:
    """A composer, where it computes, in which chunks, and the processes that share the work.

    ``composer`` must be on ``device``. It is called through its root forward, or through ``forward`` where an engine
    wraps it (under ZeRO-3 only that gathers the shards), in evaluation mode, which is put back afterwards.
    ``options.precision`` is that of the forward; features and scores are fp32 in any case. All ranks of ``world``
    call a method with the same arguments.
    """

    composer: Composer
    options: EvaluationSettings
    device: torch.device
    world: World = field(default_factory=World)
    forward: Forward | None = None

    def gallery(self, images: Callable[[Sequence[str]], ImageInput], names: Sequence[str]) -> TargetFeatures:
        """Features of G images in the order of ``names``, G rows in fp32 on the CPU of rank 0; other ranks get no rows.

        ``images`` reads a chunk of names: the method of an ``Inputs``. An image that one rank cannot read is a
        ``UserError`` on all.
        """
        chunks = _chunks(names, self.options.batch_size)
        return self._encode("gallery", chunks, lambda chunk: ("targets", images(chunk)))

    def queries(self, collator: Collator, triplets: Sequence[Triplet]) -> QueryFeatures:
        """Features of Q queries in the order of ``triplets``, as ``gallery`` gives those of images.

        Targets are not needed and not read. Every chunk takes as many fusion steps as the longest sequence of all
        ``triplets``.
        """
        steps = collator.longest(triplets)
        chunks = _chunks(triplets, self.options.batch_size)
        return self._encode("queries", chunks, lambda chunk: ("compose", *collator.queries(chunk, steps=steps)))

    @torch.no_grad()
    def scores(self, queries: QueryFeatures, targets: TargetFeatures) -> Iterator[tuple[int, np.ndarray]]:
        """(first query, scores [q, G] fp32) for ``options.chunk`` queries at a time; memory O(chunk · G)."""
        targets = targets.map(lambda t: t.to(self.device))
        for start in range(0, queries.rows, self.options.chunk):
            part = queries.select(slice(start, start + self.options.chunk)).map(lambda t: t.to(self.device))
            yield start, self.composer.score(part, targets).float().cpu().numpy()

    @torch.no_grad()
    def _encode(
        self, title: str, chunks: Sequence[Sequence[T]], read: Callable[[Sequence[T]], tuple[Any, ...]]
    ) -> FeatureSet:
        world, call = self.world, self.forward or self.composer
        parts: list[FeatureSet] = []
        dropped: FeatureSet | None = None
        total = sum(map(len, chunks))
        with _evaluating(self.composer, call), track(title, total, shown=world.is_main) as advance:
            for first in range(0, len(chunks), world.world_size):
                number = first + world.rank
                with world.agreed():
                    mode, *given = read(chunks[number] if number < len(chunks) else chunks[-1][:1])
                with self._autocast():
                    features = call(mode, *(move(part, self.device) for part in given))
                if number < len(chunks):
                    parts.append(_on_cpu(features))
                else:
                    dropped = _on_cpu(features).select(slice(0))
                advance(sum(map(len, chunks[first : first + world.world_size])))
        features = FeatureSet.cat(parts) if parts or dropped is None else dropped
        return _on_main(features, [len(chunk) for chunk in chunks], world) if world.many else features

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.options.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)


def _chunks(items: Sequence[T], size: int) -> list[Sequence[T]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _on_main(features: FeatureSet, rows: Sequence[int], world: World) -> FeatureSet:
    """The chunks of all ranks, ``rows`` long, in their order on rank 0; nothing but the names on the others.

    Tensors travel as they are, one rank after the other: pickled, a large gallery would be in memory three times.
    """
    if not world.is_main:
        for tensor in features.values() if features.rows else ():
            dist.send(tensor.contiguous(), dst=0)
        return features.select(slice(0))
    whole = features.map(lambda t: t.new_empty(sum(rows), *t.shape[1:]))
    starts = np.cumsum([0, *rows])
    for rank in range(world.world_size):
        numbers = range(rank, len(rows), world.world_size)
        for name, tensor in whole.items() if numbers else ():
            received = features[name]
            if rank:
                received = tensor.new_empty(sum(rows[n] for n in numbers), *tensor.shape[1:])
                dist.recv(received, src=rank)
            for number, part in zip(numbers, received.split([rows[n] for n in numbers]), strict=True):
                tensor[starts[number] : starts[number + 1]] = part
    return whole


def _on_cpu(features: FeatureSet) -> FeatureSet:
    return features.map(lambda t: (t.float() if t.is_floating_point() else t).cpu())


@contextmanager
def _evaluating(composer: Composer, call: Forward) -> Iterator[None]:
    """Evaluation mode of the composer, and of the engine around it where there is one."""
    module = call if isinstance(call, nn.Module) else composer
    training = composer.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)
