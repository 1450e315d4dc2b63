"""Matching of groups against brute force; statements against hand-made pairs."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neucore_xl.shapes.claims import Statement, fits_alone, holds
from neucore_xl.shapes.difference import _UNMATCHED, _cost, difference, match_groups
from neucore_xl.shapes.edits import random_edit
from neucore_xl.shapes.scene import Group, Palette, Scene, mirrored, random_scene
from neucore_xl.shapes.statements import changes

STAR = Group("star", "red", "plain", "small", 2, (0, 0))
RING = Group("ring", "blue", "striped", "large", 1, (2, 2))
BASE = Scene((STAR, RING), "grey", "plain")


def brute(a: Scene, b: Scene) -> float:
    """The cost of the best partial match, by trying everything."""
    best = float("inf")
    slots = [*range(len(b.groups)), *[None] * len(a.groups)]
    for choice in set(itertools.permutations(slots, len(a.groups))):
        best = min(best, cost_of(a, b, choice))
    return best


def cost_of(a: Scene, b: Scene, match: tuple[int | None, ...]) -> float:
    used = sum(j is not None for j in match)
    paired = sum(_cost(g, b.groups[j]) for g, j in zip(a.groups, match, strict=True) if j is not None)
    return paired + _UNMATCHED * (len(a.groups) + len(b.groups) - 2 * used)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 4))
def test_the_match_is_the_cheapest(seed: int, edits: int) -> None:
    rng = random.Random(seed)
    a = random_scene(rng, Palette())
    b = a if edits else random_scene(rng, Palette())
    for _ in range(edits):
        b = random_edit(rng, b, Palette()) or b
    assert cost_of(a, b, match_groups(a, b)) == pytest.approx(brute(a, b))


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32))
def test_changes_account_for_the_whole_difference_and_are_true(seed: int) -> None:
    rng = random.Random(seed)
    a = random_scene(rng, Palette())
    b = a
    for _ in range(3):
        b = random_edit(rng, b, Palette()) or b
    d = difference(a, b)
    stated = changes(d, rng)
    assert d.keys <= frozenset().union(*(s.covers for s in stated))
    assert all(holds(s, d) for s in stated)
    assert all(fits_alone(s, b) for s in stated)


def test_no_difference_has_no_keys() -> None:
    assert difference(BASE, replace(BASE, groups=(RING, STAR), jitter=9)).keys == frozenset()


CASES = [
    ("bigger star", replace(BASE, groups=(replace(STAR, size="large"), RING)), Statement("size", 0, (("sign", 1),))),
    ("more stars", replace(BASE, groups=(replace(STAR, count=3), RING)), Statement("set", 0, (("count", 3),))),
    ("no ring", replace(BASE, groups=(STAR,)), Statement("remove", 1)),
    (
        "moved right",
        replace(BASE, groups=(replace(STAR, place=(0, 2)), RING)),
        Statement("move", 0, (("way", "right"),)),
    ),
    (
        "moved across",
        replace(BASE, groups=(replace(STAR, place=(2, 0)), RING)),
        Statement("move", 0, (("way", "down"),)),
    ),
    ("darker", replace(BASE, background="navy"), Statement("brightness", None, (("sign", -1),))),
    ("closer", replace(BASE, zoom=1), Statement("zoom", None, (("sign", 1),))),
    ("tilted", replace(BASE, tilt=1), Statement("view", None, (("tilt", 1),))),
    (
        "places swapped",
        replace(BASE, groups=(replace(STAR, place=(2, 2)), replace(RING, place=(0, 0)))),
        Statement("exchange", 0, (("other", 1), ("attribute", "place"))),
    ),
    (
        "mirrored",
        replace(BASE, groups=tuple(replace(g, place=mirrored(g.place)) for g in BASE.groups)),
        Statement("mirror"),
    ),
    (
        "added",
        replace(BASE, groups=(STAR, RING, Group("heart", "green", "plain", "small", 1, (0, 2)))),
        Statement("add", None, (("shape", "heart"), ("count", 1))),
    ),
]


@pytest.mark.parametrize(("target", "statement"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_a_statement_holds_for_its_target_and_for_no_other(target: Scene, statement: Statement) -> None:
    own = next(name for name, scene, _ in CASES if scene is target)
    also = {"moved right": {"mirrored"}}.get(own, set())  # mirroring moves the star to the right
    assert {name for name, scene, _ in CASES if holds(statement, difference(BASE, scene))} == {own} | also
    assert not holds(statement, difference(BASE, BASE))


def test_keep_is_broken_by_what_it_forbids() -> None:
    bigger = replace(BASE, groups=(replace(STAR, size="large"), RING))
    both = replace(bigger, background="pink")
    covers = frozenset({("group", 0, "size")})
    for keep in (Statement("keep background"), Statement("keep rest", covers=covers)):
        assert holds(keep, difference(BASE, bigger))
        assert not holds(keep, difference(BASE, both))
    assert holds(Statement("keep group", 1), difference(BASE, both))
    assert not holds(Statement("keep group", 0), difference(BASE, both))
    assert holds(Statement("keep attribute", 0, (("name", "colour"),)), difference(BASE, both))
