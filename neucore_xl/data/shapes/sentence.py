"""From statements to a sentence and its truth: order, mood, conjunctions, and the phrase of every step."""

from __future__ import annotations

import random
from collections.abc import Sequence

from neucore_xl.data.shapes.lexicon import lemmas
from neucore_xl.data.shapes.nouns import Context
from neucore_xl.data.shapes.scene import Scene
from neucore_xl.data.shapes.statements import Statement
from neucore_xl.data.shapes.wording import Clause, clause
from neucore_xl.language.sequence import FusionSequence, Operation, Step

OPENINGS = ("", "", "", "show ", "has ", "the same picture with ", "the target has ", "same scene with ")
PLAIN_OPENINGS = ("has ", "has ", "")


def ordered(statements: Sequence[Statement], rng: random.Random) -> list[Statement]:
    """Random order, the statements of one group side by side (so that "it" is clear) and what is kept at the end."""
    groups: dict[object, list[Statement]] = {}
    for i, s in enumerate(statements):
        groups.setdefault(s.group if s.group is not None else ("alone", i), []).append(s)
    blocks = list(groups.values())
    rng.shuffle(blocks)
    flat = [s for block in blocks for s in sorted(block, key=_rank)]
    kept = [s for s in flat if s.kind.startswith("keep")]
    rest = [s for s in flat if not s.kind.startswith("keep")]
    return [*kept, *rest] if kept and rng.random() < 0.2 and kept[0].kind != "keep rest" else [*rest, *kept]


def _rank(s: Statement) -> int:
    """Within one group: its number first, a change of place last, so that the pronoun after each is right."""
    if s.kind in ("direct", "replace", "remove"):
        return 0
    return {"count": 1, "place": 3}.get(s.said[0][0] if s.said else "", 2)


def _short_form(s: Statement, before: Statement, context: Context) -> Clause | None:
    """ "bigger" instead of "make it bigger", behind a clause about the same group that an adjective may follow."""
    if s.group != before.group:
        return None
    if s.kind == "size":
        return Clause("bigger" if s.value("sign") == 1 else "smaller", Operation.COMPARATIVE)
    if s.kind == "set" and s.said[0][0] in ("colour", "texture"):
        return Clause(str(s.said[0][1]), Operation.CHANGE)
    return None


def sentence(
    statements: Sequence[Statement],
    reference: Scene,
    target: Scene,
    rng: random.Random,
    *,
    moods: Sequence[str] = ("do", "do", "is", "has"),
    plain: bool = False,
) -> FusionSequence:
    """One English sentence (sometimes two) that says the statements, with the truth about its steps.

    ``plain``: in the manner of Fashion-IQ, "has …" or "is …" in one sentence, without other openings.
    """
    context = Context(reference, target, rng)
    mood = rng.choice(moods)
    opening = rng.choice(PLAIN_OPENINGS if plain else OPENINGS) if mood == "has" else ""
    parts: list[Clause] = []
    text = ""
    before: Statement | None = None
    plan = ordered(statements, rng)
    for i, s in enumerate(plan):
        short = None
        if before is not None and parts[-1].frame and rng.random() < 0.6:
            short = _short_form(s, before, context)
        if short is not None:
            op = (
                Operation.DIRECT if parts[-1].frame == "be" and short.operation is Operation.CHANGE else short.operation
            )
            made = Clause(short.text, op, frame=parts[-1].frame)
            joint = " and "
        else:
            made = clause(s, context, mood)
            if i == 0:
                made = Clause(opening + made.text, made.operation, frame=made.frame)
            joint = _joint(i, len(plan), s, mood, rng)
        text += (joint if i else "") + made.text
        parts.append(made)
        before = s
    return _finish(text, parts, rng)


def _joint(i: int, n: int, s: Statement, mood: str, rng: random.Random) -> str:
    last = i == n - 1
    if s.kind.startswith("keep") and rng.random() < 0.5:
        return rng.choice((" but ", ", but "))
    if mood == "do":
        options = (
            (" and ", " and ", ", ", ", and ", ", then ", ". ") if last else (", ", ", ", " and ", ". ", ", then ")
        )
    elif mood == "is":
        options = (" and ", " and ", ", and ", ", ", ". ") if last else (", ", ", ", " and ", ". ")
    else:
        options = (" and ", " and ", ", ", ", and ") if last else (", ", ", ", " and ")
    return rng.choice(options)


def _finish(text: str, parts: Sequence[Clause], rng: random.Random) -> FusionSequence:
    """Capitals and full stop as a writer may set them, and the steps with the exact words of the result."""
    two = ". " in text
    capitals = rng.random() < (0.7 if two else 0.35)
    steps, at, out = [], 0, text
    spans = []
    for part in parts:
        start = text.index(part.text, at)
        at = start + len(part.text)
        spans.append((start, at))
    if capitals:
        starts = [0, *(i + 2 for i in range(len(text)) if text.startswith(". ", i))]
        letters = list(text)
        for i in starts:
            letters[i] = letters[i].upper()
        out = "".join(letters)
    for (start, end), part in zip(spans, parts, strict=True):
        phrase = out[start:end]
        steps.append(Step(part.operation, lemmas(phrase), phrase))
    if rng.random() < (0.8 if two else 0.3):
        out += "."
    return FusionSequence(out, tuple(steps))
