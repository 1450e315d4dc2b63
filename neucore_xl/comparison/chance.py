"""What blind guessing gives on a split: every ranked image is equally likely to stand at every place."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from neucore_xl.data.triplets import Split, Triplet

_RECALL = re.compile(r"(?:(?P<category>[^/]+)/)?(?P<kind>R|R_subset)@(?P<k>\d+)")


def chance(split: Split, protocol: Mapping[str, Any], measures: list[str]) -> dict[str, float]:
    """Expected recall in percent, of the ``measures`` that are recalls, and of ``mean`` as the protocol defines it.

    R@K of a query is K / G, of the G images that are ranked (one less where the reference is taken out and was in the
    gallery); R_subset@K is K / M, of the M other members of its subset. A target that is not ranked is a miss.
    Averages as in the protocol: over categories, or over queries where it says ``micro``.
    """
    out: dict[str, float] = {}
    for name in measures:
        if found := _RECALL.fullmatch(name):
            k, category = int(found["k"]), found["category"]
            draw = _in_gallery(split, protocol, k) if found["kind"] == "R" else _in_subset(k)
            out[name] = 100 * _average(split, protocol, draw, category)
    parts = re.findall(r"R\w*@\d+", str(protocol.get("mean", "")))
    if parts and all(part in out for part in parts):
        out["mean"] = float(np.mean([out[part] for part in parts]))
    return out


def _average(
    split: Split, protocol: Mapping[str, Any], draw: Callable[[Triplet], float], category: str | None
) -> float:
    by_category: dict[str, list[float]] = {}
    for triplet in split.triplets:
        if category is None or triplet.category == category:
            by_category.setdefault(triplet.category or "", []).append(draw(triplet))
    if not by_category:
        return 0.0
    if protocol.get("average") == "macro":
        return float(np.mean([np.mean(values) for values in by_category.values()]))
    return float(np.mean([value for values in by_category.values() for value in values]))


def _in_gallery(split: Split, protocol: Mapping[str, Any], k: int) -> Callable[[Triplet], float]:
    galleries = {key: frozenset(gallery.names) for key, gallery in split.galleries.items()}
    taken_out = protocol.get("reference") in ("taken out", "drop")

    def draw(triplet: Triplet) -> float:
        names = galleries[triplet.category or ""]
        out = taken_out and triplet.reference in names
        if triplet.target not in names or (out and triplet.target == triplet.reference):
            return 0.0
        return min(1.0, k / (len(names) - int(out)))

    return draw


def _in_subset(k: int) -> Callable[[Triplet], float]:
    def draw(triplet: Triplet) -> float:
        others = set(triplet.subset) - {triplet.reference}
        return min(1.0, k / len(others)) if triplet.target in others else 0.0

    return draw
