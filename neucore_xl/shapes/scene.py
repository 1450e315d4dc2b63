"""What a generated picture shows: groups of like objects on a 3 × 3 grid, a background and a viewpoint.

A scene is symbolic and small, so that the difference of two scenes, the sentence that says it and the check that no
other picture fits the sentence are all exact.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

SHAPES = ("circle", "square", "triangle", "star", "ring", "cross", "heart")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "white", "black")
TEXTURES = ("plain", "striped", "dotted", "checked")
SIZES = ("small", "medium", "large")
COUNTS = (1, 2, 3, 4)
BACKGROUND_COLOURS = ("grey", "beige", "pink", "brown", "turquoise", "navy")
BACKGROUND_KINDS = ("plain", "shaded", "tiled")
ZOOMS = (-1, 0, 1)  # wide, normal, close
TILTS = (-1, 0, 1)  # to the left, level, to the right
GROUP_ATTRIBUTES = ("shape", "colour", "texture", "size", "count", "place")

Place = tuple[int, int]  # (row, column), each 0, 1 or 2 from the top left


@dataclass(frozen=True)
class Group:
    """``count`` equal objects standing together in one cell of the grid."""

    shape: str
    colour: str
    texture: str
    size: str
    count: int
    place: Place


@dataclass(frozen=True)
class Scene:
    """One picture. ``jitter`` seeds the small random shifts of its drawing and is no part of what it shows."""

    groups: tuple[Group, ...]
    background: str
    background_kind: str
    zoom: int = 0
    tilt: int = 0
    jitter: int = 0

    @property
    def key(self) -> Scene:
        """The scene without its jitter and with its groups in a fixed order: equal keys show the same things."""
        return replace(self, groups=tuple(sorted(self.groups, key=repr)), jitter=0)


@dataclass(frozen=True)
class Palette:
    """The shapes, colours and backgrounds that one category of pictures may show."""

    shapes: tuple[str, ...] = SHAPES
    colours: tuple[str, ...] = COLOURS
    backgrounds: tuple[str, ...] = BACKGROUND_COLOURS


# Fashion-IQ's three categories become three overlapping palettes, so that one model serves all of them.
CATEGORY_PALETTES: dict[str, Palette] = {
    "dress": Palette(("circle", "star", "heart", "ring", "triangle"), COLOURS, ("grey", "pink", "beige", "navy")),
    "shirt": Palette(
        ("square", "triangle", "cross", "circle", "star"), COLOURS, ("grey", "brown", "turquoise", "navy")
    ),
    "toptee": Palette(("ring", "cross", "heart", "square", "circle"), COLOURS, ("beige", "pink", "turquoise", "brown")),
}


def mirrored(place: Place) -> Place:
    """The cell that ``place`` becomes when the picture is flipped left to right."""
    return (place[0], 2 - place[1])


def apart(a: Place, b: Place) -> bool:
    """Whether two groups may stand in these cells: never in neighbouring ones, so that clusters stay separate."""
    return max(abs(a[0] - b[0]), abs(a[1] - b[1])) >= 2


def is_valid(scene: Scene) -> bool:
    """Whether the scene can be drawn and talked about without confusion."""
    groups = scene.groups
    if not 1 <= len(groups) <= 3:
        return False
    if scene.zoom == 1 and scene.tilt != 0:  # a close-up hides the corners by which a tilt is seen
        return False
    for i, a in enumerate(groups):
        for b in groups[:i]:
            if not apart(a.place, b.place) or (a.shape, a.colour) == (b.shape, b.colour):
                return False
    return True


def random_group(rng: random.Random, palette: Palette, place: Place) -> Group:
    """A random group in ``place``; plain textures and single objects are the most frequent."""
    return Group(
        shape=rng.choice(palette.shapes),
        colour=rng.choice(palette.colours),
        texture=rng.choices(TEXTURES, (4, 2, 2, 2))[0],
        size=rng.choice(SIZES),
        count=rng.choices(COUNTS, (5, 3, 2, 1))[0],
        place=place,
    )


def free_places(groups: tuple[Group, ...]) -> list[Place]:
    """The cells in which one more group may stand."""
    cells = [(row, column) for row in range(3) for column in range(3)]
    return [cell for cell in cells if all(apart(cell, g.place) for g in groups)]


def random_scene(rng: random.Random, palette: Palette) -> Scene:
    """A random valid scene of one to three groups."""
    while True:
        groups: tuple[Group, ...] = ()
        for _ in range(rng.choices((1, 2, 3), (3, 5, 2))[0]):
            places = free_places(groups)
            if places:
                groups += (random_group(rng, palette, rng.choice(places)),)
        scene = Scene(
            groups=groups,
            background=rng.choice(palette.backgrounds),
            background_kind=rng.choices(BACKGROUND_KINDS, (3, 1, 1))[0],
            zoom=rng.choices(ZOOMS, (1, 4, 1))[0],
            tilt=rng.choices(TILTS, (1, 10, 1))[0],
        )
        if is_valid(scene):
            return scene
