"""One clause for one statement, in one of three moods, with the operation that the words express.

The same change is a different operation in other words: "the star is blue" addresses the target directly, "make the
star blue instead of red" compares and changes. The truth file labels the words, not the change.

Moods: ``do`` (imperative: "make it bigger"), ``is`` (declarative: "it is bigger"), ``has`` (a noun phrase that
follows "show", "has", "with" or nothing: "a bigger star").
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from neucore_xl.data.shapes.nouns import NUMBERS, PLACES, Context, Name, article, joined, phrase_for, refer
from neucore_xl.data.shapes.scene import Group, Place
from neucore_xl.data.shapes.statements import Statement
from neucore_xl.language.sequence import Operation

MOODS = ("do", "is", "has")
TEXTURE_NOUN = {"striped": "stripes", "dotted": "dots", "checked": "checks"}


@dataclass(frozen=True)
class Clause:
    """Words and what they do; ``adjective`` is the short form that may follow a clause about the same group."""

    text: str
    operation: Operation
    adjective: str | None = None  # "bigger", after "make it blue and …"
    frame: str = ""  # the clause can be followed by an adjective: "make" or "be"


Maker = Callable[[Statement, Context, str], Clause]


def _pick(context: Context, *options: tuple[str, Operation] | tuple[str, Operation, str]) -> Clause:
    text, operation, *frame = context.rng.choice(options)
    return Clause(text, operation, None, frame[0] if frame else "")


def _was(statement: Statement, context: Context) -> Group:
    assert statement.group is not None
    return context.reference.groups[statement.group]


def _a(words: str, name: Name) -> str:
    return words if name.plural else article(words)


def _adjective(statement: Statement, context: Context, mood: str, word: str, operation: Operation) -> Clause:
    """The clause for a change that one adjective says (colour or texture)."""
    assert statement.group is not None
    was, r = _was(statement, context), refer(context, statement.group, pronouns=mood != "has")
    attribute = statement.said[0][0]
    old = getattr(was, attribute)
    change, direct = Operation.CHANGE, Operation.DIRECT
    if mood == "do":
        options = [
            (f"make {r.text} {word}", change, "make"),
            (f"make {r.text} {word}", change, "make"),
            (f"turn {r.text} {word}", change),
            (f"make {r.text} {word} instead of {old}", change),
            (f"change {r.text} from {old} to {word}", change),
        ]
        if attribute == "colour":
            options += [(f"change {r.text} to {word}", change), (f"paint {r.text} {word}", change)]
        return _pick(context, *options)
    if mood == "is":
        return _pick(
            context,
            (f"{r.subject} {r.be} {word}", direct, "be"),
            (f"{r.subject} {r.be} {word}", direct, "be"),
            (f"{r.subject} {r.be} now {word}", direct, "be"),
            (f"{r.subject} {r.be} {word} instead of {old}", change),
            (f"{r.subject} {r.have} changed from {old} to {word}", change),
        )
    if r.noun.startswith("other"):
        return Clause(f"{r.text} in {word}" if attribute == "colour" else f"{r.text} {word}", change)
    return _pick(
        context,
        (_a(f"{word} {r.noun}", r), direct),
        (f"the same {r.noun} but {word}", change),
        (
            _a(f"{word} {r.noun}", r)
            + f" instead of {'' if r.plural else article(old) + ' one'}{old + ' ones' if r.plural else ''}",
            change,
        ),
    )


def _colour(s: Statement, c: Context, mood: str) -> Clause:
    assert s.group is not None
    new = str(s.value("colour"))
    twins = [k for k, g in enumerate(c.reference.groups) if k != s.group and g.colour == new]
    if twins and mood != "has" and c.rng.random() < 0.5:
        r = refer(c, s.group)
        other = refer(Context(c.reference, c.target, c.rng, nouns=c.nouns, last=-1), twins[0], pronouns=False)
        verb = f"give {r.text}" if mood == "do" else f"{r.subject} {r.have}"
        return Clause(f"{verb} the same colour as {other.text}", Operation.CHANGE)
    if _was(s, c).colour in ("white", "black") and new in ("white", "black") and c.rng.random() < 0.5:
        return _adjective(s, c, mood, "darker" if new == "black" else "lighter", Operation.COMPARATIVE)
    return _adjective(s, c, mood, new, Operation.CHANGE)


def _texture(s: Statement, c: Context, mood: str) -> Clause:
    assert s.group is not None
    new, old = str(s.value("texture")), _was(s, c).texture
    if new == "plain" and c.rng.random() < 0.6:
        r, marks = refer(c, s.group), TEXTURE_NOUN[old]
        if mood == "do":
            return _pick(
                c,
                (f"remove the {marks} from {r.text}", Operation.NEGATION),
                (f"take the {marks} off {r.text}", Operation.NEGATION),
            )
        if mood == "is":
            return _pick(
                c,
                (f"{r.subject} {r.have} no {marks}", Operation.NEGATION),
                (f"{r.subject} {r.be} without {marks}", Operation.NEGATION),
            )
        return Clause(
            _a(f"{r.noun} without {marks}", r) if not r.noun.startswith("other") else f"{r.text} without {marks}",
            Operation.NEGATION,
        )
    if new != "plain" and mood == "do" and c.rng.random() < 0.3:
        return Clause(f"give {refer(c, s.group).text} {TEXTURE_NOUN[new]}", Operation.CHANGE)
    return _adjective(s, c, mood, new, Operation.CHANGE)


def _shape(s: Statement, c: Context, mood: str) -> Clause:
    assert s.group is not None
    r = refer(c, s.group, pronouns=mood != "has")
    noun = c.noun(str(s.value("shape")), 2 if r.plural else 1)
    new, change = _a(noun, r), Operation.CHANGE
    if mood == "do":
        return _pick(
            c,
            (f"change {r.text} to {new}", change),
            (f"replace {r.text} with {new}", change),
            (f"turn {r.text} into {new}", change),
            (f"swap {r.text} for {new} of the same colour", change),
        )
    if mood == "is":
        return _pick(
            c,
            (f"{r.subject} {r.be} now {new}", Operation.DIRECT),
            (f"{r.subject} {r.have} become {new}", change),
            (f"{r.subject} {r.have} changed to {new}", change),
        )
    return _pick(
        c,
        (f"{new} instead of {r.text}", change),
        (f"{new} in place of {r.text}", change),
        (f"{new} of the same colour as {r.text}", change),
    )


def _count(s: Statement, c: Context, mood: str) -> Clause:
    assert s.group is not None
    was, new = _was(s, c), int(s.value("count"))  # type: ignore[call-overload]
    r = refer(c, s.group, pronouns=False)
    step, card = new - was.count, Operation.CARDINALITY
    many = r.noun if was.count > 1 else r.noun.removesuffix("one").removesuffix("shape")
    one = Context(c.reference, c.target, c.rng, nouns=c.nouns)
    bare = joined((*_adjectives(r.noun), c.noun(was.shape, 1)))
    plenty = joined((*_adjectives(r.noun), c.noun(was.shape, 2)))
    del many, one
    known = c.last == s.group or (len(c.reference.groups) == 1 and c.rng.random() < 0.3)
    said = bare if new == 1 else plenty
    c.now_plural[s.group] = new > 1
    if step > 0:
        more = f"{NUMBERS[step]} more" + ("" if known else f" {bare if step == 1 else plenty}")
        like = " of the same kind" if known else ""
        if mood == "do":
            return _pick(
                c,
                (f"add {more}{like}", card),
                (f"add {more}{like}", card),
                (f"make it {NUMBERS[new]} {said}", card),
                (f"increase the number of {plenty} to {NUMBERS[new]}", card),
            )
        if mood == "is":
            return _pick(
                c,
                (f"there {'is' if step == 1 else 'are'} {more}{like}", card),
                (f"there are {NUMBERS[new]} {said}", card),
            )
        return _pick(
            c,
            (f"{more}{like}", card),
            (f"{NUMBERS[new]} {said}", card),
            (f"{NUMBERS[new]} {said} instead of {NUMBERS[was.count]}", card),
        )
    less = NUMBERS[-step]
    if mood == "do":
        options = [
            (f"remove {less} of {'them' if known else 'the ' + plenty}", card),
            (f"leave only {NUMBERS[new]} {said}", card),
            (f"reduce the number of {plenty} to {NUMBERS[new]}", card),
        ]
        if new == 1:
            options.append((f"remove all but one {bare}", card))
        return _pick(c, *options)
    if mood == "is":
        return _pick(
            c,
            (f"there {'is' if new == 1 else 'are'} only {NUMBERS[new]} {said}", card),
            (f"{less} of the {plenty} {'is' if less == 'one' else 'are'} gone", card),
        )
    return _pick(
        c,
        (f"only {NUMBERS[new]} {said}", card),
        (f"{less} {bare if less == 'one' else plenty} fewer", card),
        (f"{NUMBERS[new]} {said} instead of {NUMBERS[was.count]}", card),
    )


def _adjectives(noun: str) -> tuple[str, ...]:
    """The words before the noun itself, where they are not "other"."""
    return tuple(w for w in noun.split()[:-1] if w != "other")


def _direction(was: Place, now: Place) -> str | None:
    """The way from one cell to another, if it runs along a row or a column."""
    if was[0] == now[0]:
        return "to the right" if now[1] > was[1] else "to the left"
    if was[1] == now[1]:
        return "down" if now[0] > was[0] else "up"
    return None


def _place(s: Statement, c: Context, mood: str) -> Clause:
    assert s.group is not None
    was, new = _was(s, c).place, s.value("place")
    r = refer(c, s.group, pronouns=mood != "has")
    where = c.rng.choice(PLACES[new])  # type: ignore[index]
    to = "to" + where.removeprefix("in").removeprefix("at").removeprefix("on")
    spatial = Operation.SPATIAL
    way = _direction(was, new)  # type: ignore[arg-type]
    opposite = (2 - was[0], 2 - was[1]) == new or (way is not None and abs(was[0] - new[0]) + abs(was[1] - new[1]) == 2)  # type: ignore[index]
    if opposite and c.rng.random() < 0.4:
        far = "opposite corner" if way is None else "opposite side" if was[0] == new[0] else "opposite edge"  # type: ignore[index]
        return Clause(
            {
                "do": f"move {r.text} to the {far}",
                "is": f"{r.subject} {r.be} on the {far}",
                "has": f"{r.text} on the {far}",
            }[mood].replace("on the opposite corner", "in the opposite corner"),
            spatial,
        )
    if mood == "do":
        options = [
            (f"move {r.text} {to}", spatial),
            (f"put {r.text} {where}", spatial),
            (f"place {r.text} {where}", spatial),
        ]
        if way:
            options += [(f"move {r.text} {way}", spatial)] * 2
        return _pick(c, *options)
    if mood == "is":
        options = [(f"{r.subject} {r.be} {where}", spatial), (f"{r.subject} {r.have} moved {to}", spatial)]
        if way:
            options.append((f"{r.subject} {r.have} moved {way}", spatial))
        return _pick(c, *options)
    return _pick(c, (f"{r.text} {where}", spatial), (f"{r.text} moved {to}", spatial))


def _size(s: Statement, c: Context, mood: str) -> Clause:
    assert s.group is not None
    grew = s.value("sign") == 1
    word = c.rng.choice(("bigger", "larger", "bigger") if grew else ("smaller",))
    r, comparative = refer(c, s.group, pronouns=mood != "has"), Operation.COMPARATIVE
    if mood == "do":
        return _pick(
            c,
            (f"make {r.text} {word}", comparative, "make"),
            (f"make {r.text} {word}", comparative, "make"),
            (f"{'enlarge' if grew else 'shrink'} {r.text}", comparative),
        )
    if mood == "is":
        return _pick(
            c,
            (f"{r.subject} {r.be} {word}", comparative, "be"),
            (f"{r.subject} {r.be} {word} than before", comparative),
        )
    if r.noun.startswith("other"):
        return Clause(f"{r.text} {word}", comparative)
    return _pick(c, (_a(f"{word} {r.noun}", r), comparative), (f"the same {r.noun} but {word}", comparative))


def set_attribute(s: Statement, c: Context, mood: str) -> Clause:
    """A group's attribute has a new value."""
    attribute = s.said[0][0]
    return {"colour": _colour, "shape": _shape, "texture": _texture, "count": _count, "place": _place}[attribute](
        s, c, mood
    )


def add(s: Statement, c: Context, mood: str) -> Clause:
    """A group that was not there."""
    new, op = phrase_for(c, s.said), Operation.ADDITION
    be = "is" if s.value("count") == 1 else "are"
    have = "has" if s.value("count") == 1 else "have"
    if mood == "do":
        options = [(f"add {new}", op), (f"add {new}", op), (f"insert {new}", op)]
        if "place" in dict(s.said):
            options.append((f"put {new}", op))
        return _pick(c, *options)
    if mood == "is":
        return _pick(
            c, (f"there {be} also {new}", op), (f"{new} {have} appeared", op), (f"{new} {have} been added", op)
        )
    return _pick(c, (f"{new} added", op), (f"also {new}", op), (f"the addition of {new}", op))


def remove(s: Statement, c: Context, mood: str) -> Clause:
    """A group that is gone."""
    assert s.group is not None
    r, op = refer(c, s.group, pronouns=False), Operation.NEGATION
    if mood == "do":
        return _pick(
            c,
            (f"remove {r.text}", op),
            (f"remove {r.text}", op),
            (f"take away {r.text}", op),
            (f"get rid of {r.text}", op),
        )
    if mood == "is":
        return _pick(
            c,
            (f"{r.text} {r.be} gone", op),
            (f"{r.text} {r.have} disappeared", op),
            (f"{r.text} {r.be} no longer there", op),
        )
    if r.noun.startswith("other") or not r.text.endswith(r.noun):
        return Clause(f"no sign of {r.text}", op)
    return Clause(f"no {r.noun}", op)


def replace_group(s: Statement, c: Context, mood: str) -> Clause:
    """One group gone and another in the picture."""
    assert s.group is not None
    r, op = refer(c, s.group, pronouns=mood == "do"), Operation.CHANGE
    new = phrase_for(c, s.said)
    if mood == "do":
        return _pick(
            c, (f"replace {r.text} with {new}", op), (f"swap {r.text} for {new}", op), (f"change {r.text} to {new}", op)
        )
    if mood == "is":
        return _pick(
            c,
            (f"{r.subject} {r.be} replaced by {new}", op),
            (f"there {'is' if s.value('count') == 1 else 'are'} {new} instead of {r.text}", op),
        )
    return _pick(c, (f"{new} instead of {r.text}", op), (f"{new} in place of {r.text}", op))


def direct(s: Statement, c: Context, mood: str) -> Clause:
    """Several values of a group said as what the target shows."""
    values = dict(s.said)
    count = int(values.get("count", _was(s, c).count))  # type: ignore[call-overload]
    said = (*((n, v) for n, v in s.said if n != "count"), ("count", count))
    new, op = phrase_for(c, said, counted="count" in values or count == 1), Operation.DIRECT
    c.nouns.setdefault(str(values["shape"]), c.noun(str(values["shape"]), 1))
    if s.group is not None:
        c.now_plural[s.group] = count > 1
    if mood == "do":
        return _pick(
            c,
            (f"show {new}", op),
            (f"it should be {new}" if count == 1 else f"there should be {new}", op),
            (f"it must have {new}", op),
        )
    if mood == "is":
        return _pick(c, (f"there {'is' if count == 1 else 'are'} {new}", op), (f"it shows {new}", op))
    return Clause(new, op)


def view(s: Statement, c: Context, mood: str) -> Clause:
    """Background or tilt."""
    values = dict(s.said)
    if "tilt" in values:
        return _tilt(int(values["tilt"]), c, mood)  # type: ignore[call-overload]
    kind = str(values.get("background_kind", ""))
    words, op = joined((kind, str(values.get("background", "")))), Operation.SPATIAL
    ground = c.rng.choice(("background", "background", "background", "backdrop"))
    if mood == "do":
        return _pick(
            c,
            (f"make the {ground} {words}", op),
            (f"change the {ground} to {words}", op),
            (f"put everything on {article(words)} {ground}", op),
            (f"use {article(words)} {ground}", op),
        )
    if mood == "is":
        return _pick(
            c,
            (f"the {ground} is {words}", op),
            (f"the {ground} has turned {words}", op),
            (f"the {ground} is {words} now", op),
        )
    return _pick(c, (f"{article(words)} {ground}", op), (f"{article(words)} {ground} instead", op))


def _tilt(tilt: int, c: Context, mood: str) -> Clause:
    op, was = Operation.VIEWPOINT, c.reference.tilt
    thing = c.rng.choice(("picture", "view", "image", "camera"))
    if tilt == 0:
        return {
            "do": _pick(c, (f"straighten the {thing}", op), (f"level the {thing}", op)),
            "is": _pick(c, (f"the {thing} is level", op), (f"the {thing} is no longer tilted", op)),
            "has": _pick(c, ("a level view", op), ("a straight view", op)),
        }[mood]
    side = "right" if tilt > 0 else "left"
    way = f"tilted the other way" if was == -tilt and c.rng.random() < 0.6 else f"tilted to the {side}"
    return {
        "do": Clause(f"have the {thing} {way}" if "other" in way else f"tilt the {thing} to the {side}", op),
        "is": Clause(f"the {thing} is {way}", op),
        "has": Clause(f"the {thing} {way}", op),
    }[mood]


def zoom(s: Statement, c: Context, mood: str) -> Clause:
    """The camera is nearer or farther."""
    op, near = Operation.VIEWPOINT, s.value("sign") == 1
    if near:
        return {
            "do": _pick(c, ("zoom in", op), ("move the camera closer", op), ("show it from closer up", op)),
            "is": _pick(
                c, ("the camera is closer", op), ("the picture is zoomed in", op), ("it is seen from closer up", op)
            ),
            "has": _pick(c, ("a closer view", op), ("a closer shot", op)),
        }[mood]
    return {
        "do": _pick(c, ("zoom out", op), ("move the camera back", op), ("show it from further away", op)),
        "is": _pick(
            c,
            ("the camera is further away", op),
            ("the picture is zoomed out", op),
            ("it is seen from further away", op),
        ),
        "has": _pick(c, ("a wider view", op), ("a more distant shot", op)),
    }[mood]


def mirror(s: Statement, c: Context, mood: str) -> Clause:
    """Left and right change places."""
    op = Operation.VIEWPOINT
    return {
        "do": _pick(
            c,
            ("mirror the image", op),
            ("flip the picture horizontally", op),
            ("flip everything from left to right", op),
        ),
        "is": _pick(c, ("the picture is mirrored", op), ("the scene is flipped left to right", op)),
        "has": _pick(c, ("the mirror image", op), ("the same scene mirrored", op)),
    }[mood]


def keep(s: Statement, c: Context, mood: str) -> Clause:
    """Something that stays as it was."""
    op = Operation.KEEP
    if s.kind == "keep rest":
        return {
            "do": _pick(
                c, ("keep everything else the same", op), ("leave the rest as it is", op), ("change nothing else", op)
            ),
            "is": _pick(c, ("everything else stays the same", op), ("the rest is unchanged", op)),
            "has": _pick(c, ("everything else the same", op), ("the rest unchanged", op)),
        }[mood]
    if s.kind == "keep background":
        thing, plural = "background", False
    elif s.kind == "keep view":
        thing, plural = c.rng.choice(("view", "angle")), False
    elif s.kind == "keep attribute":
        assert s.group is not None
        word = {"colour": "colour", "size": "size", "count": "number", "place": "position", "texture": "pattern"}[
            str(s.value("name"))
        ]
        r = refer(c, s.group)
        owner = word if not r.pronoun and word != "number" else word
        if r.pronoun and word != "number":
            own = "their" if r.plural else "its"
            return {
                "do": Clause(f"keep {own} {owner}", op),
                "is": Clause(f"{own} {owner} is the same", op),
                "has": Clause(f"the same {owner}", op),
            }[mood]
        if r.pronoun:
            return {
                "do": Clause("keep the number the same", op),
                "is": Clause("the number is the same", op),
                "has": Clause("the same number", op),
            }[mood]
        return {
            "do": Clause(f"keep the {owner} of {r.text}", op),
            "is": Clause(f"the {owner} of {r.text} is the same", op),
            "has": Clause(f"the same {owner} for {r.text}", op),
        }[mood]
    else:
        assert s.group is not None
        r = refer(c, s.group, pronouns=False)
        thing, plural = r.text.removeprefix("the "), r.plural
    return {
        "do": _pick(
            c,
            (f"keep the {thing}", op),
            (f"keep the same {thing}" if "other" not in thing else f"keep the {thing}", op),
            (f"leave the {thing} as {'they are' if plural else 'it is'}", op),
        ),
        "is": _pick(
            c,
            (f"the {thing} {'stay' if plural else 'stays'} the same", op),
            (f"the {thing} {'are' if plural else 'is'} unchanged", op),
        ),
        "has": _pick(
            c,
            (f"the same {thing}" if "other" not in thing else f"the {thing} unchanged", op),
            (f"the {thing} unchanged", op),
        ),
    }[mood]


MAKERS: dict[str, Maker] = {
    "set": set_attribute, "size": _size, "add": add, "remove": remove, "replace": replace_group, "direct": direct,
    "view": view, "zoom": zoom, "mirror": mirror, "keep rest": keep, "keep background": keep, "keep view": keep,
    "keep group": keep, "keep attribute": keep,
}  # fmt: skip


def clause(statement: Statement, context: Context, mood: str) -> Clause:
    """Put one statement into words; updates ``context`` with what has been spoken of."""
    made = MAKERS[statement.kind](statement, context, mood)
    context.last = statement.group if statement.kind not in ("remove", "replace") else context.last
    return made
