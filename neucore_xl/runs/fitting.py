"""What a system fits in closed form before its first step: the pairs of its training split, read once, and the search.

With frozen towers whose features are cached every pair is read; else ``SAMPLE`` of them, drawn by the run's seed, pass
the towers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from random import Random
from typing import Any

import torch
from torch import Tensor

from neucore_xl.config.schema import Settings
from neucore_xl.data.batches import TextFeatures, move
from neucore_xl.data.datasets import open_from_settings
from neucore_xl.data.triplets import Split, Triplet
from neucore_xl.encoding.inputs import check_features, device_of, on_device
from neucore_xl.encoding.scores import Scorer
from neucore_xl.language.vocabulary import Vocabulary
from neucore_xl.models.head import Head
from neucore_xl.models.layers import l2
from neucore_xl.models.starts.pairs import Pairs
from neucore_xl.models.starts.search import Found, search
from neucore_xl.parallel.world import ALONE, World
from neucore_xl.progress import track
from neucore_xl.runs.system import System, assemble

SAMPLE, MOST = 4096, 50_000  # pairs that pass the towers, and pairs whose features are read
Report = dict[str, Any]


def fit(system: System, scorer: Scorer, split: Split, *, device: torch.device | None = None) -> Report | None:
    """Fit what the composer of ``system`` fits on the training pairs ``split``; None where it fits nothing.

    Call it before an engine takes the composer, on all ranks alike; rank 0 computes, on ``device`` (None: where the
    backbone is). ``scorer`` covers ``split``. θ is set to the scale that fits. The report says what was found, and is
    empty where there are too few pairs: the composer then stays as it was made.
    """
    head = system.composer
    if not isinstance(head, Head) or (start := head.fitted()) is None:
        return None
    settings = system.settings

    def found() -> tuple[Found | None, float]:
        began = time.perf_counter()
        pairs = _pairs(head, scorer, split, device or device_of(system.backbone), settings.train.seed)
        scale = math.exp(settings.loss.temperature_max)
        return search(start, pairs, max_scale=scale, seed=settings.train.seed), time.perf_counter() - began

    result, seconds = system.world.on_main(found)
    if result is None:
        return {}
    start.load(result.buffers)
    with torch.no_grad():
        head.temperature.theta.fill_(result.log_scale)
    return dict(result.report) | {"seconds": round(seconds, 1)}


def fitted(settings: Settings, world: World = ALONE) -> tuple[System, Report | None]:
    """An untrained system on its device, fitted on ``data.train_split`` if there is something to fit, and the report.

    Raises ``UserError`` as ``assemble`` does, and where that split is missing although it is needed.
    """
    system = assemble(settings, Vocabulary([]), world=world).to(settings.train.device)
    system.composer.eval()
    head = system.composer
    if not isinstance(head, Head) or head.fitted() is None:
        return system, None
    with world.agreed():
        split = open_from_settings(settings.data, settings.data.train_split)
        check_features(settings, [split])
    scorer = system.prepare([split], without_gallery=[split.name])
    return system, fit(system, scorer, split)


def told(report: Report) -> str:
    """One line about what was found, for people."""
    if not report:
        return "start: the reference image, there are too few pairs to choose another"
    try:
        blend = " + ".join(f"{weight:g} {part}" for part, weight in report["weights"].items() if weight)
        among = f"{report['held_out']:,} of {report['pairs']:,} pairs"
        return (
            f"start: {blend}{', centred' if report['centred'] else ''}; scale {report['scale']:.3g}; mean reciprocal "
            f"rank {report['reciprocal_rank']:.1f} on {among} ({report['seconds']:.0f} s)"
        )
    except (KeyError, TypeError, ValueError, AttributeError):  # somebody changed the file
        return "start: as it was found before the first step; start.json no longer says how"


@torch.no_grad()
def _pairs(head: Head, scorer: Scorer, split: Split, device: torch.device, seed: int) -> Pairs:
    triplets: Sequence[Triplet] = [t for t in split.triplets if t.target is not None]
    collator, size = scorer.collator(split), scorer.settings.evaluation.batch_size
    stored = isinstance(scorer.inputs.texts([""]), TextFeatures) and head.backbone.image_frozen
    most = MOST if stored and scorer.settings.train.cache_features else SAMPLE
    if len(triplets) > most:
        triplets = Random(seed).sample(triplets, most)
    names = list(dict.fromkeys(name for t in triplets for name in (t.reference, t.target) if name is not None))
    place = {name: i for i, name in enumerate(names)}
    images: list[Tensor] = []
    read: dict[str, list[Tensor]] = {}
    words: list[Tensor] = []
    with on_device(head.backbone, device), track("start", len(names) + len(triplets), shown=True) as advance:
        for first in range(0, len(names), size):
            chunk = names[first : first + size]
            pooled = head.backbone.images(move(scorer.inputs.images(chunk), device)).pooled
            images.append(l2(pooled).cpu())
            advance(len(chunk))
        for first in range(0, len(triplets), size):
            asked = triplets[first : first + size]
            sequence = collator.sequence(asked)
            texts = scorer.inputs.texts([t.text for t in asked])
            for name, value in head.parts(head.as_text(move(texts, device), move(sequence, device))).items():
                read.setdefault(name, []).append(value.float().cpu())
            assert sequence.words is not None
            words.append(sequence.words)
            advance(len(asked))
    width = max(w.shape[1] for w in words)
    padded = [torch.nn.functional.pad(w, (0, width - w.shape[1])) for w in words]
    return Pairs(
        images=torch.cat(images),
        reference=torch.tensor([place[t.reference] for t in triplets]),
        target=torch.tensor([place[t.target] for t in triplets if t.target is not None]),
        words=torch.cat(padded),
        **{name: torch.cat(values) for name, values in read.items()},
    )
