"""What passes between the parts of the planner: a model's answers, the checked record of a sentence, and times."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from neucore_xl.language.sequence import FusionSequence


@dataclass(frozen=True)
class Answer:
    """What a model wrote for one sentence, unchecked; ``failure`` says why there is nothing to read."""

    text: str
    raw: str
    prompt_tokens: int = 0
    tokens: int = 0  # generated
    failure: str | None = None


@dataclass(frozen=True)
class Record:
    """The sequence that is kept of a sentence, and how it came about.

    ``fallback`` is the reason why the clause planner wrote it (None: the model did); ``repairs`` counts what was put
    right, by reason.
    """

    sequence: FusionSequence
    fallback: str | None = None
    repairs: Mapping[str, int] = field(default_factory=dict)
    prompt_tokens: int = 0
    tokens: int = 0


class Writer(Protocol):
    """A model that answers sentences: a local one, or a server.

    ``identity`` (JSON) is all that an answer depends on beside its sentence: model, revision, prompt, decoding.
    """

    @property
    def identity(self) -> dict[str, Any]: ...

    def write(self, texts: Sequence[str]) -> Iterator[list[Answer]]:
        """Answers in finished portions, every text once, in any order; ``texts`` are distinct and not blank."""
        ...


@dataclass(frozen=True)
class Timing:
    """Wall-clock time that one portion of sentences took."""

    sentences: int
    seconds: float
