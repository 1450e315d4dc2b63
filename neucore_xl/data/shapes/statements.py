"""What a sentence may claim about a pair, when a picture fits the claim, and which claims lead to one target only."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from neucore_xl.data.shapes.difference import Difference, Key
from neucore_xl.data.shapes.scene import SIZES, Group

MAX_STATEMENTS = 4
Said = tuple[tuple[str, object], ...]  # (attribute, value) pairs that the words give away


@dataclass(frozen=True)
class Statement:
    """One claim about how the target differs from the reference.

    ``group`` is an index into the reference's groups, ``said`` what is claimed of a group or background, and
    ``covers`` the keys of the difference that the claim accounts for.
    """

    kind: str
    group: int | None = None
    said: Said = ()
    covers: frozenset[Key] = field(default=frozenset(), compare=False)

    def value(self, name: str) -> object:
        """The claimed value of attribute ``name``; KeyError if the words leave it open."""
        return dict(self.said)[name]


def _fits(group: Group, said: Said) -> bool:
    return all(getattr(group, name) == value for name, value in said)


def size_change(was: Group, now: Group) -> int:
    """By how many sizes the objects grew (negative: shrank)."""
    return SIZES.index(now.size) - SIZES.index(was.size)


def holds(statement: Statement, d: Difference) -> bool:
    """Whether a picture, seen as the outcome ``d`` of an edit of the reference, fits the statement."""
    kind, said = statement.kind, statement.said
    if kind == "add":
        return any(_fits(d.target.groups[j], said) for j in d.added)
    if kind == "view":
        return all(getattr(d.target, name) == value for name, value in said)
    if kind == "zoom":
        step = d.target.zoom - d.reference.zoom
        return step > 0 if statement.value("sign") == 1 else step < 0
    if kind == "mirror":
        return d.mirrored
    if kind == "keep background":
        return ("background",) not in d.keys and ("kind",) not in d.keys
    if kind == "keep view":
        return ("zoom",) not in d.keys and ("tilt",) not in d.keys and not d.mirrored
    if kind == "keep rest":
        # The covers are the changes that the other statements speak of: nothing else may have changed.
        additions = sum(key[0] == "add" for key in statement.covers)
        stated = {key for key in statement.covers if key[0] != "add"}
        if d.mirrored and ("mirror",) in stated:
            stated |= {key for key in d.keys if key[0] == "group" and key[2] == "place"}
        return len(d.added) <= additions and {key for key in d.keys if key[0] != "add"} <= stated
    assert statement.group is not None
    was, now = d.reference.groups[statement.group], d.now(statement.group)
    if kind == "remove":
        return now is None
    if kind == "replace":
        return now is None and any(_fits(d.target.groups[j], said) for j in d.added)
    if now is None:
        return False
    if kind == "size":
        step = size_change(was, now)
        return step > 0 if statement.value("sign") == 1 else step < 0
    if kind == "keep group":
        return all(
            ("group", statement.group, name) not in d.keys
            for name in ("shape", "colour", "texture", "size", "count", "place")
        )
    if kind == "keep attribute":
        return ("group", statement.group, statement.value("name")) not in d.keys
    return _fits(now, said)  # "set" and "direct": the group now has these values


def _new_group_said(d: Difference, group: Group, rng: random.Random) -> Said:
    """What is said of a group that is new: always shape and count, the rest more or less often."""
    said: list[tuple[str, object]] = [("shape", group.shape), ("count", group.count)]
    if rng.random() < 0.85:
        said.append(("colour", group.colour))
    if group.texture != "plain" and rng.random() < 0.6:
        said.append(("texture", group.texture))
    if group.size != "medium" and rng.random() < 0.35:
        said.append(("size", group.size))
    if rng.random() < 0.35:
        said.append(("place", group.place))
    return tuple(said)


def changes(d: Difference, rng: random.Random) -> list[Statement]:
    """Statements that together account for the whole difference, in random order; no keep among them."""
    out: list[Statement] = []
    left = set(d.keys)
    if d.mirrored:
        moved = {k for k in left if k[0] == "group" and k[2] == "place"}
        if len(moved) > 1 or rng.random() < 0.5:
            out.append(Statement("mirror", covers=frozenset(moved | {("mirror",)})))
            left -= moved
    removed = sorted(k[1] for k in left if k[0] == "remove")  # type: ignore[type-var]
    added = sorted(k[1] for k in left if k[0] == "add")  # type: ignore[type-var]
    while removed and added:
        i, j = removed.pop(0), added.pop(0)
        said = _new_group_said(d, d.target.groups[j], rng)  # type: ignore[index]
        out.append(Statement("replace", i, said, frozenset({("remove", i), ("add", j)})))  # type: ignore[arg-type]
    out += [Statement("remove", i, (), frozenset({("remove", i)})) for i in removed]  # type: ignore[arg-type]
    out += [Statement("add", None, _new_group_said(d, d.target.groups[j], rng), frozenset({("add", j)})) for j in added]  # type: ignore[index]
    for i, was in enumerate(d.reference.groups):
        now = d.now(i)
        if now is None:
            continue
        names = [n for n in ("shape", "colour", "texture", "count", "size", "place") if ("group", i, n) in left]
        looks = [n for n in names if n in ("shape", "colour", "texture", "count")]
        if len(looks) >= 2 and rng.random() < 0.4:
            said = tuple((n, getattr(now, n)) for n in looks)
            if "shape" not in looks:
                said += (("shape", now.shape),)
            out.append(Statement("direct", i, said, frozenset(("group", i, n) for n in looks)))
            names = [n for n in names if n not in looks]
        for n in names:
            covers = frozenset({("group", i, n)})
            if n == "size":
                sign = 1 if size_change(was, now) > 0 else -1
                out.append(Statement("size", i, (("sign", sign),), covers))
            else:
                out.append(Statement("set", i, ((n, getattr(now, n)),), covers))
    if ("background",) in d.keys or ("kind",) in d.keys:
        said = ()
        if ("background",) in d.keys:
            said += (("background", d.target.background),)
        if ("kind",) in d.keys:
            said += (("background_kind", d.target.background_kind),)
        out.append(Statement("view", None, said, frozenset({("background",), ("kind",)} & d.keys)))
    if ("zoom",) in d.keys:
        sign = 1 if d.target.zoom > d.reference.zoom else -1
        out.append(Statement("zoom", None, (("sign", sign),), frozenset({("zoom",)})))
    if ("tilt",) in d.keys:
        out.append(Statement("view", None, (("tilt", d.target.tilt),), frozenset({("tilt",)})))
    rng.shuffle(out)
    return out


def _keeps(d: Difference, covered: frozenset[Key], complete: bool) -> list[Statement]:
    """Every true statement that something stayed as it was."""
    out = [Statement("keep background"), Statement("keep view")]
    for i in range(len(d.reference.groups)):
        out.append(Statement("keep group", i))
        if d.now(i) is not None and any(k[:2] == ("group", i) for k in d.keys):
            out += [
                Statement("keep attribute", i, (("name", n),)) for n in ("colour", "size", "count", "place", "texture")
            ]
    out = [s for s in out if holds(s, d)]
    if complete:
        out.append(Statement("keep rest", covers=covered))
    return out


def choose(d: Difference, others: Sequence[Difference], rng: random.Random) -> list[Statement] | None:
    """One to four statements that the target fits and none of the ``others`` does, or None if there are none.

    ``others`` are the differences from the same reference to the remaining members of the subset. A change that
    only the target shows is preferred where not all can be said; "keep …" is used where another member shows all
    the stated changes and more.
    """
    if not d.keys:
        return None
    stated = changes(d, rng)
    if len(stated) > MAX_STATEMENTS:
        rest, stated = stated, []
        open_others = list(others)
        while len(stated) < MAX_STATEMENTS:
            best = min(rest, key=lambda s: sum(holds(s, o) for o in open_others))
            rest.remove(best)
            stated.append(best)
            open_others = [o for o in open_others if holds(best, o)]
        complete = False
    else:
        complete = True
    remaining = [o for o in others if all(holds(s, o) for s in stated)]
    covered = frozenset().union(*(s.covers for s in stated))
    if remaining:
        keeps = _keeps(d, covered, complete)
        rng.shuffle(keeps)
        while remaining and len(stated) < MAX_STATEMENTS and keeps:
            best = min(keeps, key=lambda s: sum(holds(s, o) for o in remaining))
            keeps.remove(best)
            if all(holds(best, o) for o in remaining):
                return None
            stated.append(best)
            remaining = [o for o in remaining if holds(best, o)]
        return None if remaining else stated
    if len(stated) <= 2 and rng.random() < 0.14:
        keeps = [s for s in _keeps(d, covered, complete) if s.kind != "keep attribute"]
        if keeps:
            stated.append(rng.choice(keeps))
    return stated
