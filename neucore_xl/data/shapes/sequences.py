"""The truth file of fusion sequences."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from neucore_xl.language.sequence import FusionSequence

PLANNER = "truth"


def write_truth(path: Path, sequences: Iterable[FusionSequence], seed: int) -> int:
    """Write the truth of distinct texts to ``path``; returns how many.

    A text that two pairs share is written once: the words decide the steps.
    """
    from neucore_xl.language.sequence_file import write_sequences

    by_text: dict[str, FusionSequence] = {}
    for s in sequences:
        by_text.setdefault(s.text, s)
    write_sequences(path, by_text.values(), planner=PLANNER, settings={"generator": "shapes", "seed": seed})
    return len(by_text)
