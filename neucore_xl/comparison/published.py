"""What the papers print: reference lines, never rows that are compared."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

WORDS = "published, other backbone"


@dataclass(frozen=True)
class Published:
    """A line of a paper: metrics in percent, the table it is from, and what the system is called here, if it is."""

    label: str
    metrics: Mapping[str, float]
    source: str
    system: str | None = None

    @property
    def named(self) -> str:
        """The label with its table, the rows of the table left out."""
        return f"{self.label} ({re.sub(r', row [0-9]+', '', self.source)})"


@cache
def _content() -> dict[str, Any]:
    return dict(yaml.safe_load((Path(__file__).parent / "published.yaml").read_text(encoding="utf-8")))


def published(dataset: str) -> list[Published]:
    """The lines of ``dataset``, in the papers' order; none for a dataset that they do not use."""
    return [Published(**line) for line in _content().get(dataset, [])] if dataset != "human" else []


def human(dataset: str) -> Published | None:
    """What people reach, where it was measured."""
    line = _content()["human"].get(dataset)
    return Published(**line) if line else None
