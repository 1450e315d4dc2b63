"""Scenes are valid and edits change them; pictures show every attribute and are the same every time."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neucore_xl.shapes.describe import describe
from neucore_xl.shapes.draw import render
from neucore_xl.shapes.edits import corpus, random_edit
from neucore_xl.shapes.scene import CATEGORY_PALETTES, Group, Palette, Scene, is_valid, random_scene

SEEDS = st.integers(0, 2**32)
BASE = Scene((Group("square", "red", "plain", "medium", 2, (0, 0)),), "grey", "plain", jitter=5)


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_edits_keep_scenes_valid_and_change_what_they_show(seed: int) -> None:
    rng = random.Random(seed)
    scene = random_scene(rng, Palette())
    assert is_valid(scene)
    for _ in range(8):
        edited = random_edit(rng, scene, Palette())
        if edited is not None:
            assert is_valid(edited)
            assert edited.key != scene.key
            scene = edited


def test_a_corpus_repeats_no_scene_and_stays_in_its_palette() -> None:
    palette = CATEGORY_PALETTES["shirt"]
    scenes = corpus("seed", palette, 100, set())
    assert len({s.key for s in scenes}) == len(scenes) == 100
    assert {g.shape for s in scenes for g in s.groups} <= set(palette.shapes)
    assert {s.background for s in scenes} <= set(palette.backgrounds)


CHANGED = {
    "shape": replace(BASE, groups=(replace(BASE.groups[0], shape="circle"),)),
    "colour": replace(BASE, groups=(replace(BASE.groups[0], colour="blue"),)),
    "texture": replace(BASE, groups=(replace(BASE.groups[0], texture="dotted"),)),
    "size": replace(BASE, groups=(replace(BASE.groups[0], size="large"),)),
    "count": replace(BASE, groups=(replace(BASE.groups[0], count=3),)),
    "place": replace(BASE, groups=(replace(BASE.groups[0], place=(2, 1)),)),
    "background": replace(BASE, background="navy"),
    "background kind": replace(BASE, background_kind="tiled"),
    "zoom": replace(BASE, zoom=-1),
    "tilt": replace(BASE, tilt=1),
}


@pytest.mark.parametrize("name", CHANGED)
def test_every_attribute_is_seen(name: str) -> None:
    a, b = (np.asarray(render(s, 96), dtype=int) for s in (BASE, CHANGED[name]))
    visible = (np.abs(a - b).max(axis=2) > 40).mean()
    assert visible > 0.008, f"{name} changes {visible:.2%} of the pixels clearly"


def test_same_scene_same_pixels_and_other_jitter_other_pixels() -> None:
    assert render(BASE, 64).tobytes() == render(BASE, 64).tobytes()
    assert render(BASE, 64).tobytes() != render(replace(BASE, jitter=6), 64).tobytes()
    assert render(BASE, 48).size == (48, 48)
    assert render(BASE, 48).mode == "RGB"


def test_red_square_is_red_where_it_stands() -> None:
    scene = Scene((Group("square", "red", "plain", "large", 1, (1, 1)),), "grey", "plain")
    pixels = np.asarray(render(scene, 96))
    assert pixels[48, 48].tolist() == [212, 40, 40]
    assert pixels[4, 4].tolist() == [156, 158, 160]


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_a_description_names_all_that_is_shown(seed: int) -> None:
    rng = random.Random(seed)
    scene = random_scene(rng, Palette())
    text = describe(scene, rng)
    for group in scene.groups:
        assert group.colour in text
        assert group.texture == "plain" or group.texture in text
    assert scene.background in text
    assert ("tilted" in text) == (scene.tilt != 0)
