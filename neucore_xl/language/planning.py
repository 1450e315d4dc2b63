"""Where the sequences of a run come from: the one switch ``fusion.sequence``, and the planners by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from neucore_xl.config.schema import FusionSettings, LanguageSettings
from neucore_xl.errors import UserError
from neucore_xl.language.clauses import ClausePlanner
from neucore_xl.language.sequence import FusionSequence, clip_steps
from neucore_xl.language.sequence_file import read_sequences


class Planner(Protocol):
    """Turns sentences into sequences; ``settings`` (JSON) is all that a plan depends on beside its sentence."""

    @property
    def settings(self) -> dict[str, Any]: ...

    def plan(self, texts: Sequence[str]) -> list[FusionSequence]: ...


PLANNERS: tuple[str, ...] = ("clauses",)  # the planners that work offline and write sequence files


def build_planner(name: str, language: LanguageSettings, max_steps: int, cache_dir: Path | None = None) -> Planner:
    """The planner called ``name``; raises ``UserError`` with the known names."""
    if name == "clauses":
        return ClausePlanner(language, max_steps, cache_dir=cache_dir)
    raise UserError(f"unknown planner {name!r}; known are {', '.join(PLANNERS)}")


def sequences_for(
    texts: Sequence[str], fusion: FusionSettings, language: LanguageSettings, cache_dir: Path | None = None
) -> dict[str, FusionSequence]:
    """The sequence of every distinct text, at most ``fusion.max_steps`` long; ``{}`` for ``learned`` steps.

    A blank text has a sequence without steps. Raises ``UserError`` when ``fusion.sequence=llm`` and the file is
    missing or lacks a sentence.
    """
    distinct = list(dict.fromkeys(texts))
    if fusion.sequence == "learned":
        return {}
    if fusion.sequence == "clauses":
        planner = ClausePlanner(language, fusion.max_steps, cache_dir=cache_dir)
        return dict(zip(distinct, planner.plan(distinct), strict=True))
    return _from_file(distinct, fusion)


def _from_file(texts: Sequence[str], fusion: FusionSettings) -> dict[str, FusionSequence]:
    if fusion.file is None:
        raise UserError("fusion.sequence=llm needs fusion.file: the sequence file that a planner wrote")
    stored = read_sequences(fusion.file).by_text
    missing = [t for t in texts if t.strip() and t not in stored]
    if missing:
        raise UserError(
            f"{fusion.file} lacks {len(missing)} of {len(texts)} sentences, the first is {missing[0][:80]!r}: "
            "plan them with `neucore-xl prepare sequences`"
        )
    return {t: clip_steps(stored.get(t, FusionSequence(t, ())), fusion.max_steps) for t in texts}
