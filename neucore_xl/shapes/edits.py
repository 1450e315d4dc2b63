"""Random edits of a scene, and families of scenes that are edits of one another.

Random scenes differ in everything. A corpus for the CIRR procedure needs neighbours: each family is a base scene and
variants of it, one or two edits away, so that two members of a family differ by at most about four edits.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from neucore_xl.shapes.scene import (
    BACKGROUND_KINDS,
    COUNTS,
    SIZES,
    TEXTURES,
    TILTS,
    ZOOMS,
    Group,
    Palette,
    Scene,
    free_places,
    is_valid,
    mirrored,
    random_group,
    random_scene,
)

FAMILY = 28  # scenes of one family
EDIT_WEIGHTS = {
    "colour": 13, "shape": 9, "texture": 9, "size": 16, "count": 13, "place": 12, "add": 10, "remove": 8,
    "background": 10, "kind": 4, "zoom": 8, "tilt": 4, "mirror": 4, "swap": 4,
}  # fmt: skip
_NAMES, _WEIGHTS = tuple(EDIT_WEIGHTS), tuple(EDIT_WEIGHTS.values())


def _other(rng: random.Random, values: tuple[Any, ...], value: object) -> Any:
    return rng.choice([v for v in values if v != value])


def _with_group(scene: Scene, index: int, group: Group) -> Scene:
    return replace(scene, groups=(*scene.groups[:index], group, *scene.groups[index + 1 :]))


def _swap(rng: random.Random, scene: Scene) -> Scene:
    """Two groups exchange their places or their colours; the scene itself if there is one group."""
    if len(scene.groups) < 2:
        return scene
    i, j = rng.sample(range(len(scene.groups)), 2)
    name = rng.choice(("place", "colour"))
    groups = list(scene.groups)
    groups[i] = replace(groups[i], **{name: getattr(scene.groups[j], name)})
    groups[j] = replace(groups[j], **{name: getattr(scene.groups[i], name)})
    return replace(scene, groups=tuple(groups))


def random_edit(rng: random.Random, scene: Scene, palette: Palette) -> Scene | None:
    """``scene`` after one random edit, or None if the drawn edit is impossible there."""
    kind = rng.choices(_NAMES, _WEIGHTS)[0]
    index = rng.randrange(len(scene.groups))
    group = scene.groups[index]
    rest = (*scene.groups[:index], *scene.groups[index + 1 :])
    if kind in ("colour", "shape", "texture", "size", "count"):
        values = {
            "colour": palette.colours, "shape": palette.shapes, "texture": TEXTURES, "size": SIZES, "count": COUNTS,
        }[kind]  # fmt: skip
        edited = _with_group(scene, index, replace(group, **{kind: _other(rng, values, getattr(group, kind))}))
    elif kind == "place":
        places = [p for p in free_places(rest) if p != group.place]
        if not places:
            return None
        edited = _with_group(scene, index, replace(group, place=rng.choice(places)))
    elif kind == "add":
        places = free_places(scene.groups)
        if not places:
            return None
        edited = replace(scene, groups=(*scene.groups, random_group(rng, palette, rng.choice(places))))
    elif kind == "remove":
        edited = replace(scene, groups=rest)
    elif kind == "background":
        edited = replace(scene, background=_other(rng, palette.backgrounds, scene.background))
    elif kind == "kind":
        edited = replace(scene, background_kind=_other(rng, BACKGROUND_KINDS, scene.background_kind))
    elif kind == "zoom":
        edited = replace(scene, zoom=_other(rng, ZOOMS, scene.zoom))
    elif kind == "tilt":
        edited = replace(scene, tilt=_other(rng, TILTS, scene.tilt))
    elif kind == "swap":
        edited = _swap(rng, scene)
    else:
        if scene.tilt != 0:
            return None
        edited = replace(scene, groups=tuple(replace(g, place=mirrored(g.place)) for g in scene.groups))
    return edited if is_valid(edited) and edited.key != scene.key else None


def family(rng: random.Random, palette: Palette, size: int, taken: set[Scene]) -> list[Scene]:
    """``size`` distinct scenes: a base and variants of one or two edits; none of ``taken``, which grows by them."""
    while True:
        base = random_scene(rng, palette)
        if base.key not in taken:
            break
    scenes = [base]
    taken.add(base.key)
    while len(scenes) < size:
        variant: Scene | None = base
        for _ in range(rng.choices((1, 2), (6, 4))[0]):
            variant = random_edit(rng, variant, palette) if variant is not None else None
        if variant is not None and variant.key not in taken:
            taken.add(variant.key)
            scenes.append(variant)
    return [replace(s, jitter=rng.getrandbits(32)) for s in scenes]


def corpus(seed: str, palette: Palette, size: int, taken: set[Scene]) -> list[Scene]:
    """``size`` distinct scenes in families of ``FAMILY``; the last families share what is left evenly."""
    n = max(1, round(size / FAMILY))
    scenes: list[Scene] = []
    for i in range(n):
        share = (size - len(scenes)) // (n - i)
        scenes += family(random.Random(f"{seed}/family-{i}"), palette, share, taken)
    return scenes
