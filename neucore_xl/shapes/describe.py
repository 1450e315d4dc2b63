"""Complete English descriptions of single pictures, for training a small CLIP."""

from __future__ import annotations

import random

from neucore_xl.shapes.nouns import NUMBERS, PLACES, PLURALS, SIZE_WORDS, SYNONYMS, article, joined
from neucore_xl.shapes.scene import Group, Scene


def _group(group: Group, rng: random.Random) -> str:
    noun = rng.choice(SYNONYMS[group.shape])
    if group.count > 1:
        noun = PLURALS.get(noun, noun + "s")
    size = rng.choice(SIZE_WORDS[group.size]) if group.size != "medium" or rng.random() < 0.5 else ""
    texture = group.texture if group.texture != "plain" or rng.random() < 0.4 else ""
    words = joined((size, texture, group.colour, noun))
    head = article(words) if group.count == 1 else f"{NUMBERS[group.count]} {words}"
    return f"{head} {rng.choice(PLACES[group.place])}"


def describe(scene: Scene, rng: random.Random) -> str:
    """All that the picture shows, in varied words and order."""
    groups = [_group(g, rng) for g in scene.groups]
    rng.shuffle(groups)
    things = groups[0] if len(groups) == 1 else ", ".join(groups[:-1]) + " and " + groups[-1]
    kind = scene.background_kind if scene.background_kind != "plain" or rng.random() < 0.5 else ""
    ground = f"{article(joined((kind, scene.background)))} {rng.choice(('background', 'background', 'backdrop'))}"
    text = f"{things} on {ground}"
    if rng.random() < 0.25:
        text = f"{ground} with {things}"
    if scene.zoom:
        near = ("seen from close up", "a closer view", "zoomed in")
        far = ("seen from far away", "a wider view", "zoomed out")
        text += ", " + rng.choice(near if scene.zoom > 0 else far)
    if scene.tilt:
        thing = rng.choice(("picture", "view", "image", "camera"))
        text += f", the {thing} tilted to the {'right' if scene.tilt > 0 else 'left'}"
    return text
