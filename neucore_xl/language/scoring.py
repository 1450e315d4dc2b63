"""How well a planner's sequences agree with the truth: operations, step boundaries, concepts, whole sequences.

Definitions (all in [0, 1], pooled over sentences, so that a long sentence weighs more than a short one):

- A phrase stands for the words of the sentence it covers (its first contiguous occurrence after the phrase before
  it; else its words in order). Two steps overlap by the intersection over union (IoU) of their words.
- Steps of a sentence are aligned one to one by the assignment of largest total IoU
  (``scipy.optimize.linear_sum_assignment``); pairs without a common word are not aligned.
- ``operation_accuracy``: true steps whose aligned step has the same operation, over all true steps. A true step
  without an aligned one counts as wrong.
- ``step_f1``: a step is found when the IoU of an aligned pair is at least 0.5; F1 of precision (found over
  predicted steps) and recall (found over true steps), whatever the operation.
- ``concept_f1``: F1 of concepts within aligned pairs; concepts of unaligned steps count as spurious or missed.
- ``exact_match``: sentences with as many steps as the truth, each in its place with IoU ≥ 0.5 and its operation.
- Every interval is the 95 % percentile bootstrap over sentences (``scipy.stats.bootstrap``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neucore_xl.errors import UserError
from neucore_xl.language.sequence import FusionSequence, word_spans, words

FOUND_IOU = 0.5


@dataclass(frozen=True)
class Estimate:
    """A share in [0, 1] and its 95 % interval; the interval is None where it cannot be computed (one sentence)."""

    value: float
    interval: tuple[float, float] | None

    def __str__(self) -> str:
        if self.interval is None:
            return f"{100 * self.value:.1f} %"
        return f"{100 * self.value:.1f} % [{100 * self.interval[0]:.1f}, {100 * self.interval[1]:.1f}]"


@dataclass(frozen=True)
class SequenceScore:
    """The four measures of this module with their counts; ``confusion`` maps "truth>predicted" to aligned pairs."""

    sentences: int
    true_steps: int
    predicted_steps: int
    operation_accuracy: Estimate
    step_f1: Estimate
    concept_f1: Estimate
    exact_match: Estimate
    by_operation: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # truth -> (right, all)
    confusion: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """A JSON object; shares as fractions with full precision."""
        return asdict(self)


def score_sequences(
    predicted: Mapping[str, FusionSequence],
    truth: Mapping[str, FusionSequence],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> SequenceScore:
    """Compare ``predicted`` with ``truth``, both by sentence; sentences outside the truth are not looked at.

    Raises ``UserError`` when a sentence of the truth was not predicted or the truth holds no step.
    """
    missing = [text for text in truth if text not in predicted]
    if missing:
        raise UserError(f"{len(missing)} sentences of the truth have no sequence, the first is {missing[0][:80]!r}")
    rows = [_compare(predicted[text], true) for text, true in truth.items()]
    if not any(row.true_steps for row in rows):
        raise UserError("the truth holds no step: there is nothing to score")

    def column(name: str) -> NDArray[np.float64]:
        return np.array([getattr(row, name) for row in rows], dtype=np.float64)

    def estimate(above: NDArray[np.float64], below: NDArray[np.float64]) -> Estimate:
        return _ratio(above, below, resamples, seed)

    right: Counter[str] = Counter()
    total: Counter[str] = Counter()
    confusion: Counter[str] = Counter()
    for row in rows:
        for true, guess in row.pairs:
            total[true] += 1
            right[true] += true == guess
            confusion[f"{true}>{guess}"] += true != guess
    return SequenceScore(
        sentences=len(rows),
        true_steps=int(column("true_steps").sum()),
        predicted_steps=int(column("predicted_steps").sum()),
        operation_accuracy=estimate(column("right"), column("true_steps")),
        step_f1=estimate(2 * column("found"), column("true_steps") + column("predicted_steps")),
        concept_f1=estimate(2 * column("common"), column("true_concepts") + column("predicted_concepts")),
        exact_match=estimate(column("exact"), np.ones(len(rows))),
        by_operation={op: (right[op], n) for op, n in total.most_common()},
        confusion={pair: n for pair, n in confusion.most_common() if n},
    )


@dataclass(frozen=True)
class _Row:
    """Counts of one sentence; ``pairs``: the operation of every true step and of its aligned step ("" for none)."""

    true_steps: int
    predicted_steps: int
    right: int
    found: int
    true_concepts: int
    predicted_concepts: int
    common: int
    exact: bool
    pairs: tuple[tuple[str, str], ...]


def _compare(predicted: FusionSequence, truth: FusionSequence) -> _Row:
    from scipy.optimize import linear_sum_assignment

    spans_p, spans_t = _step_words(predicted, truth.text), _step_words(truth, truth.text)
    iou = np.array([[_iou(t, p) for p in spans_p] for t in spans_t]).reshape(len(spans_t), len(spans_p))
    aligned = {int(t): int(p) for t, p in zip(*linear_sum_assignment(-iou), strict=True) if iou[t, p] > 0}
    pairs = []
    common = 0
    for t, step in enumerate(truth.steps):
        other = predicted.steps[aligned[t]] if t in aligned else None
        pairs.append((step.operation.value, other.operation.value if other else ""))
        common += len(set(step.concepts) & set(other.concepts)) if other else 0
    found = sum(iou[t, p] >= FOUND_IOU for t, p in aligned.items())
    right = sum(true == guess for true, guess in pairs)
    same_shape = len(truth.steps) == len(predicted.steps) == found and all(t == p for t, p in aligned.items())
    return _Row(
        true_steps=len(truth.steps),
        predicted_steps=len(predicted.steps),
        right=right,
        found=int(found),
        true_concepts=sum(len(set(s.concepts)) for s in truth.steps),
        predicted_concepts=sum(len(set(s.concepts)) for s in predicted.steps),
        common=common,
        exact=same_shape and right == len(truth.steps),
        pairs=tuple(pairs),
    )


def _step_words(sequence: FusionSequence, text: str) -> list[frozenset[int]]:
    """Per step, the indices of the words of ``text`` that its phrase covers."""
    return [frozenset(span) for span in word_spans([words(s.phrase) for s in sequence.steps], words(text))]


def _iou(a: frozenset[int], b: frozenset[int]) -> float:
    return len(a & b) / len(a | b) if a | b else 0.0


def _ratio(above: NDArray[np.float64], below: NDArray[np.float64], resamples: int, seed: int) -> Estimate:
    """Ratio of sums with its percentile bootstrap over the entries; 1 where there is nothing to find at all."""
    from scipy.stats import bootstrap

    if below.sum() == 0:
        return Estimate(1.0, None)
    value = float(above.sum() / below.sum())
    if len(above) < 2:
        return Estimate(value, None)

    def statistic(a: NDArray[np.float64], b: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
        total = b.sum(axis=axis)
        return a.sum(axis=axis) / np.where(total == 0, 1, total)

    result = bootstrap(
        (above, below),
        statistic,
        paired=True,
        vectorized=True,
        n_resamples=resamples,
        batch=100,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return Estimate(value, (float(result.confidence_interval.low), float(result.confidence_interval.high)))
