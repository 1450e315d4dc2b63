"""From a scene to pixels: PIL polygons at twice the size, then reduced."""

from __future__ import annotations

import math
import random
from functools import lru_cache

from PIL import Image, ImageDraw

from neucore_xl.shapes.scene import Group, Scene

RGB = tuple[int, int, int]

COLOUR_RGB: dict[str, RGB] = {
    "red": (212, 40, 40),
    "orange": (242, 138, 24),
    "yellow": (246, 220, 50),
    "green": (46, 150, 64),
    "blue": (40, 84, 214),
    "purple": (132, 54, 170),
    "white": (250, 250, 250),
    "black": (24, 24, 24),
}
BACKGROUND_RGB: dict[str, RGB] = {
    "grey": (156, 158, 160),
    "beige": (226, 208, 172),
    "pink": (242, 182, 198),
    "brown": (134, 98, 70),
    "turquoise": (98, 196, 190),
    "navy": (46, 58, 104),
}
SURROUND: RGB = (86, 86, 90)  # what is seen beside the scene when the camera is far or tilted
UNIT = 96.0  # a scene is laid out on a square of this side; the image size scales it
PITCH = 27.0  # distance between the centres of neighbouring cells
RADIUS = {"small": 6.8, "medium": 9.8, "large": 13.4}
SHRINK = {1: 1.2, 2: 1.0, 3: 0.92, 4: 0.86}  # many objects of one size are drawn a little smaller, to fit the cell
ZOOM_FACTOR = {-1: 0.8, 0: 1.0, 1: 1.24}
TILT_DEGREES = 18.0
SUPERSAMPLING = 2

_CLUSTERS = {
    1: ((0.0, 0.0),),
    2: ((-1.12, 0.0), (1.12, 0.0)),
    3: ((-1.12, 0.8), (1.12, 0.8), (0.0, -1.12)),
    4: ((-1.12, -1.12), (1.12, -1.12), (-1.12, 1.12), (1.12, 1.12)),
}


def _regular(n: int, start: float = 0.0) -> list[tuple[float, float]]:
    return [(math.cos(start + 2 * math.pi * k / n), math.sin(start + 2 * math.pi * k / n)) for k in range(n)]


def _star() -> list[tuple[float, float]]:
    points = []
    for k in range(10):
        radius = 1.15 if k % 2 == 0 else 0.5
        angle = -math.pi / 2 + math.pi * k / 5
        points.append((radius * math.cos(angle), radius * math.sin(angle)))
    return points


def _heart() -> list[tuple[float, float]]:
    points = []
    for k in range(28):
        t = 2 * math.pi * k / 28
        x = 16 * math.sin(t) ** 3
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((x / 15.5, -(y + 2) / 15.5))
    return points


_CROSS = [(a / 2.9, b / 2.9) for a, b in (
    (-1, -3), (1, -3), (1, -1), (3, -1), (3, 1), (1, 1), (1, 3), (-1, 3), (-1, 1), (-3, 1), (-3, -1), (-1, -1),
)]  # fmt: skip
OUTLINES: dict[str, list[tuple[float, float]]] = {
    "circle": _regular(28),
    "square": [(-0.92, -0.92), (0.92, -0.92), (0.92, 0.92), (-0.92, 0.92)],
    "triangle": [(0.0, -1.05), (1.05, 0.85), (-1.05, 0.85)],
    "star": _star(),
    "ring": _regular(28),
    "cross": _CROSS,
    "heart": _heart(),
}
_HOLE = [(0.52 * x, 0.52 * y) for x, y in _regular(20)]


@lru_cache(maxsize=256)
def _ground(colour: str, kind: str, zoom: int, tilt: int, side: int) -> Image.Image:
    """The background as the camera sees it; cached, since few of them exist."""
    base = BACKGROUND_RGB[colour]
    mat = Image.new("RGB", (side, side), base)
    draw = ImageDraw.Draw(mat)
    if kind == "shaded":
        for y in range(side):
            f = 1.12 - 0.62 * y / side
            draw.line([(0, y), (side, y)], fill=tuple(min(255, int(c * f)) for c in base))
    elif kind == "tiled":
        line = tuple(int(c * 0.72) for c in base)
        step = side / 6
        for k in range(7):
            at = round(k * step)
            draw.line([(at, 0), (at, side)], fill=line, width=max(1, side // 64))
            draw.line([(0, at), (side, at)], fill=line, width=max(1, side // 64))
    # The inverse map of the camera: from a pixel of the view to a pixel of the mat.
    angle, factor, c = math.radians(TILT_DEGREES * tilt), ZOOM_FACTOR[zoom], side / 2
    cos, sin = math.cos(angle) / factor, math.sin(angle) / factor
    matrix = (cos, sin, c - cos * c - sin * c, -sin, cos, c + sin * c - cos * c)
    return mat.transform((side, side), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=SURROUND)


@lru_cache(maxsize=1024)
def _fill(colour: str, texture: str, period: int, side: int) -> Image.Image:
    """A square of the object's colour with its texture, ``period`` pixels per repeat."""
    main = COLOUR_RGB[colour]
    second = {"white": (150, 150, 156), "black": (170, 170, 170)}.get(colour) or tuple(
        int(c + (255 - c) * 0.72) for c in main
    )
    if colour == "yellow":
        second = (176, 130, 10)
    tile = Image.new("RGB", (side, side), main)
    draw = ImageDraw.Draw(tile)
    half = max(1, period // 2)
    if texture == "striped":
        for x in range(-side, side, period):
            draw.polygon([(x, 0), (x + half, 0), (x + half + side, side), (x + side, side)], fill=second)
    elif texture == "dotted":
        r = max(1.0, period * 0.29)
        for row, y in enumerate(range(0, side + period, period)):
            for x in range(-(row % 2) * half, side + period, period):
                draw.ellipse([x - r, y - r, x + r, y + r], fill=second)
    elif texture == "checked":
        for row, y in enumerate(range(0, side, half)):
            for x in range((row % 2) * half, side, 2 * half):
                draw.rectangle([x, y, x + half - 1, y + half - 1], fill=second)
    return tile


def _draw_group(view: Image.Image, group: Group, scene: Scene, rng: random.Random, scale: float) -> None:
    angle = math.radians(TILT_DEGREES * scene.tilt)
    cos, sin = math.cos(angle), math.sin(angle)
    centre = view.width / 2
    radius = RADIUS[group.size] * SHRINK[group.count]
    gx = (group.place[1] - 1) * PITCH + rng.uniform(-2.0, 2.0)
    gy = (group.place[0] - 1) * PITCH + rng.uniform(-2.0, 2.0)
    reach = radius * (1.12 + 1.15 if group.count > 1 else 1.15)
    limit = UNIT / 2 - 1.0
    gx = min(max(gx, -limit + reach), limit - reach)  # a wide cluster in a corner is pushed inside the picture
    gy = min(max(gy, -limit + reach), limit - reach)
    draw = ImageDraw.Draw(view)
    outline = (70, 70, 70) if group.colour == "black" else (20, 20, 20)
    for dx, dy in _CLUSTERS[group.count]:
        x0, y0 = gx + dx * radius, gy + dy * radius
        x, y = centre + scale * (cos * x0 - sin * y0), centre + scale * (sin * x0 + cos * y0)
        turn = angle + math.radians(rng.uniform(-6, 6))
        r = radius * scale
        c, s = r * math.cos(turn), r * math.sin(turn)
        points = [(x + c * a - s * b, y + s * a + c * b) for a, b in OUTLINES[group.shape]]
        hole = [(x + c * a - s * b, y + s * a + c * b) for a, b in _HOLE] if group.shape == "ring" else None
        if group.texture == "plain" and hole is None:
            draw.polygon(points, fill=COLOUR_RGB[group.colour], outline=outline)
            continue
        left, top, side = int(x - 1.2 * r), int(y - 1.2 * r), int(2.4 * r) + 2
        mask = Image.new("L", (side, side), 0)
        mask_draw = ImageDraw.Draw(mask)
        mask_draw.polygon([(px - left, py - top) for px, py in points], fill=255)
        if hole is not None:
            mask_draw.polygon([(px - left, py - top) for px, py in hole], fill=0)
        period = max(6, 2 * round(0.36 * r))
        view.paste(_fill(group.colour, group.texture, period, side), (left, top), mask)
        draw.polygon(points, outline=outline)
        if hole is not None:
            draw.polygon(hole, outline=outline)


def render(scene: Scene, size: int) -> Image.Image:
    """The picture of a scene, RGB, ``size`` × ``size`` pixels; the same scene always gives the same pixels."""
    side = size * SUPERSAMPLING
    view = _ground(scene.background, scene.background_kind, scene.zoom, scene.tilt, side).copy()
    rng = random.Random(scene.jitter)
    for group in scene.groups:
        _draw_group(view, group, scene, rng, ZOOM_FACTOR[scene.zoom] * side / UNIT)
    return view.reduce(SUPERSAMPLING)
