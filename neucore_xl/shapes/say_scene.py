"""Wording of what comes and goes, the background, the camera, and what stays."""

from __future__ import annotations

from neucore_xl.language.sequence import Operation
from neucore_xl.shapes.claims import Statement
from neucore_xl.shapes.nouns import Clause, Context, Mood, article, before, is_are, joined, one_of, phrase_for, refer

KEEP, NEGATION, SPATIAL, VIEWPOINT = Operation.KEEP, Operation.NEGATION, Operation.SPATIAL, Operation.VIEWPOINT
_ATTRIBUTE_WORD = {"colour": "colour", "size": "size", "count": "number", "place": "position", "texture": "pattern"}


def addition(s: Statement, c: Context, mood: Mood) -> Clause:
    """A group that was not there."""
    op, new = Operation.ADDITION, phrase_for(c, s.said)
    be, have = is_are(s.value("count")), "has" if s.value("count") == 1 else "have"
    extra = phrase_for(c, s.said, extra="extra")
    if mood == "do":
        here = f"put {new}" if "place" in dict(s.said) else f"add {new}"
        return one_of(c, op, f"add {new}", f"add {new}", f"insert {new}", here)
    if mood == "is":
        return one_of(c, op, f"there {be} also {new}", f"{new} {have} appeared", f"{new} {have} been added")
    return one_of(c, op, f"{new} added", extra)


def removal(s: Statement, c: Context, mood: Mood) -> Clause:
    """A group that is gone."""
    i, _ = before(s, c)
    r = refer(c, i, pronouns=False)
    n = len(c.reference.groups)
    stays = n == 2 and c.d.match[1 - i] is not None and c.last != i
    if stays and mood == "do" and c.rng.random() < 0.25:
        other = refer(c, 1 - i, pronouns=False)
        if "other" not in other.text:
            c.last = 1 - i
            return one_of(c, NEGATION, f"remove everything except {other.text}", f"remove everything but {other.text}")
    if mood == "do":
        return one_of(c, NEGATION, *(f"{v} {r.text}" for v in ("remove", "remove", "take away", "get rid of")))
    if mood == "is":
        gone = (f"{r.be} gone", f"{r.have} disappeared", f"{r.be} no longer there")
        return one_of(c, NEGATION, *(f"{r.text} {g}" for g in gone))
    if r.noun.startswith("other") or not r.text.endswith(r.noun):
        return Clause(f"no sign of {r.text}", NEGATION)
    return one_of(c, NEGATION, f"no {r.noun}", f"no {r.noun}", f"everything but {r.text}")


def replacement(s: Statement, c: Context, mood: Mood) -> Clause:
    """One group gone and another in the picture."""
    i, _ = before(s, c)
    r = refer(c, i, pronouns=mood == "do")
    op, new = Operation.CHANGE, phrase_for(c, s.said)
    if mood == "do":
        return one_of(c, op, f"replace {r.text} with {new}", f"swap {r.text} for {new}", f"change {r.text} to {new}")
    if mood == "is":
        be = is_are(s.value("count"))
        return one_of(c, op, f"{r.text} {r.be} replaced by {new}", f"there {be} {new} instead of {r.text}")
    return one_of(c, op, f"{new} instead of {r.text}", f"{new} in place of {r.text}")


def view(s: Statement, c: Context, mood: Mood) -> Clause:
    """The background's new colour or pattern, or the camera's tilt."""
    values = dict(s.said)
    if "tilt" in values:
        return _tilt(int(str(values["tilt"])), c, mood)
    words = joined((str(values.get("background_kind", "")), str(values.get("background", ""))))
    ground = c.rng.choice(("background", "background", "background", "backdrop"))
    if mood == "do":
        texts = [f"make the {ground} {words}", f"change the {ground} to {words}", f"use {article(words)} {ground}"]
        return one_of(c, SPATIAL, *texts, f"put everything on {article(words)} {ground}")
    if mood == "is":
        return one_of(
            c, SPATIAL, *(f"the {ground} {w}" for w in (f"is {words}", f"has turned {words}", f"is now {words}"))
        )
    return one_of(c, SPATIAL, f"{article(words)} {ground}", f"{article(words)} {ground} instead")


def brightness(s: Statement, c: Context, mood: Mood) -> Clause:
    """A background that is only compared: darker, lighter."""
    word = c.rng.choice(("lighter", "brighter")) if s.value("sign") == 1 else "darker"
    ground = c.rng.choice(("background", "background", "backdrop"))
    text = {"do": f"make the {ground} {word}", "is": f"the {ground} is {word}", "has": f"a {word} {ground}"}[mood]
    return Clause(text, Operation.COMPARATIVE)


def _tilt(tilt: int, c: Context, mood: Mood) -> Clause:
    thing = c.rng.choice(("picture", "view", "image", "camera"))
    if tilt == 0:
        if mood == "do":
            return one_of(c, VIEWPOINT, f"straighten the {thing}", f"level the {thing}")
        if mood == "is":
            return one_of(c, VIEWPOINT, f"the {thing} is level", f"the {thing} is no longer tilted")
        return one_of(c, VIEWPOINT, "a level view", "a straight view")
    to = f"to the {'right' if tilt > 0 else 'left'}"
    if c.reference.tilt == -tilt and c.rng.random() < 0.7:
        to = "the other way"
    if mood == "do":
        return Clause(f"tilt the {thing} {to}", VIEWPOINT)
    if mood == "is":
        return Clause(f"the {thing} is tilted {to}", VIEWPOINT)
    return Clause(f"the view tilted {to}", VIEWPOINT)


def zoom(s: Statement, c: Context, mood: Mood) -> Clause:
    """The camera nearer or farther."""
    near = {
        "do": ("zoom in", "move the camera closer", "show it from closer up"),
        "is": ("the camera is closer", "the picture is zoomed in", "it is seen from closer up"),
        "has": ("a closer view", "a closer shot"),
    }
    far = {
        "do": ("zoom out", "move the camera back", "show it from further away"),
        "is": ("the camera is further away", "the picture is zoomed out", "it is seen from further away"),
        "has": ("a wider view", "a more distant shot"),
    }
    return one_of(c, VIEWPOINT, *(near if s.value("sign") == 1 else far)[mood])


def mirror(s: Statement, c: Context, mood: Mood) -> Clause:
    """Left and right change places."""
    texts = {
        "do": ("mirror the image", "flip the picture horizontally", "flip everything from left to right"),
        "is": ("the picture is mirrored", "the scene is flipped left to right"),
        "has": ("everything mirrored", "everything flipped left to right"),
    }
    return one_of(c, VIEWPOINT, *texts[mood])


def keep(s: Statement, c: Context, mood: Mood) -> Clause:
    """Something that stays as it was."""
    if s.kind == "keep rest":
        texts = {
            "do": ("keep everything else the same", "leave the rest as it is", "change nothing else"),
            "is": ("everything else stays the same", "the rest is unchanged"),
            "has": ("everything else the same", "the rest unchanged"),
        }
        return one_of(c, KEEP, *texts[mood])
    if s.kind == "keep attribute":
        return _keep_attribute(s, c, mood)
    if s.kind == "keep group":
        r = refer(c, before(s, c)[0], pronouns=False)
        thing, plural = r.text.removeprefix("the "), r.plural
    else:
        thing, plural = "background" if s.kind == "keep background" else c.rng.choice(("view", "angle")), False
    same = "" if thing.startswith("other") else "same "
    if mood == "do":
        as_is = "they are" if plural else "it is"
        return one_of(c, KEEP, f"keep the {thing}", f"keep the {same}{thing}", f"leave the {thing} as {as_is}")
    if mood == "is":
        stays, be = ("stay", "are") if plural else ("stays", "is")
        return one_of(c, KEEP, f"the {thing} {stays} the same", f"the {thing} {be} unchanged")
    return one_of(c, KEEP, f"the same {thing}" if same else f"the {thing} unchanged", f"the {thing} unchanged")


def _keep_attribute(s: Statement, c: Context, mood: Mood) -> Clause:
    r = refer(c, before(s, c)[0])
    word = _ATTRIBUTE_WORD[str(s.value("name"))]
    what = f"the {word} of {r.text}"
    if r.pronoun:
        what = "the number" if word == "number" else f"{'their' if r.plural else 'its'} {word}"
    if mood == "do":
        return one_of(c, KEEP, f"keep {what}", f"keep {what} the same")
    if mood == "is":
        return one_of(c, KEEP, f"{what} stays the same", f"{what} is unchanged")
    return Clause(f"{what} unchanged", KEEP)
