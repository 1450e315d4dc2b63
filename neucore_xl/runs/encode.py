"""Galleries and queries through a trained composer, and their scores in chunks: what evaluation is fed with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch

from neucore_xl.config.schema import EvaluationSettings
from neucore_xl.data.batches import Inputs, move
from neucore_xl.data.triplets import Split, Triplet
from neucore_xl.models.composer import Composer
from neucore_xl.models.features import FeatureSet, QueryFeatures, TargetFeatures
from neucore_xl.runs.collate import Collator
from neucore_xl.runs.progress import track


@torch.no_grad()
def encode_gallery(
    composer: Composer,
    inputs: Inputs,
    names: Sequence[str],
    batch_size: int,
    device: torch.device | str,
    *,
    bf16: bool = False,
) -> TargetFeatures:
    """Features of the images ``names`` in their order, fp32 on the CPU; ``composer`` must be on ``device``.

    The composer is called through its root forward, in evaluation mode, which is put back afterwards.
    """
    parts = []
    with _evaluating(composer), track("gallery", len(names)) as advance:
        for start in range(0, len(names), batch_size):
            chunk = names[start : start + batch_size]
            images = move(inputs.images(chunk), device)
            with _autocast(device, bf16):
                parts.append(_kept(composer("targets", images)))
            advance(len(chunk))
    return FeatureSet.cat(parts)


@torch.no_grad()
def encode_queries(
    composer: Composer,
    collator: Collator,
    triplets: Sequence[Triplet],
    batch_size: int,
    device: torch.device | str,
    *,
    bf16: bool = False,
) -> QueryFeatures:
    """Features of the queries ``triplets`` in their order, fp32 on the CPU; targets are not needed and not read."""
    parts = []
    with _evaluating(composer), track("queries", len(triplets)) as advance:
        for start in range(0, len(triplets), batch_size):
            chunk = triplets[start : start + batch_size]
            query = [move(part, device) for part in collator.queries(chunk)]
            with _autocast(device, bf16):
                parts.append(_kept(composer("compose", *query)))
            advance(len(chunk))
    return FeatureSet.cat(parts)


def score_split(
    composer: Composer,
    inputs: Inputs,
    collator: Collator,
    split: Split,
    options: EvaluationSettings,
    device: torch.device | str,
) -> dict[str, Iterator[tuple[int, np.ndarray]]]:
    """Gallery key (``""`` on CIRR, the category on Fashion-IQ) → scores of its triplets, in chunks as ``score_chunks``
    gives them. A gallery is encoded when its scores are first asked for; one without triplets has none."""

    def scores(key: str) -> Iterator[tuple[int, np.ndarray]]:
        triplets = [t for t in split.triplets if (t.category or "") == key]
        if triplets:
            targets = encode_gallery(composer, inputs, split.galleries[key].names, options.batch_size, device)
            queries = encode_queries(composer, collator, triplets, options.batch_size, device)
            yield from score_chunks(composer, queries, targets, options.chunk, device)

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


def _kept(features: FeatureSet) -> FeatureSet:
    return features.map(lambda t: (t.float() if t.is_floating_point() else t).cpu())


def _autocast(device: torch.device | str, bf16: bool) -> AbstractContextManager[Any]:
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16) if bf16 else nullcontext()


@contextmanager
def _evaluating(composer: Composer) -> Iterator[None]:
    training = composer.training
    composer.eval()
    try:
        yield
    finally:
        composer.train(training)
