"""What a run costs: seconds of training, from its log; milliseconds a query, measured while it is evaluated."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from neucore_xl.data.triplets import Triplet
from neucore_xl.encoding.collate import Collator
from neucore_xl.encoding.encoder import Encoder
from neucore_xl.encoding.scores import Scorer
from neucore_xl.models.features import QueryFeatures, TargetFeatures


@dataclass
class Watch:
    """Seconds that queries took, and how many they were."""

    seconds: float = 0.0
    queries: int = 0

    @property
    def ms_per_query(self) -> float | None:
        """Milliseconds for one query; None before any."""
        return 1000 * self.seconds / self.queries if self.queries else None


@dataclass(frozen=True)
class TimedEncoder(Encoder):
    """An encoder that keeps the time of composing and scoring queries; the gallery, encoded once, does not count."""

    watch: Watch = field(default_factory=Watch)

    def queries(self, collator: Collator, triplets: Sequence[Triplet]) -> QueryFeatures:
        start = time.perf_counter()
        features = super().queries(collator, triplets)  # copied to the CPU, so that a GPU has finished
        self.watch.seconds += time.perf_counter() - start
        self.watch.queries += len(triplets)
        return features

    def scores(self, queries: QueryFeatures, targets: TargetFeatures) -> Iterator[tuple[int, np.ndarray]]:
        chunks = super().scores(queries, targets)
        while True:
            start = time.perf_counter()
            chunk = next(chunks, None)
            self.watch.seconds += time.perf_counter() - start
            if chunk is None:
                return
            yield chunk


def timed(scorer: Scorer) -> tuple[Scorer, Watch]:
    """The same scorer with a watch on its queries."""
    encoder = scorer.encoder
    timing = TimedEncoder(encoder.composer, encoder.options, encoder.device, encoder.world, encoder.forward)
    return replace(scorer, encoder=timing), timing.watch


def seconds_per_query(records: Sequence[Mapping[str, Any]]) -> float | None:
    """Mean seconds of training a query, of the records of a log; None where none tells its rate.

    The first record holds what happens once (compilation, first reads) and is left out where there are others.
    """
    spans = list(_spans(records))
    spans = spans[1:] or spans
    steps = sum(n for n, _ in spans)
    return sum(n / rate for n, rate in spans) / steps if steps else None


def training_seconds(records: Sequence[Mapping[str, Any]], batch_size: int) -> float | None:
    """Seconds of all steps of a log, validations and saving left out; None where it tells no rate."""
    spans = list(_spans(records))
    return sum(n * batch_size / rate for n, rate in spans) if spans else None


def _spans(records: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, float]]:
    """(steps, queries a second) of every record that tells a rate."""
    before = 0
    for record in records:
        rate = record.get("samples_per_second")
        if isinstance(rate, int | float) and rate > 0:
            yield record["step"] - before, float(rate)
            before = record["step"]


def parameter_counts(composer: nn.Module, backbone: nn.Module) -> dict[str, int]:
    """``trained``: parameters that training may change, of towers too; ``heads``: all but those of the towers."""
    towers = {id(p) for p in backbone.parameters()}
    every = {id(p): p for module in (composer, backbone) for p in module.parameters()}.values()
    return {
        "trained": sum(p.numel() for p in every if p.requires_grad),
        "heads": sum(p.numel() for p in every if id(p) not in towers),
    }


def device_name(device: torch.device) -> str:
    """The device for a table: the GPU's name, or the threads of the CPU."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"{device.type}, {torch.get_num_threads()} threads" if torch.get_num_threads() > 1 else f"{device.type}"
