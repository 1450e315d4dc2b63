"""Choosing what to say about a pair: the claims that account for its difference and lead to one target only."""

from __future__ import annotations

import random
from collections.abc import Sequence

from neucore_xl.shapes.claims import (
    Said,
    Statement,
    brightness_step,
    exchanged,
    holds,
    opposite,
    size_change,
    way,
)
from neucore_xl.shapes.difference import Difference, Key
from neucore_xl.shapes.scene import Group

MAX_STATEMENTS = 4
_LOOKS = ("shape", "colour", "texture", "count")


def _new_group_said(group: Group, rng: random.Random) -> Said:
    """What is said of a group that is new: always shape and count, the rest more or less often."""
    said: list[tuple[str, object]] = [("shape", group.shape), ("count", group.count)]
    if rng.random() < 0.8:
        said.append(("colour", group.colour))
    if group.texture != "plain" and rng.random() < 0.5:
        said.append(("texture", group.texture))
    if group.size != "medium" and rng.random() < 0.3:
        said.append(("size", group.size))
    if rng.random() < 0.3:
        said.append(("place", group.place))
    return tuple(said)


def _exchanges(d: Difference) -> list[Statement]:
    """Every pair of groups that took each other's place or colour."""
    n = len(d.reference.groups)
    return [
        Statement(
            "exchange",
            i,
            (("other", k), ("attribute", name)),
            frozenset({("group", i, name), ("group", k, name)}),
        )
        for i in range(n)
        for k in range(i + 1, n)
        for name in ("place", "colour")
        if exchanged(d, i, k, name)
    ]


def _whole(d: Difference, left: set[Key], rng: random.Random) -> list[Statement]:
    """Claims about several groups at once; what they account for is taken out of ``left``."""
    out: list[Statement] = []
    if d.mirrored:
        moved = {k for k in left if k[0] == "group" and k[2] == "place"}
        if len(moved) > 1 or rng.random() < 0.5:
            out.append(Statement("mirror", covers=frozenset(moved | {("mirror",)})))
            left -= moved
    for s in _exchanges(d):
        if s.covers <= left and rng.random() < 0.8:
            out.append(s)
            left -= s.covers
    removed = sorted(int(str(k[1])) for k in left if k[0] == "remove")
    added = sorted(int(str(k[1])) for k in left if k[0] == "add")
    while removed and added:
        i, j = removed.pop(0), added.pop(0)
        said = _new_group_said(d.target.groups[j], rng)
        out.append(Statement("replace", i, said, frozenset({("remove", i), ("add", j)})))
    out += [Statement("remove", i, (), frozenset({("remove", i)})) for i in removed]
    out += [Statement("add", None, _new_group_said(d.target.groups[j], rng), frozenset({("add", j)})) for j in added]
    return out


def _of_group(d: Difference, i: int, left: set[Key], rng: random.Random) -> list[Statement]:
    """Claims about the changes of one group that is still there."""
    was, now = d.reference.groups[i], d.now(i)
    if now is None:
        return []
    out: list[Statement] = []
    names = [n for n in (*_LOOKS, "size", "place") if ("group", i, n) in left]
    looks = [n for n in names if n in _LOOKS]
    if len(looks) >= 2 and rng.random() < 0.6:
        said: Said = tuple((n, getattr(now, n)) for n in looks)
        if "shape" not in looks:
            said += (("shape", now.shape),)
        out.append(Statement("direct", i, said, frozenset(("group", i, n) for n in looks)))
        names = [n for n in names if n not in looks]
    for n in names:
        covers = frozenset({("group", i, n)})
        said = ((n, getattr(now, n)),)
        kind = "set"
        if n == "size":
            kind, said = "size", (("sign", 1 if size_change(was, now) > 0 else -1),)
        elif n == "place" and now.place == opposite(was.place) and rng.random() < 0.5:
            kind, said = "move", (("way", "opposite"),)
        elif n == "place" and way(was.place, now.place) and rng.random() < 0.65:
            kind, said = "move", (("way", way(was.place, now.place)),)
        out.append(Statement(kind, i, said, covers))
    return out


def _of_view(d: Difference, rng: random.Random) -> list[Statement]:
    """Claims about background and camera."""
    out: list[Statement] = []
    ground = frozenset({("background",), ("kind",)} & d.keys)
    if ground:
        step = brightness_step(d.reference.background, d.target.background)
        if ("kind",) not in ground and step and rng.random() < 0.4:
            out.append(Statement("brightness", None, (("sign", step),), ground))
        else:
            said: Said = (("background", d.target.background),) if ("background",) in ground else ()
            said += (("background_kind", d.target.background_kind),) if ("kind",) in ground else ()
            out.append(Statement("view", None, said, ground))
    if ("zoom",) in d.keys:
        sign = 1 if d.target.zoom > d.reference.zoom else -1
        out.append(Statement("zoom", None, (("sign", sign),), frozenset({("zoom",)})))
    if ("tilt",) in d.keys:
        out.append(Statement("view", None, (("tilt", d.target.tilt),), frozenset({("tilt",)})))
    return out


def changes(d: Difference, rng: random.Random) -> list[Statement]:
    """Statements that together account for the whole difference, in random order; no keep among them."""
    left = set(d.keys)
    out = _whole(d, left, rng)
    for i in range(len(d.reference.groups)):
        out += _of_group(d, i, left, rng)
    out += _of_view(d, rng)
    rng.shuffle(out)
    return out


def _keeps(d: Difference, covered: frozenset[Key], complete: bool) -> list[Statement]:
    """Every true statement that something stayed as it was; that all the rest did only if all else is said."""
    out = [Statement("keep background"), Statement("keep view")]
    for i in range(len(d.reference.groups)):
        out.append(Statement("keep group", i))
        if d.now(i) is not None and any(k[:2] == ("group", i) for k in d.keys):
            out += [
                Statement("keep attribute", i, (("name", n),)) for n in ("colour", "size", "count", "place", "texture")
            ]
    out = [s for s in out if holds(s, d)]
    return [*out, Statement("keep rest", covers=covered)] if complete else out


def _count(statement: Statement, others: Sequence[Difference]) -> int:
    return sum(holds(statement, o) for o in others)


def choose(d: Difference, others: Sequence[Difference], rng: random.Random) -> list[Statement] | None:
    """One to four statements that the target fits and none of the ``others`` does, or None if there are none.

    ``others`` are the differences from the same reference to the remaining members of the subset. A change that
    only the target shows is preferred where not all can be said; "keep …" is used where another member shows all
    the stated changes and more.
    """
    if not d.keys:
        return None
    stated = changes(d, rng)
    complete = len(stated) <= MAX_STATEMENTS
    if not complete:
        rest, stated, rivals = stated, [], list(others)
        while len(stated) < MAX_STATEMENTS:
            best = min(rest, key=lambda s: _count(s, rivals))
            rest.remove(best)
            stated.append(best)
            rivals = [o for o in rivals if holds(best, o)]
    rivals = [o for o in others if all(holds(s, o) for s in stated)]
    keeps = _keeps(d, frozenset().union(*(s.covers for s in stated)), complete)
    rng.shuffle(keeps)
    if not rivals:
        light = [s for s in keeps if s.kind != "keep attribute"]
        if len(stated) <= 2 and light and rng.random() < 0.12:
            stated.append(light[0])
        return stated
    if rng.random() < 0.7:  # naming what stays says more than "everything else", where it is enough
        keeps.sort(key=lambda s: s.kind == "keep rest")
    while rivals and keeps and len(stated) < MAX_STATEMENTS:
        best = min(keeps, key=lambda s: _count(s, rivals))
        keeps.remove(best)
        if _count(best, rivals) == len(rivals):
            return None
        stated.append(best)
        rivals = [o for o in rivals if holds(best, o)]
    return None if rivals else stated
