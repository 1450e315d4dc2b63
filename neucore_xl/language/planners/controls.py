"""Sequences that say less than a plan does: what an ablation compares a planner with.

Everything is a function of the sentences alone: no seed to set, nothing that another run would draw differently.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence

from neucore_xl.language.sequence import FusionSequence, Operation, Step


def single(texts: Sequence[str]) -> dict[str, FusionSequence]:
    """One step for every sentence: the sentence itself, its operation ``direct_addressing``."""
    return {t: FusionSequence(t, (Step(Operation.DIRECT, (), t.strip()),) if t.strip() else ()) for t in texts}


def shuffled(planned: Mapping[str, FusionSequence]) -> dict[str, FusionSequence]:
    """Every sentence gets the steps of another one, each one's steps used once: as many steps, none of them its own.

    The sentences with steps are put in the order of a digest and each takes the steps of the next. Their phrases are
    not of the sentence, so these sequences are unsound on purpose and never written to a file. A lone sentence has
    no other to take from and keeps its steps.
    """
    with_steps = sorted((t for t, s in planned.items() if s.steps), key=_digest)
    giver = dict(zip(with_steps, [*with_steps[1:], *with_steps[:1]], strict=True))
    return {t: FusionSequence(t, planned[giver[t]].steps if t in giver else ()) for t in planned}


def reordered(planned: Mapping[str, FusionSequence]) -> dict[str, FusionSequence]:
    """Every sentence's own steps in an order drawn with its digest; never the planned one if there is another."""
    return {t: FusionSequence(t, _another_order(t, s.steps)) for t, s in planned.items()}


def _another_order(text: str, steps: tuple[Step, ...]) -> tuple[Step, ...]:
    if len(set(steps)) < 2:
        return steps
    draw = random.Random(_digest(text))
    order = list(steps)
    while tuple(order) == steps:
        draw.shuffle(order)
    return tuple(order)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
