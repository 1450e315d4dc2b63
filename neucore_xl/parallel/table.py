"""What a job is, in a table that rank 0 prints at the start."""

from __future__ import annotations

from collections.abc import Iterable

_NAMES = len("world size")  # so that a log always holds the line `world size  N`


def start_table(rows: Iterable[tuple[str, object]]) -> str:
    """Rows of a name and a value as plain lines, the same in a terminal and a log."""
    return "\n".join(f"{name:<{_NAMES}}  {value}" for name, value in rows)
