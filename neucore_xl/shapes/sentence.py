"""From statements to a sentence and its truth: order, mood, a clause for each, conjunctions, the phrase of every step.

The same change is a different operation in other words: "the star is blue" addresses the target directly, "make the
star blue instead of red" compares and changes. The truth file labels the words, not the change.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence

from neucore_xl.language.sequence import FusionSequence, Operation, Step
from neucore_xl.shapes import say_layout, say_looks, say_scene
from neucore_xl.shapes.claims import Statement
from neucore_xl.shapes.difference import Difference
from neucore_xl.shapes.lexicon import lemmas
from neucore_xl.shapes.nouns import MOODS, Clause, Context, Mood

OPENINGS = ("", "", "", "show ", "has ", "the same picture with ", "the target has ", "same scene with ")
PLAIN_OPENINGS = ("has ", "has ", "has ", "")
MOOD_WEIGHTS = {False: (4, 3, 3), True: (1, 4, 4)}  # by ``plain``: do, is, has


Speaker = Callable[[Statement, Context, Mood], Clause]

_BY_ATTRIBUTE: dict[str, Speaker] = {
    "colour": say_looks.colour,
    "texture": say_looks.texture,
    "shape": say_looks.shape,
    "count": say_layout.number,
    "place": say_layout.place,
}
_BY_KIND: dict[str, Speaker] = {
    "direct": say_looks.several,
    "size": say_layout.size,
    "move": say_layout.move,
    "exchange": say_layout.exchange,
    "add": say_scene.addition,
    "remove": say_scene.removal,
    "replace": say_scene.replacement,
    "view": say_scene.view,
    "brightness": say_scene.brightness,
    "zoom": say_scene.zoom,
    "mirror": say_scene.mirror,
    "keep rest": say_scene.keep,
    "keep background": say_scene.keep,
    "keep view": say_scene.keep,
    "keep group": say_scene.keep,
    "keep attribute": say_scene.keep,
}


def sentence(
    statements: Sequence[Statement], d: Difference, rng: random.Random, *, plain: bool = False
) -> FusionSequence:
    """One English sentence (sometimes two) that says the statements about ``d``, with the truth about its steps.

    ``plain``: in the manner of Fashion-IQ, mostly "has …" or "is …", without other openings.
    """
    context = Context(d, rng)
    mood = _mood(statements, plain, rng)
    plan = ordered(statements, rng)
    clauses: list[Clause] = []
    joints: list[str] = []
    for i, s in enumerate(plan):
        short = _short_form(s, plan[i - 1]) if clauses and clauses[-1].frame and rng.random() < 0.6 else None
        if short is not None:
            frame = clauses[-1].frame
            direct = frame == "be" and short.operation is Operation.CHANGE
            clauses.append(Clause(short.text, Operation.DIRECT if direct else short.operation, frame))
            joints.append(" and ")
            continue
        clauses.append(clause(s, context, mood))
        joints.append(_joint(i == len(plan) - 1, s, mood, rng) if i else "")
    first = clauses[0]
    if mood == "has":
        opening = rng.choice(PLAIN_OPENINGS if plain else OPENINGS)
        clauses[0] = Clause(opening + first.text, first.operation)
    elif plain and first.text.startswith(("it is ", "it has ")):
        clauses[0] = Clause(first.text.removeprefix("it "), first.operation)
    return _finish(clauses, joints, rng)


def ordered(statements: Sequence[Statement], rng: random.Random) -> list[Statement]:
    """Random order, the statements of one group side by side (so that "it" is clear) and what is kept at the end."""
    blocks: dict[object, list[Statement]] = {}
    for i, s in enumerate(statements):
        blocks.setdefault(s.group if s.group is not None else ("alone", i), []).append(s)
    shuffled = list(blocks.values())
    rng.shuffle(shuffled)
    flat = [s for block in shuffled for s in sorted(block, key=_rank)]
    kept = [s for s in flat if s.kind.startswith("keep")]
    rest = [s for s in flat if not s.kind.startswith("keep")]
    first = bool(kept) and kept[0].kind in ("keep background", "keep view", "keep group") and rng.random() < 0.25
    return [*kept, *rest] if first else [*rest, *kept]


def clause(statement: Statement, context: Context, mood: Mood) -> Clause:
    """Put one statement into words; ``context`` then knows what has been spoken of."""
    speak = _BY_ATTRIBUTE[statement.said[0][0]] if statement.kind == "set" else _BY_KIND[statement.kind]
    earlier = context.last
    made = speak(statement, context, mood)
    if context.last == earlier:  # unless the wording itself turned to another group ("everything except …")
        context.last = None if statement.kind in ("replace", "exchange") else statement.group
    context.counted = statement.kind == "set" and statement.said[0][0] == "count"
    context.begun = True
    return made


def _rank(s: Statement) -> int:
    """Within one group: its number first, a change of place last, so that the pronoun after each is right."""
    if s.kind in ("direct", "replace", "remove"):
        return 0
    if s.kind == "move":
        return 3
    return {"count": 1, "place": 3}.get(s.said[0][0] if s.said else "", 2)


def _mood(statements: Sequence[Statement], plain: bool, rng: random.Random) -> Mood:
    """A mood for the whole sentence; noun phrases only where no group is spoken of twice."""
    mood = rng.choices(MOODS, MOOD_WEIGHTS[plain])[0]
    spoken = Counter(s.group for s in statements if s.group is not None)
    return rng.choice(("do", "is")) if mood == "has" and max(spoken.values(), default=0) > 1 else mood


def _short_form(s: Statement, before: Statement) -> Clause | None:
    """Only "bigger" instead of "make it bigger", after a clause about the same group that an adjective may follow."""
    if s.group is None or s.group != before.group:
        return None
    if s.kind == "size":
        return Clause("bigger" if s.value("sign") == 1 else "smaller", Operation.COMPARATIVE)
    if s.kind == "set" and s.said[0][0] in ("colour", "texture"):
        return Clause(str(s.said[0][1]), Operation.CHANGE)
    return None


def _joint(last: bool, s: Statement, mood: Mood, rng: random.Random) -> str:
    if s.kind.startswith("keep") and rng.random() < 0.5:
        return rng.choice((" but ", ", but "))
    if mood == "has":
        return rng.choice((" and ", " and ", ", ", ", and ") if last else (", ", ", ", " and "))
    then = (", then ",) if mood == "do" and not s.kind.startswith("keep") else ()
    if last:
        return rng.choice((" and ", " and ", " and ", ", and ", ", ", ". ", *then))
    return rng.choice((", ", ", ", ", ", " and ", ". ", *then))


def _finish(clauses: Sequence[Clause], joints: Sequence[str], rng: random.Random) -> FusionSequence:
    """Capitals and full stop as a writer may set them, and the steps with the exact words of the result."""
    two = ". " in joints
    capitals = rng.random() < (0.75 if two else 0.35)
    text, steps = "", []
    for made, joint in zip(clauses, joints, strict=True):
        phrase = made.text
        if capitals and joint in ("", ". "):
            phrase = phrase[0].upper() + phrase[1:]
        text += joint + phrase
        steps.append(Step(made.operation, lemmas(phrase), phrase))
    if rng.random() < (0.8 if two else 0.3):
        text += "."
    return FusionSequence(text, tuple(steps))
