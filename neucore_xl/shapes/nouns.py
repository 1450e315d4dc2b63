"""Noun phrases and clauses: how a sentence names a group of objects, a place or a background, and what it says of it.

A clause is words and the operation that they express. ``say_….py`` put statements into clauses with what is here.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field

from neucore_xl.language.sequence import Operation
from neucore_xl.shapes.claims import Said, Statement
from neucore_xl.shapes.difference import Difference
from neucore_xl.shapes.scene import Group, Place, Scene

Mood = str  # "do" (make it bigger), "is" (it is bigger) or "has" (a bigger star)
MOODS: tuple[Mood, ...] = ("do", "is", "has")

SYNONYMS = {
    "circle": ("circle", "circle", "disc"),
    "square": ("square", "square", "block"),
    "triangle": ("triangle",),
    "star": ("star",),
    "ring": ("ring", "ring", "hoop"),
    "cross": ("cross",),
    "heart": ("heart",),
}
PLURALS = {"cross": "crosses"}
NUMBERS = {1: "one", 2: "two", 3: "three", 4: "four"}
PLACES: dict[Place, tuple[str, ...]] = {
    (0, 0): ("in the top left corner", "at the top left"),
    (0, 1): ("at the top",),
    (0, 2): ("in the top right corner", "at the top right"),
    (1, 0): ("on the left", "on the left side"),
    (1, 1): ("in the centre", "in the middle"),
    (1, 2): ("on the right", "on the right side"),
    (2, 0): ("in the bottom left corner", "at the bottom left"),
    (2, 1): ("at the bottom",),
    (2, 2): ("in the bottom right corner", "at the bottom right"),
}
SIZE_WORDS = {"small": ("small", "little"), "medium": ("medium",), "large": ("large", "big")}


@dataclass(frozen=True)
class Name:
    """How a group is named at one point of a sentence: ``the red circle``, ``it``, ``the other one``."""

    text: str
    plural: bool
    pronoun: bool = False
    noun: str = ""  # for "a bigger <noun>": the bare noun with what tells it apart, in the group's own number

    @property
    def subject(self) -> str:
        return "they" if self.text == "them" else self.text

    @property
    def be(self) -> str:
        return "are" if self.plural else "is"

    @property
    def have(self) -> str:
        return "have" if self.plural else "has"


@dataclass
class Context:
    """What a sentence has said so far, the pair it speaks about, and its own source of chance."""

    d: Difference
    rng: random.Random
    last: int | None = None  # the group spoken of in the clause before
    begun: bool = False  # a clause stands before this one
    counted: bool = False  # the clause before changed a number: "the other one" would be unclear
    now_plural: dict[int, bool] = field(default_factory=dict)  # after "add one more", "it" becomes "them"
    nouns: dict[str, str] = field(default_factory=dict)  # one word per shape throughout a sentence

    @property
    def reference(self) -> Scene:
        return self.d.reference

    def noun(self, shape: str, count: int) -> str:
        """The word for a shape, one or many."""
        word = self.nouns.setdefault(shape, self.rng.choice(SYNONYMS[shape]))
        return word if count == 1 else PLURALS.get(word, word + "s")

    def same(self, index: int, attribute: str) -> bool:
        """Whether the target still shows group ``index`` with its value of ``attribute``."""
        return self.d.match[index] is not None and ("group", index, attribute) not in self.d.keys


@dataclass(frozen=True)
class Clause:
    """``frame`` is "make" or "be" where an adjective alone may follow: "make it blue" … "and bigger"."""

    text: str
    operation: Operation
    frame: str = ""


def article(words: str) -> str:
    """``words`` behind "a" or "an"."""
    return ("an " if words[0] in "aeio" else "a ") + words


def joined(words: Iterable[str]) -> str:
    """The non-empty words with single blanks between them."""
    return " ".join(w for w in words if w)


def distinguishing(scene: Scene, index: int) -> tuple[str, ...]:
    """The fewest adjectives that tell group ``index`` from the groups of its shape."""
    group = scene.groups[index]
    rivals = [g for i, g in enumerate(scene.groups) if i != index and g.shape == group.shape]
    if not rivals:
        return ()
    if all(g.colour != group.colour for g in rivals):
        return (group.colour,)
    return (group.texture, group.colour)


def position(scene: Scene, index: int) -> str | None:
    """Where the group stands, if that alone singles it out ("the one on the left")."""
    row, column = scene.groups[index].place
    others = [g.place for i, g in enumerate(scene.groups) if i != index]
    if column != 1 and all(c == 2 - column for _, c in others):
        return "on the left" if column == 0 else "on the right"
    if row != 1 and all(r == 2 - row for r, _ in others):
        return "at the top" if row == 0 else "at the bottom"
    return None


def refer(context: Context, index: int, *, pronouns: bool = True) -> Name:
    """Name group ``index`` of the reference: by pronoun, as the other one, by position or by what tells it apart."""
    scene, rng = context.reference, context.rng
    group = scene.groups[index]
    plural = context.now_plural.get(index, group.count > 1)
    s = "s" if plural else ""
    noun = joined((*distinguishing(scene, index), context.noun(group.shape, 2 if plural else 1)))
    n = len(scene.groups)
    if pronouns and context.last == index:
        if group.count > 1 and not plural:
            return Name("the remaining one", False, True, noun)
        return Name("them" if plural else "it", plural, True, noun)
    if pronouns and n == 1 and not context.begun and rng.random() < 0.5:
        return Name("them" if plural else "it", plural, True, noun)
    if n == 1 and rng.random() < 0.3:
        return Name(f"the shape{s}", plural, False, f"shape{s}")
    if n == 2 and context.last == 1 - index and not context.counted and rng.random() < 0.6:
        word = rng.choice(("one", "shape")) + s
        return Name(f"the other {word}", plural, False, f"other {word}")
    where = position(scene, index)
    if n > 1 and where and rng.random() < 0.3:
        word = rng.choice(("one", "shape")) + s
        return Name(f"the {word} {where}", plural, False, noun)
    return Name(f"the {noun}", plural, False, noun)


def phrase_for(context: Context, said: Said, *, counted: bool = True, extra: str = "") -> str:
    """An indefinite phrase with what is said of a group: "two small red stars", "a striped ring at the top"."""
    values = dict(said)
    count = int(str(values.get("count", 1)))
    size = str(values.get("size", ""))
    words = joined(
        (
            extra,
            context.rng.choice(SIZE_WORDS[size]) if size else "",
            str(values.get("texture", "")),
            str(values.get("colour", "")),
            context.noun(str(values["shape"]), count),
        )
    )
    head = words if not counted else article(words) if count == 1 else f"{NUMBERS[count]} {words}"
    place = next((where for cell, where in PLACES.items() if cell == values.get("place")), None)
    return joined((head, context.rng.choice(place) if place else ""))


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
