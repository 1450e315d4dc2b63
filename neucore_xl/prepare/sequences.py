"""Sentences of a dataset → fusion sequences on disk, and the score of a planner against a truth file.

For the command line:

- ``neucore-xl prepare sequences ROOT --planner clauses [--split val ...] [--out FILE] [--force]``
  → ``prepare_sequences(root, planner=, splits=, out=, force=) -> Prepared``; ``print_prepared(result, console)``
- ``neucore-xl prepare sequences --planner clauses --score TRUTH [--json FILE]``
  → ``score_truth(truth, planner=...) -> SequenceScore``; ``print_score(score, console)``; ``score.to_json()``
- ``--score TRUTH --predicted FILE`` scores a sequence file instead of a planner.

``splits=None`` takes every split of which there are captions. Nothing here imports torch. What a language model
plans is prepared by ``llm.py``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from neucore_xl.config.schema import FusionSettings, LanguageSettings
from neucore_xl.data.datasets import Dataset, dataset_names, dataset_of, datasets_in
from neucore_xl.data.switches import Switches
from neucore_xl.errors import UserError
from neucore_xl.language.llm.work import RecordPlanner, timed_records
from neucore_xl.language.planning import build_planner
from neucore_xl.language.sequence import OPERATIONS, FusionSequence, check_sequence
from neucore_xl.language.sequence_file import read_sequences, write_sequences
from neucore_xl.prepare.scoring import SequenceScore, score_sequences

if TYPE_CHECKING:
    from rich.console import Console

DEFAULT_MAX_STEPS: int = FusionSettings().max_steps


@dataclass(frozen=True)
class Prepared:
    """What was written where; ``operations`` counts steps of the distinct sentences."""

    path: Path
    dataset: str
    splits: tuple[str, ...]
    queries: int
    sentences: int
    steps: int
    operations: dict[str, int]


def prepare_sequences(
    root: Path | str,
    *,
    planner: str = "clauses",
    splits: Sequence[str] | None = None,
    out: Path | None = None,
    language: LanguageSettings | None = None,
    max_steps: int = DEFAULT_MAX_STEPS,
    name: str | None = None,
    cache_dir: Path | None = None,
    force: bool = False,
) -> Prepared:
    """Plan every sentence of ``splits`` below ``root`` and write one sequence file.

    Args:
        root: folder of a dataset; ``name`` (as ``data.name``) is guessed from its files when not given.
        planner: a name of ``neucore_xl.language.planning.PLANNERS``.
        out: the file; by default ``ROOT/sequences/PLANNER.jsonl``, or ``PLANNER.SPLIT-….jsonl`` for chosen splits.
        force: overwrite a file of other content.

    Raises ``UserError`` for a folder of no known layout, a missing split and an existing file that differs.
    """
    root = Path(root)
    asked = read_sentences(root, splits, name)
    plan = build_planner(planner, language or LanguageSettings(), max_steps, cache_dir)
    sequences = plan.plan(asked.distinct)
    _refuse_unsound(sequences, planner, max_steps)
    path = out or root / "sequences" / (f"{planner}.{'-'.join(asked.splits)}.jsonl" if splits else f"{planner}.jsonl")
    written = write_sequences(path, sequences, planner=planner, settings=plan.settings, force=force)
    return Prepared(
        path=path,
        dataset=asked.dataset,
        splits=asked.splits,
        queries=asked.queries,
        sentences=written,
        steps=sum(len(s.steps) for s in sequences),
        operations=count_operations(sequences),
    )


@dataclass(frozen=True)
class Sentences:
    """The sentences of some splits: how many queries have them, and the distinct ones that are not blank, in order."""

    dataset: str
    splits: tuple[str, ...]
    queries: int
    distinct: list[str]


def read_sentences(root: Path, splits: Sequence[str] | None = None, name: str | None = None) -> Sentences:
    """What a planner is asked below ``root``; raises ``UserError`` as ``prepare_sequences`` does."""
    dataset, present = _dataset(root, name)
    chosen = tuple(splits) if splits else present
    texts = [text for split in chosen for text in _sentences(dataset, root, split)]
    return Sentences(dataset.name, chosen, len(texts), list(dict.fromkeys(t for t in texts if t.strip())))


def sentences_of(root: Path, split: str) -> list[str]:
    """What a model may read of a split of the annotations below ``root``; ``UserError`` where there are none."""
    return _sentences(_dataset(root, None)[0], root, split)


def score_truth(
    truth_path: Path | str,
    *,
    planner: str = "clauses",
    predicted: Path | str | None = None,
    model: RecordPlanner | None = None,
    language: LanguageSettings | None = None,
    max_steps: int = DEFAULT_MAX_STEPS,
    cache_dir: Path | None = None,
) -> SequenceScore:
    """Score ``planner``, a language ``model`` or the sequence file ``predicted`` on the sentences of a truth file.

    Raises ``UserError`` for a malformed file and a sentence that ``predicted`` lacks.
    """
    truth = {t: s for t, s in read_sequences(Path(truth_path)).by_text.items() if t.strip()}
    if predicted is not None:
        return score_sequences(read_sequences(Path(predicted)).by_text, truth)
    if model is not None:
        records, timings = timed_records(model, list(truth))
        return score_sequences({r.sequence.text: r.sequence for r in records}, truth, records=records, timings=timings)
    sequences = build_planner(planner, language or LanguageSettings(), max_steps, cache_dir).plan(list(truth))
    return score_sequences({s.text: s for s in sequences}, truth)


def count_operations(sequences: Sequence[FusionSequence]) -> dict[str, int]:
    """Steps per operation, all nine in the order of ``OPERATIONS``."""
    counts = Counter(step.operation for s in sequences for step in s.steps)
    return {op.value: counts[op] for op in OPERATIONS}


def print_prepared(result: Prepared, console: Console) -> None:
    """A table of the steps per operation, and where they were written."""
    from rich.table import Table

    table = Table("operation", "steps", "share", title=f"{result.dataset}: {', '.join(result.splits)}")
    for op, n in result.operations.items():
        table.add_row(op, str(n), f"{100 * n / max(result.steps, 1):.1f} %")
    console.print(table)
    console.print(
        f"{result.queries} queries, {result.sentences} distinct sentences, {result.steps} steps "
        f"({result.steps / max(result.sentences, 1):.2f} a sentence) → {result.path}",
        soft_wrap=True,
    )


def print_score(score: SequenceScore, console: Console) -> None:
    """The measures with their intervals, operation accuracy per operation, the commonest confusions."""
    from rich.table import Table

    table = Table("measure", "value [95 %]", title=f"{score.sentences} sentences, {score.true_steps} true steps")
    table.add_row("operation accuracy", str(score.operation_accuracy))
    table.add_row("step F1", str(score.step_f1))
    table.add_row("concept F1", str(score.concept_f1))
    table.add_row("exact match", str(score.exact_match))
    if score.kendall_tau is not None:
        table.add_row("Kendall's tau", score.kendall_tau.number())
    if (rates := score.rates) is not None:
        table.add_row("valid answers", str(rates.validity))
        table.add_row("repaired answers", str(rates.repaired))
        for reason, share in rates.fallback.items():
            table.add_row(f"fallback: {reason}", str(share))
        table.add_row("tokens a sentence", rates.tokens.number(1))
        if rates.seconds is not None:
            table.add_row("seconds a sentence", rates.seconds.number(3))
    console.print(table)
    detail = Table("operation", "right", "of", "share")
    for op, (right, total) in score.by_operation.items():
        detail.add_row(op, str(right), str(total), f"{100 * right / total:.1f} %")
    console.print(detail)
    worst = [f"{pair.replace('>', ' taken for ') if pair[-1] != '>' else pair[:-1] + ' missed'} ({n})"
             for pair, n in list(score.confusion.items())[:5]]  # fmt: skip
    if worst:
        console.print("Commonest confusions: " + "; ".join(worst), soft_wrap=True)


def _dataset(root: Path, name: str | None) -> tuple[Dataset, tuple[str, ...]]:
    """The dataset called ``name``, else the first whose format the folder has; and its splits, train and val first."""
    if not root.is_dir():
        raise UserError(f"The folder {root} does not exist; give the folder that holds captions/.")
    found = [dataset_of(name)] if name is not None else datasets_in(root)[:1]
    present = found[0].splits(root) if found else ()
    if not present:
        titles = " or ".join(dataset_of(known).title for known in dataset_names())
        raise UserError(f"{root / 'captions'} holds no captions of {name or titles}; see docs/data.md.")
    order = {"train": 0, "val": 1}
    return found[0], tuple(sorted(present, key=lambda split: (order.get(split, 2), split)))


def _sentences(dataset: Dataset, root: Path, split: str) -> list[str]:
    """What a model may read of a split: every way of joining captions included."""
    if dataset.sentences is not None:
        return dataset.sentences(root, split)
    return [t.text for t in dataset.open(root, split, Switches(empty_text="keep")).triplets]


def _refuse_unsound(sequences: Sequence[FusionSequence], planner: str, max_steps: int) -> None:
    for sequence in sequences:
        problems = check_sequence(sequence, max_steps=max_steps)
        if problems:
            raise UserError(f"planner {planner} gave an unsound sequence for {sequence.text[:60]!r}: {problems[0]}")
