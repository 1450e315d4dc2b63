"""What is printed about ranks that hang or are gone: few lines, whether there are two ranks or a thousand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Sign:
    """What a rank says of itself: the ``nth`` mark of ``step`` was ``phase``, ``age`` seconds ago.

    ``beat`` counts the signs; ``where`` is the line that its main thread is at, if it has been there for long.
    """

    rank: int
    host: str
    phase: str
    step: int
    nth: int
    age: float
    beat: int = 0
    closed: bool = False
    where: str = ""


def hang_report(signs: Sequence[Sign], limit: float) -> str:
    """Who is behind and who waits, when nobody has made a mark for ``limit`` seconds; one line per place."""
    first = f"hang: no rank has made progress for {_duration(limit)} (train.hang_minutes)"
    at_work = [sign for sign in signs if not sign.closed]
    places: dict[tuple[int, int, str, str], list[Sign]] = {}
    for sign in at_work:
        places.setdefault((sign.step, sign.nth, sign.phase, sign.where), []).append(sign)
    lines = [
        f"  rank {_ranks(here)}: {phase}, step {step}, for {max(sign.age for sign in here):.0f} s"
        + (f", at {where}" if where else "")
        for (step, _, phase, where), here in sorted(places.items())
    ]
    if len(at_work) < len(signs):
        lines.append(f"  rank {_ranks([sign for sign in signs if sign.closed])}: finished")
    least = min((sign.step, sign.nth) for sign in at_work)
    behind = [sign for sign in at_work if (sign.step, sign.nth) == least]
    if len(signs) == 1:
        last = "it is the only one"
    elif len(behind) == len(at_work):
        last = "they are all at the same point"
    else:
        last = f"behind: rank {_ranks(behind)}; {len(at_work) - len(behind)} wait"
    return "\n".join([first, *lines, f"  {last}; started again, the run goes on from its last checkpoint"])


def silence_report(signs: Sequence[Sign], limit: float) -> str:
    """The ranks that were not heard from for ``limit`` seconds, in one sentence."""
    last = ", ".join(f"{sign.phase}, step {sign.step}" for sign in signs[:1])
    return (
        f"lost: rank {_ranks(signs)} was not heard from for {_duration(limit)} (last at {last}): its process or node "
        "is gone or stopped; started again, the run goes on from its last checkpoint."
    )


def _ranks(signs: Sequence[Sign]) -> str:
    """``1 on node2``, or ``0-3, 8`` for many."""
    if len(signs) <= 4:
        return ", ".join(f"{sign.rank} on {sign.host}" for sign in signs)
    spans: list[list[int]] = []
    for rank in sorted(sign.rank for sign in signs):
        if spans and rank == spans[-1][1] + 1:
            spans[-1][1] = rank
        else:
            spans.append([rank, rank])
    return ", ".join(f"{a}-{b}" if a != b else str(a) for a, b in spans)


def _duration(seconds: float) -> str:
    return f"{seconds / 60:g} minutes" if seconds >= 60 else f"{seconds:g} s"
