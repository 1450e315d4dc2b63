"""The search for a start: which parts, how much of each, centred or not, and the scale of the scores that fits.

Pairs of a training split are cut by their reference image into a larger part, on which the ridge maps are fitted, and
one that is held out, on which everything is chosen. A blend is as good as the mean of two mean reciprocal ranks of the
targets: among the images of the held-out pairs and as many others as make ``GALLERY``, and among the ``NEAR`` images
most like the reference, which are the distractors that are hard to tell apart. The scale is then the one with the least
loss of batch classification (equation 10). The chosen maps are fitted on all pairs. No step follows a gradient.
Legend: n pairs, U images, D joint width, H held-out pairs, G images of their gallery.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from neucore_xl.models.starts.pairs import Pairs
from neucore_xl.models.starts.ridge import RidgeMaps
from neucore_xl.models.starts.start import Part, Start

HELD, GALLERY = 1024, 3072  # pairs held out at most, and images that they are compared with
NEAR = 5  # as many as a subset of CIRR has beside the reference
LEAST = 24  # fewer pairs are not searched
WEIGHTS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
SCALES = (5.0, 10.0, 14.2849, 20.0, 35.0, 60.0, 100.0)
PENALTIES: Mapping[Part, Sequence[float]] = {"ridge": (0.3, 1.0, 3.0, 10.0, 30.0), "words": (1.0, 4.0, 16.0)}


@dataclass(frozen=True)
class Found:
    """What the search gives: the buffers of a ``Start``, θ, and what a run records of it."""

    buffers: Mapping[str, Tensor]
    log_scale: float
    report: Mapping[str, object]


@torch.no_grad()
def search(start: Start, pairs: Pairs, *, max_scale: float, seed: int = 0) -> Found | None:
    """The best start of the ``parts`` of ``start`` for ``pairs``; None where there are fewer than ``LEAST`` of them."""
    if len(pairs) < LEAST:
        return None
    held, rest = _cut(pairs, seed)
    gallery = _gallery(pairs, held, seed)
    penalties: dict[Part, float] = {}
    tried: list[tuple[float, dict[Part, float], RidgeMaps, _Trial]] = []
    for centred in (False, True) if start.centring else (False,):
        maps = RidgeMaps.of(pairs, centred=centred)
        trial = _Trial(pairs, held, gallery, maps.images)
        for part in start.parts:
            if part in PENALTIES:  # chosen once: centring moves it little, and each choice costs a factorisation
                asked = [penalties[part]] if part in penalties else PENALTIES[part]
                found = dict(maps.predictions(part, rest, held, asked))
                penalties[part] = max(found, key=lambda penalty: trial.alone(part, found[penalty]))
                trial.add(part, found[penalties[part]])
            else:
                trial.add(part, maps.part(part)[held])
        weights = _ascend(start, trial)
        tried.append((trial.value(weights), weights, maps, trial))
    value, weights, maps, trial = max(tried, key=lambda found: found[0])
    loss, scale = min((trial.loss(weights, scale), scale) for scale in SCALES if scale <= max_scale * (1 + 1e-6))
    buffers = {"weights": torch.tensor([weights[part] for part in start.parts])}
    buffers |= maps.buffers(start, penalties)
    report = {
        "weights": weights,
        "centred": maps.centred,
        "penalties": penalties,
        "scale": scale,
        "reciprocal_rank": 100 * value,
        "reciprocal_rank_of_each": {part: 100 * trial.value({part: 1.0}) for part in start.parts},
        "loss": loss,
        "pairs": len(pairs),
        "held_out": len(held),
        "gallery": len(gallery),
    }
    return Found(buffers, math.log(scale), report)


class _Trial:
    """How good blends of parts are on the held-out pairs, from the inner products of the parts alone."""

    def __init__(self, pairs: Pairs, held: Tensor, gallery: Tensor, images: Tensor) -> None:
        place = torch.full((len(pairs.images),), -1)
        place[gallery] = torch.arange(len(gallery))
        self.target, reference = place[pairs.target[held]][:, None], place[pairs.reference[held]]
        self.columns = images[gallery]
        self.barred = torch.zeros(len(held), len(gallery), dtype=torch.bool)
        self.barred[torch.arange(len(held)), reference] = True
        self.barred.scatter_(1, self.target, False)  # where a reference is its own target it stays the answer
        alike = (self.columns[reference] @ self.columns.T).masked_fill(self.barred, -2)
        self.near = alike.scatter(1, self.target, -2).topk(min(NEAR, len(gallery) - 1), 1).indices
        self.scores: dict[Part, Tensor] = {}
        self.vectors: dict[Part, Tensor] = {}

    def add(self, part: Part, vectors: Tensor) -> None:
        """``vectors [H, D]`` of a part."""
        self.vectors[part], self.scores[part] = vectors, vectors @ self.columns.T

    def alone(self, part: Part, vectors: Tensor) -> float:
        """The value of ``vectors [H, D]`` as the only part."""
        self.add(part, vectors)
        return self.value({part: 1.0})

    def blended(self, weights: Mapping[Part, float]) -> Tensor:
        """Cosines ``[H, G]`` of a blend with the gallery; the reference is out of it."""
        used = [part for part, weight in weights.items() if weight]
        vectors, scores = torch.zeros(1), torch.zeros(1)
        for part in used:
            vectors = vectors + weights[part] * self.vectors[part]
            scores = scores + weights[part] * self.scores[part]
        return (scores / vectors.norm(dim=1, keepdim=True).clamp_min(1e-12)).masked_fill(self.barred, -2)

    def value(self, weights: Mapping[Part, float]) -> float:
        """The mean reciprocal ranks of a blend, among all and among the near, half of each; ties are lost."""
        if not any(weights.values()):
            return 0.0
        scores = self.blended(weights)
        target = scores.gather(1, self.target)
        among_all = (scores >= target).sum(1)
        among_near = (scores.gather(1, self.near) >= target).sum(1) + 1
        return float((1 / among_all + 1 / among_near).mean() / 2)

    def loss(self, weights: Mapping[Part, float], scale: float) -> float:
        """Of batch classification over the gallery, in nats."""
        return F.cross_entropy(self.blended(weights) * scale, self.target[:, 0]).item()


def _ascend(start: Start, trial: _Trial) -> dict[Part, float]:
    """One weight at a time, over ``WEIGHTS``, from the best part alone until none gets better."""
    weights: dict[Part, float] = {part: 0.0 if part in start.free else 1.0 for part in start.parts}
    if set(start.free) == set(start.parts):
        weights[max(start.parts, key=lambda part: trial.value({part: 1.0}))] = 1.0
    best, moved = trial.value(weights), True
    while moved:
        moved = False
        for part in start.free:
            values = {w: trial.value({**weights, part: w}) for w in WEIGHTS if w != weights[part]}
            weight = max(values, key=lambda w: values[w])
            if values[weight] > best + 1e-4:
                best, weights[part], moved = values[weight], weight, True
    return weights


def _cut(pairs: Pairs, seed: int) -> tuple[Tensor, Tensor]:
    """Held-out pairs and the others; all pairs of a reference image are on one side. At most half are held out."""
    draw = torch.Generator().manual_seed(seed)
    references = torch.unique(pairs.reference)
    order = references[torch.randperm(len(references), generator=draw)]
    rank = torch.zeros(len(pairs.images), dtype=torch.long)
    rank[order] = torch.arange(len(order))
    sizes = torch.bincount(rank[pairs.reference], minlength=len(order)).cumsum(0)
    wanted = min(HELD, max(len(pairs) // 5, 8))
    out = rank[pairs.reference] <= int((sizes < wanted).sum())
    if int(out.sum()) * 2 > len(pairs):  # few references with many pairs each: one reference would be most of it
        out = torch.zeros(len(pairs), dtype=torch.bool)
        out[torch.randperm(len(pairs), generator=draw)[:wanted]] = True
    return out.nonzero()[:, 0], (~out).nonzero()[:, 0]


def _gallery(pairs: Pairs, held: Tensor, seed: int) -> Tensor:
    """Distinct images ``[G]`` that the held-out pairs are compared with, their targets among them."""
    own = torch.unique(torch.cat([pairs.target[held], pairs.reference[held]]))
    others = torch.ones(len(pairs.images), dtype=torch.bool)
    others[own] = False
    found = others.nonzero()[:, 0]
    draw = torch.Generator().manual_seed(seed)
    chosen = found[torch.randperm(len(found), generator=draw)[: max(0, GALLERY - len(own))]]
    return torch.cat([own, chosen])
