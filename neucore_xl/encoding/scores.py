"""Galleries and queries through a trained composer, and their scores in chunks: what evaluation is fed with.

Many ranks share the work in whole chunks, chunk i to rank i mod world: every forward has the rows that it has in one
process, so features and metrics are equal to the bit. A rank that has no chunk left in a round encodes one row whose
result is dropped, and all chunks take the same number of fusion steps, because under ZeRO-3 every rank must call the
same modules equally often.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from neucore_xl.config.schema import EvaluationSettings
from neucore_xl.data.batches import Inputs, move
from neucore_xl.data.triplets import Split, Triplet
from neucore_xl.encoding.collate import Collator
from neucore_xl.models.composer import Composer
from neucore_xl.models.features import FeatureSet, QueryFeatures, TargetFeatures
from neucore_xl.parallel.world import ALONE, World
from neucore_xl.progress import track

T = TypeVar("T")
Forward = Callable[..., FeatureSet]  # the composer's root forward, as it is or wrapped by an engine


def encode_gallery(
    composer: Composer,
    inputs: Inputs,
    names: Sequence[str],
    batch_size: int,
    device: torch.device | str,
    *,
    bf16: bool = False,
    world: World = ALONE,
    forward: Forward | None = None,
) -> TargetFeatures:
    """Features of the images ``names`` in their order, fp32 on the CPU of rank 0; other ranks get no rows.

    ``composer`` must be on ``device``. It is called through its root forward, or through ``forward`` where an engine
    wraps it, in evaluation mode, which is put back afterwards. All ranks of ``world`` call this with the same names;
    an image that one of them cannot read is a ``UserError`` on all.
    """
    return _encode(
        composer,
        forward,
        _chunks(names, batch_size),
        lambda chunk: ("targets", inputs.images(chunk)),
        _Place(torch.device(device), bf16, world, "gallery"),
    )


def encode_queries(
    composer: Composer,
    collator: Collator,
    triplets: Sequence[Triplet],
    batch_size: int,
    device: torch.device | str,
    *,
    bf16: bool = False,
    world: World = ALONE,
    forward: Forward | None = None,
) -> QueryFeatures:
    """Features of the queries ``triplets`` in their order; targets are not needed and not read.

    Arguments and ranks are those of ``encode_gallery``. Every chunk takes as many fusion steps as the longest
    sequence of all ``triplets``.
    """
    steps = collator.longest(triplets)
    return _encode(
        composer,
        forward,
        _chunks(triplets, batch_size),
        lambda chunk: ("compose", *collator.queries(chunk, steps=steps)),
        _Place(torch.device(device), bf16, world, "queries"),
    )


def score_split(
    composer: Composer,
    inputs: Inputs,
    collator: Collator,
    split: Split,
    options: EvaluationSettings,
    device: torch.device | str,
    *,
    world: World = ALONE,
    forward: Forward | None = None,
) -> dict[str, Iterator[tuple[int, np.ndarray]]]:
    """Gallery key (``""`` on CIRR, the category on Fashion-IQ) → scores of its triplets, in chunks as ``score_chunks``
    gives them. A gallery is encoded when its scores are first asked for; one without triplets has none.

    With many ranks all galleries are encoded at once, by all of them, and rank 0 has the scores: the other ranks'
    iterators are empty.
    """

    def features(key: str) -> tuple[QueryFeatures, TargetFeatures] | None:
        triplets = [t for t in split.triplets if (t.category or "") == key]
        if not triplets:
            return None
        size, names = options.batch_size, split.galleries[key].names
        targets = encode_gallery(composer, inputs, names, size, device, world=world, forward=forward)
        return encode_queries(composer, collator, triplets, size, device, world=world, forward=forward), targets

    # Ranks that wait for each other must not depend on the order in which somebody asks for scores.
    ready = {key: features(key) for key in split.galleries} if world.many else None

    def scores(key: str) -> Iterator[tuple[int, np.ndarray]]:
        found = features(key) if ready is None else ready.pop(key)
        if found is not None and world.is_main:
            yield from score_chunks(composer, *found, options.chunk, device)

    return {key: scores(key) for key in split.galleries}


@torch.no_grad()
def score_chunks(
    composer: Composer,
    queries: QueryFeatures,
    targets: TargetFeatures,
    chunk: int,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[int, np.ndarray]]:
    """(first query, scores [q, G] fp32) for ``chunk`` queries at a time; memory O(chunk · G)."""
    targets = targets.map(lambda t: t.to(device))
    for start in range(0, queries.rows, chunk):
        part = queries.select(slice(start, start + chunk)).map(lambda t: t.to(device))
        yield start, composer.score(part, targets).float().cpu().numpy()


class _Place:
    """Where and by whom something is encoded."""

    def __init__(self, device: torch.device, bf16: bool, world: World, title: str) -> None:
        self.device, self.bf16, self.world, self.title = device, bf16, world, title

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, dtype=torch.bfloat16) if self.bf16 else nullcontext()


def _chunks(items: Sequence[T], size: int) -> list[Sequence[T]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


@torch.no_grad()
def _encode(
    composer: Composer,
    forward: Forward | None,
    chunks: Sequence[Sequence[T]],
    read: Callable[[Sequence[T]], tuple[Any, ...]],
    place: _Place,
) -> FeatureSet:
    world, call = place.world, forward or composer
    parts: list[FeatureSet] = []
    dropped: FeatureSet | None = None
    total = sum(map(len, chunks))
    with _evaluating(composer, call), track(place.title, total, shown=world.is_main) as advance:
        for first in range(0, len(chunks), world.world_size):
            number = first + world.rank
            with world.agreed():
                mode, *given = read(chunks[number] if number < len(chunks) else chunks[-1][:1])
            with place.autocast():
                features = call(mode, *(move(part, place.device) for part in given))
            if number < len(chunks):
                parts.append(_kept(features))
            else:
                dropped = _kept(features).select(slice(0))
            advance(sum(map(len, chunks[first : first + world.world_size])))
    own = FeatureSet.cat(parts) if parts or dropped is None else dropped
    return _on_main(own, [len(chunk) for chunk in chunks], world) if world.many else own


def _on_main(own: FeatureSet, rows: Sequence[int], world: World) -> FeatureSet:
    """The chunks of all ranks, ``rows`` long, in their order on rank 0; nothing but the names on the others.

    Tensors travel as they are, one rank after the other: pickled, a large gallery would be in memory three times.
    """
    if not world.is_main:
        for tensor in own.values() if own.rows else ():
            dist.send(tensor.contiguous(), dst=0)
        return own.select(slice(0))
    whole = own.map(lambda t: t.new_empty(sum(rows), *t.shape[1:]))
    starts = np.cumsum([0, *rows])
    for rank in range(world.world_size):
        numbers = range(rank, len(rows), world.world_size)
        for name, tensor in whole.items() if numbers else ():
            received = own[name]
            if rank:
                received = tensor.new_empty(sum(rows[n] for n in numbers), *tensor.shape[1:])
                dist.recv(received, src=rank)
            for number, part in zip(numbers, received.split([rows[n] for n in numbers]), strict=True):
                tensor[starts[number] : starts[number + 1]] = part
    return whole


def _kept(features: FeatureSet) -> FeatureSet:
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
