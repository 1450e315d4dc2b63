"""Wording of how many, how big and where: number, size, place, and two groups that change places or colours."""

from __future__ import annotations

from neucore_xl.language.sequence import Operation
from neucore_xl.shapes.claims import Statement, opposite, way
from neucore_xl.shapes.nouns import (
    NUMBERS,
    PLACES,
    Clause,
    Context,
    Mood,
    a,
    before,
    distinguishing,
    is_are,
    joined,
    one_of,
    pick,
    refer,
)

CARDINALITY, COMPARATIVE, SPATIAL = Operation.CARDINALITY, Operation.COMPARATIVE, Operation.SPATIAL


def number(s: Statement, c: Context, mood: Mood) -> Clause:
    """More or fewer of the same objects."""
    i, was = before(s, c)
    new = int(str(s.value("count")))
    step = new - was.count
    apart = distinguishing(c.reference, i)
    one, many = (joined((*apart, c.noun(was.shape, n))) for n in (1, 2))
    known = len(c.reference.groups) == 1 and not c.begun and c.rng.random() < 0.4
    c.now_plural[i] = new > 1
    now = f"{NUMBERS[new]} {one if new == 1 else many}"
    instead = f"{now} instead of {NUMBERS[was.count]}"
    if step > 0:
        more = f"{NUMBERS[step]} more {'of the same kind' if known else one if step == 1 else many}"
        if mood == "do":
            options = [
                f"add {more}",
                f"add {more}",
                f"show {instead}",
                f"increase the number of {many} to {NUMBERS[new]}",
            ]
            if new == 2 * was.count:
                options += [f"double the number of {many}"] * 2
            return one_of(c, CARDINALITY, *options)
        if mood == "is":
            there = f"there {is_are(step)} {more}"
            return one_of(c, CARDINALITY, there, there, f"there are {now}", f"there are {instead}")
        return one_of(c, CARDINALITY, more, more, now, instead)
    few = NUMBERS[-step]
    if mood == "do":
        of = "them" if known else f"the {many}"
        options = [f"remove {few} of {of}", f"leave only {now}", f"reduce the number of {many} to {NUMBERS[new]}"]
        if new == 1:
            options.append(f"remove all but one {one}" if not known else "remove all but one")
        if was.count == 2 * new:
            options.append(f"halve the number of {many}")
        return one_of(c, CARDINALITY, *options)
    if mood == "is":
        return one_of(c, CARDINALITY, f"there {is_are(new)} only {now}", f"{few} of the {many} {is_are(-step)} gone")
    return one_of(c, CARDINALITY, f"only {now}", f"{few} {one if step == -1 else many} fewer", instead)


def size(s: Statement, c: Context, mood: Mood) -> Clause:
    """Bigger or smaller, never how big."""
    i, _ = before(s, c)
    grew = s.value("sign") == 1
    word = c.rng.choice(("bigger", "bigger", "larger") if grew else ("smaller",))
    r = refer(c, i, pronouns=mood != "has")
    if mood == "do":
        return pick(
            c,
            Clause(f"make {r.text} {word}", COMPARATIVE, "make"),
            Clause(f"make {r.text} {word}", COMPARATIVE, "make"),
            Clause(f"{'enlarge' if grew else 'shrink'} {r.text}", COMPARATIVE),
        )
    if mood == "is":
        return pick(
            c,
            Clause(f"{r.subject} {r.be} {word}", COMPARATIVE, "be"),
            Clause(f"{r.subject} {r.be} {word} than before", COMPARATIVE),
        )
    if r.noun.startswith("other"):
        return Clause(f"{r.text} {word}", COMPARATIVE)
    return one_of(c, COMPARATIVE, a(f"{word} {r.noun}", r), f"the same {r.noun} but {word}")


def place(s: Statement, c: Context, mood: Mood) -> Clause:
    """A new cell of the grid, named."""
    i, _ = before(s, c)
    r = refer(c, i, pronouns=mood != "has")
    where = c.rng.choice(PLACES[c.d.now(i).place])  # type: ignore[union-attr]
    to = "to " + where.split(" ", 1)[1]
    if mood == "do":
        return one_of(c, SPATIAL, f"move {r.text} {to}", f"put {r.text} {where}", f"place {r.text} {where}")
    if mood == "is":
        return one_of(c, SPATIAL, f"{r.subject} {r.be} {where}", f"{r.subject} {r.have} moved {to}")
    return one_of(c, SPATIAL, f"{r.text} {where}", f"{r.text} moved {to}")


def move(s: Statement, c: Context, mood: Mood) -> Clause:
    """A new cell by the way there: to the left, down, to the opposite side."""
    i, was = before(s, c)
    r = refer(c, i, pronouns=mood != "has")
    if s.value("way") == "opposite":
        straight = way(was.place, opposite(was.place))
        side = "corner" if straight is None else "side" if straight in ("left", "right") else "edge"
        where = f"{'in' if side == 'corner' else 'on'} the opposite {side}"
        to = f"to the opposite {side}"
    else:
        to = {"left": "to the left", "right": "to the right"}.get(str(s.value("way")), str(s.value("way")))
        further = {"left": "further left", "right": "further right", "up": "higher up", "down": "lower down"}
        where = further[str(s.value("way"))]
    if mood == "do":
        return one_of(c, SPATIAL, f"move {r.text} {to}", f"move {r.text} {to}", f"put {r.text} {where}")
    if mood == "is":
        return one_of(c, SPATIAL, f"{r.subject} {r.have} moved {to}", f"{r.subject} {r.be} {where}")
    return one_of(c, SPATIAL, f"{r.text} {where}", f"{r.text} moved {to}")


def exchange(s: Statement, c: Context, mood: Mood) -> Clause:
    """Two groups that take each other's place or colour."""
    i, _ = before(s, c)
    k = int(str(s.value("other")))
    groups = c.reference.groups
    first, second = (
        joined(("the", *distinguishing(c.reference, n), c.noun(groups[n].shape, groups[n].count))) for n in (i, k)
    )
    both = f"{first} and {second}" if len(groups) > 2 or c.rng.random() < 0.5 else "the two kinds of shapes"
    if s.value("attribute") == "colour":
        op, what = Operation.CHANGE, "colours"
    else:
        op, what = SPATIAL, "places"
    if mood == "do":
        return one_of(c, op, f"swap the {what} of {both}", f"let {both} swap {what}")
    if mood == "is":
        return one_of(c, op, f"{both} have swapped {what}", f"the {what} of {both} are swapped")
    return Clause(f"{both} with swapped {what}", op)
