"""Where the sequences of a run come from: the one switch ``fusion.sequence``, and the planners by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from neucore_xl.config.schema import FusionSettings, LanguageSettings
from neucore_xl.errors import UserError
from neucore_xl.language.planners.clauses import ClausePlanner
from neucore_xl.language.planners.controls import reordered, shuffled, single
from neucore_xl.language.sequence import FusionSequence, clip_steps
from neucore_xl.language.sequence_file import SequenceFile, read_sequences

Sequences = dict[str, FusionSequence]


class Planner(Protocol):
    """Turns sentences into sequences; ``settings`` (JSON) is all that a plan depends on beside its sentence."""

    @property
    def settings(self) -> dict[str, Any]: ...

    def plan(self, texts: Sequence[str]) -> list[FusionSequence]: ...


PLANNERS: tuple[str, ...] = ("clauses", "clauses-encoder", "llm")
FROM_FILES = ("llm", "oracle")  # values of `fusion.sequence` that are read and not planned


def build_planner(
    name: str,
    language: LanguageSettings,
    max_steps: int,
    cache_dir: Path | None = None,
) -> Planner:
    """The planner called ``name``, for those that need no options of their own; raises ``UserError`` for others.

    A language model is put together where its options are known (``neucore_xl.language.llm``).
    """
    if name == "clauses":
        return ClausePlanner(language, max_steps, cache_dir=cache_dir)
    if name == "clauses-encoder":
        from neucore_xl.language.planners.encoder import EncoderPlanner

        return EncoderPlanner(language, max_steps, cache_dir=cache_dir)
    raise UserError(f"unknown planner {name!r}; known are {', '.join(PLANNERS)}")


def sequences_for(
    texts: Sequence[str], fusion: FusionSettings, language: LanguageSettings, cache_dir: Path | None = None
) -> Sequences:
    """The sequence of every distinct text, at most ``fusion.max_steps`` long; ``{}`` for ``learned`` steps.

    A blank text has a sequence without steps. Raises ``UserError`` when a file is needed and is missing, lacks a
    sentence, or was written with another vocabulary or prompt than the settings ask for.
    """
    distinct = list(dict.fromkeys(texts))

    def clauses() -> Sequences:
        planner = ClausePlanner(language, fusion.max_steps, cache_dir=cache_dir)
        return dict(zip(distinct, planner.plan(distinct), strict=True))

    def file() -> Sequences:
        return _from_files(distinct, fusion)

    sources: Mapping[str, Callable[[], Sequences]] = {
        "learned": dict,
        "clauses": clauses,
        "llm": file,
        "oracle": file,
        "single": lambda: single(distinct),
        "shuffled": lambda: shuffled(clauses()),
        "reordered": lambda: reordered(clauses()),
    }
    return sources[fusion.sequence]()


def stored_sequences(fusion: FusionSettings) -> Sequences:
    """All sequences of the files that ``fusion.file`` means, whole; raises ``UserError`` as ``sequences_for`` does."""
    if fusion.file is None:
        raise UserError(f"fusion.sequence={fusion.sequence} needs fusion.file: a sequence file, or a folder of them")
    stored: Sequences = {}
    for path in files_of(fusion.file):
        content = read_sequences(path)
        _refuse_other_prompt(path, content, fusion)
        stored.update(content.by_text)
    return stored


def _from_files(texts: Sequence[str], fusion: FusionSettings) -> Sequences:
    stored = stored_sequences(fusion)
    missing = [t for t in texts if t.strip() and t not in stored]
    if missing:
        raise UserError(
            f"{fusion.file} lacks {len(missing)} of {len(texts)} sentences, the first is {missing[0][:80]!r}: "
            "plan them with `neucore-xl prepare sequences`"
        )
    return {t: clip_steps(stored.get(t, FusionSequence(t, ())), fusion.max_steps) for t in texts}


def files_of(path: Path) -> list[Path]:
    """The sequence files that ``path`` means: itself, or those of a folder; raises ``UserError`` for an empty one."""
    if not path.is_dir():
        return [path]  # reading says what is wrong with it
    found = sorted(path.glob("*.jsonl"))
    if not found:
        raise UserError(f"{path} holds no sequence file (*.jsonl)")
    return found


def _refuse_other_prompt(path: Path, content: SequenceFile, fusion: FusionSettings) -> None:
    written = content.settings.get("prompt")
    if fusion.sequence == "llm" and fusion.prompt is not None and written != fusion.prompt:
        raise UserError(
            f"{path} was written with the prompt {written or 'of no name'!r}, but fusion.prompt asks for "
            f"{fusion.prompt!r}: plan the sentences again with that prompt, or change fusion.prompt"
        )
