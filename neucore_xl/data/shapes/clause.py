"""A clause: words, the operation they express, and how another clause may join on."""

from __future__ import annotations

from dataclasses import dataclass

from neucore_xl.data.shapes.claims import Statement
from neucore_xl.data.shapes.nouns import Context, Name, article
from neucore_xl.data.shapes.scene import Group
from neucore_xl.language.sequence import Operation

Mood = str  # "do" (make it bigger), "is" (it is bigger) or "has" (a bigger star)
MOODS: tuple[Mood, ...] = ("do", "is", "has")


@dataclass(frozen=True)
class Clause:
    """``frame`` is "make" or "be" where an adjective alone may follow: "make it blue" … "and bigger"."""

    text: str
    operation: Operation
    frame: str = ""


def one_of(context: Context, operation: Operation, *texts: str, frame: str = "") -> Clause:
    """One of several wordings of the same operation."""
    return Clause(context.rng.choice(texts), operation, frame)


def pick(context: Context, *clauses: Clause) -> Clause:
    """One of several clauses."""
    return context.rng.choice(clauses)


def before(statement: Statement, context: Context) -> tuple[int, Group]:
    """The group that a statement is about: its index and how the reference shows it."""
    assert statement.group is not None
    return statement.group, context.reference.groups[statement.group]


def a(words: str, name: Name) -> str:
    """The words with an article unless the group is many."""
    return words if name.plural else article(words)


def is_are(count: object) -> str:
    """The verb that agrees with a number."""
    return "is" if count == 1 else "are"
