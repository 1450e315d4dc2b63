"""What the doctor measures of annotations beside published figures, and the means that all layouts take."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from rich.console import Console


class Statistics(Protocol):
    """The statistics of one folder; each layout has its own, ``statistics_….py``."""

    def to_json(self) -> dict[str, Any]:
        """Measured and published figures and their sources, for the JSON report."""
        ...

    def print(self, console: Console) -> None:
        """The same as tables, with notes where the two differ."""
        ...


def mean_words(captions: Sequence[str]) -> float | None:
    """Mean number of words (runs between blanks); None of no captions."""
    return sum(len(c.split()) for c in captions) / len(captions) if captions else None


def percent(flags: Iterable[bool]) -> float | None:
    """Share of true values in percent; None of no values."""
    values = list(flags)
    return 100.0 * sum(values) / len(values) if values else None
