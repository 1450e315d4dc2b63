"""Subsets of six similar scenes, by the procedure of CIRR (Liu et al., 2021, section 4.1 and supplement D)."""

from __future__ import annotations

import random
from collections.abc import Generator, Sequence

import numpy as np

from neucore_xl.data.subsets.procedure import Overlap, subset_of
from neucore_xl.shapes.scene import (
    BACKGROUND_COLOURS,
    BACKGROUND_KINDS,
    COLOURS,
    COUNTS,
    SHAPES,
    SIZES,
    TEXTURES,
    TILTS,
    ZOOMS,
    Scene,
)

WIDTH = 96
# The squared length of what all images have in common, as the non-negative features of a ResNet have. It lifts every
# cosine: scenes of one slight edit count as near-identical and stay in the gallery as distractors, without which the
# nearest neighbour of a reference would too often be its target.
COMMON = 0.8
BLOCK = 128  # first images whose similarities are computed at a time
_WEIGHTS = {"shape": 0.8, "colour": 0.9, "texture": 0.55, "size": 0.5, "count": 0.6, "place": 0.6}


def _table() -> dict[tuple[str, object], np.ndarray]:
    """One fixed random direction for each value of each attribute: the stand-in for a ResNet's features."""
    rng = np.random.default_rng(20210904)
    values: list[tuple[str, object]] = []
    for name, options in (
        ("shape", SHAPES), ("colour", COLOURS), ("texture", TEXTURES), ("size", SIZES), ("count", COUNTS),
        ("place", [(r, c) for r in range(3) for c in range(3)]), ("background", BACKGROUND_COLOURS),
        ("kind", BACKGROUND_KINDS), ("zoom", ZOOMS), ("tilt", TILTS),
    ):  # fmt: skip
        values += [(name, v) for v in options]
    rows = rng.standard_normal((len(values), WIDTH)) / np.sqrt(WIDTH)
    return dict(zip(values, rows, strict=True))


_TABLE = _table()


def scene_features(scenes: Sequence[Scene]) -> np.ndarray:
    """Unit feature vectors [N, WIDTH + 1]: the cosine of two scenes falls with every attribute in which they differ."""
    features = np.zeros((len(scenes), WIDTH))
    for row, scene in zip(features, scenes, strict=True):
        for group in scene.groups:
            for name, weight in _WEIGHTS.items():
                row += weight * _TABLE[name, getattr(group, name)]
        row += 0.9 * _TABLE["background", scene.background] + 0.5 * _TABLE["kind", scene.background_kind]
        row += 0.6 * _TABLE["zoom", scene.zoom] + 0.5 * _TABLE["tilt", scene.tilt]
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    common = np.full((len(scenes), 1), np.sqrt(COMMON))
    return np.hstack([features, common]) / np.sqrt(1 + COMMON)


def subsets(features: np.ndarray, rng: random.Random) -> Generator[tuple[int, ...], bool, None]:
    """Subsets from all images as first image, in random order and without heavy overlap with those before.

    A subset counts for the overlap filter as soon as it is yielded, unless the consumer sends back ``False``.
    """
    overlap = Overlap()
    firsts = list(range(len(features)))
    rng.shuffle(firsts)
    for start in range(0, len(firsts), BLOCK):
        block = firsts[start : start + BLOCK]
        # Rounding makes the order independent of the last bits of a machine's matrix product.
        cosines = np.round(features[block] @ features.T, 9)
        for first, cosine in zip(block, cosines, strict=True):
            members = subset_of(cosine, first)
            if members is None or overlap.heavy(members):
                continue
            accepted = yield members
            if accepted is not False:
                overlap.keep(members)
