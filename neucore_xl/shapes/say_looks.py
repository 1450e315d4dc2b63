"""Wording of what a group looks like: colour, texture, shape, and several of them at once."""

from __future__ import annotations

from neucore_xl.language.sequence import Operation
from neucore_xl.shapes.claims import Statement
from neucore_xl.shapes.nouns import Clause, Context, Mood, a, article, before, is_are, one_of, phrase_for, pick, refer

CHANGE, DIRECT, NEGATION = Operation.CHANGE, Operation.DIRECT, Operation.NEGATION
TEXTURE_NOUN = {"striped": "stripes", "dotted": "dots", "checked": "checks"}


def _adjective(s: Statement, c: Context, mood: Mood) -> Clause:
    """A colour or a texture as one adjective."""
    i, was = before(s, c)
    attribute, word = s.said[0][0], str(s.said[0][1])
    old = str(getattr(was, attribute))
    r = refer(c, i, pronouns=mood != "has")
    old_said = old in r.text.split()  # "make the red star blue instead of red" says it twice
    if mood == "do":
        options = [Clause(f"make {r.text} {word}", CHANGE, "make")] * 3
        options.append(Clause(f"{r.subject} should be {word}", DIRECT))
        if not old_said:
            options += [
                Clause(f"make {r.text} {word} instead of {old}", CHANGE),
                Clause(f"change {r.text} from {old} to {word}", CHANGE),
            ]
        if attribute == "colour":
            verbs = (f"turn {r.text} {word}", f"change {r.text} to {word}", f"paint {r.text} {word}")
            options += [Clause(text, CHANGE) for text in verbs]
        return pick(c, *options)
    if mood == "is":
        options = [Clause(f"{r.subject} {r.be} {word}", DIRECT, "be")] * 2
        options.append(Clause(f"{r.subject} {r.be} now {word}", DIRECT, "be"))
        if not old_said:
            options.append(Clause(f"{r.subject} {r.be} {word} instead of {old}", CHANGE))
            options.append(Clause(f"{r.subject} {r.have} changed from {old} to {word}", CHANGE))
        return pick(c, *options)
    if r.noun.startswith("other"):
        return Clause(f"{r.text} in {word}" if attribute == "colour" else f"{r.text} {word}", CHANGE)
    new = a(f"{word} {r.noun}", r)
    one = f"{old} ones" if r.plural else f"{article(old)} one"
    return pick(
        c,
        Clause(new, DIRECT),
        Clause(f"the same {r.noun} but {word}", CHANGE),
        Clause(f"the same {r.noun} but {word}", CHANGE) if old_said else Clause(f"{new} instead of {one}", CHANGE),
    )


def colour(s: Statement, c: Context, mood: Mood) -> Clause:
    """A new colour, at times as that of another group."""
    i, _ = before(s, c)
    groups = c.reference.groups
    twins = [k for k, g in enumerate(groups) if k != i and g.colour == s.value("colour") and c.same(k, "colour")]
    if twins and mood != "has" and c.rng.random() < 0.6:
        r = refer(c, i)
        other = f"the {c.noun(groups[twins[0]].shape, groups[twins[0]].count)}"
        if r.text != other and other not in r.text:
            verb = f"give {r.text}" if mood == "do" else f"{r.subject} {r.have}"
            return Clause(f"{verb} the same colour as {other}", CHANGE)
    return _adjective(s, c, mood)


def texture(s: Statement, c: Context, mood: Mood) -> Clause:
    """A new texture; a plain one often as the loss of the old."""
    i, was = before(s, c)
    new = str(s.value("texture"))
    if new == "plain" and c.rng.random() < 0.6:
        marks = TEXTURE_NOUN[was.texture]
        r = refer(c, i, pronouns=mood != "has")
        if mood == "do":
            return one_of(c, NEGATION, f"remove the {marks} from {r.text}", f"take the {marks} off {r.text}")
        if mood == "is":
            return one_of(c, NEGATION, f"{r.subject} {r.have} no {marks}", f"{r.subject} no longer {r.have} {marks}")
        who = r.text if r.noun.startswith("other") else a(r.noun, r)
        return Clause(f"{who} without {marks}", NEGATION)
    if new != "plain" and mood == "do" and c.rng.random() < 0.3:
        return Clause(f"give {refer(c, i).text} {TEXTURE_NOUN[new]}", CHANGE)
    return _adjective(s, c, mood)


def shape(s: Statement, c: Context, mood: Mood) -> Clause:
    """A new shape; at times adding that the colour stays, where it does."""
    i, _ = before(s, c)
    r = refer(c, i, pronouns=mood != "has")
    new = a(c.noun(str(s.value("shape")), 2 if r.plural else 1), r)
    alike = " of the same colour" if c.same(i, "colour") and c.rng.random() < 0.5 else ""
    if mood == "do":
        return one_of(
            c,
            CHANGE,
            f"change {r.text} to {new}",
            f"replace {r.text} with {new}{alike}",
            f"turn {r.text} into {new}",
            f"swap {r.text} for {new}{alike}",
        )
    if mood == "is":
        return pick(
            c,
            Clause(f"{r.subject} {r.be} now {new}", DIRECT),
            Clause(f"{r.subject} {r.have} become {new}", CHANGE),
            Clause(f"{r.subject} {r.have} changed to {new}", CHANGE),
        )
    return one_of(c, CHANGE, f"{new} instead of {r.text}", f"{new}{alike} in place of {r.text}")


def several(s: Statement, c: Context, mood: Mood) -> Clause:
    """Several values of a group, said as what the target shows."""
    i, was = before(s, c)
    values = dict(s.said)
    count = int(str(values.get("count", was.count)))
    said = (*((n, v) for n, v in s.said if n != "count"), ("count", count))
    new = phrase_for(c, said, counted="count" in values or count == 1)
    c.now_plural[i] = count > 1
    if mood == "do":
        should = f"there should be {new}" if count > 1 or c.begun else f"it should be {new}"
        return one_of(c, DIRECT, f"show {new}", f"show {new}", should)
    if mood == "is":
        return one_of(c, DIRECT, f"there {is_are(count)} {new}", f"there {is_are(count)} {new} now")
    return Clause(new, DIRECT)
