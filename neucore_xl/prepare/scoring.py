"""How well a planner's sequences agree with the truth, and what its language model needed for them.

Agreement (``SequenceScore``): in [0, 1] unless told otherwise, pooled over sentences, so that a long sentence weighs
more than a short one.

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
- ``kendall_tau``: order of the steps, in [-1, 1]. Per sentence with at least two aligned pairs, tau-b of the
  places that the aligned steps have in the truth and in the prediction (``scipy.stats.kendalltau``): 1 for the same
  order, -1 for the reverse. Averaged over these sentences, each with the same weight; None where there is none.

What a language model needed (``Rates``), over the records of distinct sentences that are not blank:

- ``validity``: sentences whose model answer was accepted, with or without repairs.
- ``repaired``: sentences whose answer was accepted after at least one repair.
- ``fallback``: sentences for which the clause planner stood in, by reason; validity and all of them sum to one.
- ``repairs``: number of repairs by reason, of accepted and rejected answers alike.
- ``tokens``, ``prompt_tokens``: generated and read tokens per sentence, rejected answers included.
- ``seconds``: wall-clock seconds per sentence. Time is measured over portions of sentences (a batch), so its
  interval is the bootstrap over portions; one portion has none.

Every other interval is the 95 % percentile bootstrap over sentences (``scipy.stats.bootstrap``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neucore_xl.errors import UserError
from neucore_xl.estimates import Estimate, mean, ratio
from neucore_xl.language.llm.answers import Record, Timing
from neucore_xl.language.sequence import FusionSequence, word_spans, words

FOUND_IOU = 0.5


@dataclass(frozen=True)
class Rates:
    """Acceptance, repairs, tokens and seconds of a planner's answers; ``seconds`` is None where no time was taken."""

    sentences: int
    validity: Estimate
    repaired: Estimate
    tokens: Estimate
    prompt_tokens: Estimate
    seconds: Estimate | None = None
    fallback: Mapping[str, Estimate] = field(default_factory=dict)  # reason -> share, commonest first
    repairs: Mapping[str, int] = field(default_factory=dict)  # reason -> repairs, commonest first

    @property
    def fallback_total(self) -> Estimate:
        """Share of sentences that the clause planner wrote, whatever the reason."""
        interval = self.validity.interval
        return Estimate(1 - self.validity.value, interval and (1 - interval[1], 1 - interval[0]))

    def to_json(self) -> dict[str, Any]:
        """A JSON object; shares as fractions with full precision."""
        return asdict(self)


@dataclass(frozen=True)
class SequenceScore:
    """The measures of agreement with their counts; ``confusion`` maps "truth>predicted" to aligned pairs.

    ``rates`` are those of the planner's records, where it has any.
    """

    sentences: int
    true_steps: int
    predicted_steps: int
    operation_accuracy: Estimate
    step_f1: Estimate
    concept_f1: Estimate
    exact_match: Estimate
    by_operation: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # truth -> (right, all)
    confusion: Mapping[str, int] = field(default_factory=dict)
    kendall_tau: Estimate | None = None
    ordered_sentences: int = 0  # with at least two aligned pairs
    rates: Rates | None = None

    def to_json(self) -> dict[str, Any]:
        """A JSON object; shares as fractions with full precision."""
        return asdict(self)


def score_sequences(
    predicted: Mapping[str, FusionSequence],
    truth: Mapping[str, FusionSequence],
    *,
    records: Sequence[Record] | None = None,
    timings: Sequence[Timing] = (),
    resamples: int = 2000,
    seed: int = 0,
) -> SequenceScore:
    """Compare ``predicted`` with ``truth``, both by sentence; sentences outside the truth are not looked at.

    ``records`` of a language model, of the same sentences, and ``timings`` of its work give ``rates`` as well.
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
        return ratio(above, below, resamples=resamples, seed=seed)

    right: Counter[str] = Counter()
    total: Counter[str] = Counter()
    confusion: Counter[str] = Counter()
    for row in rows:
        for true, guess in row.pairs:
            total[true] += 1
            right[true] += true == guess
            confusion[f"{true}>{guess}"] += true != guess
    taus = [row.tau for row in rows if row.tau is not None]
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
        kendall_tau=mean(taus, resamples=resamples, seed=seed),
        ordered_sentences=len(taus),
        rates=None if records is None else score_records(records, timings, resamples=resamples, seed=seed),
    )


def order_tau(places: Sequence[int]) -> float | None:
    """Kendall's tau-b of predicted ``places``, listed in the true order; None for fewer than two."""
    if len(places) < 2:
        return None
    from scipy.stats import kendalltau

    return float(kendalltau(range(len(places)), places).statistic)


def score_records(
    records: Sequence[Record], timings: Sequence[Timing] = (), *, resamples: int = 2000, seed: int = 0
) -> Rates:
    """The rates of ``records``, one per distinct sentence; blank sentences are left out, a model never reads them.

    Raises ``UserError`` when no record is left.
    """
    kept = [r for r in records if r.sequence.text.strip()]
    if not kept:
        raise UserError("no record of a sentence that is not blank: there is no rate to compute")

    def average(values: Sequence[float]) -> Estimate:
        return ratio(values, [1.0] * len(values), resamples=resamples, seed=seed)

    reasons = Counter(r.fallback for r in kept if r.fallback is not None)
    repairs: Counter[str] = Counter()
    for record in kept:
        repairs.update(record.repairs)
    return Rates(
        sentences=len(kept),
        validity=average([r.fallback is None for r in kept]),
        repaired=average([r.fallback is None and any(r.repairs.values()) for r in kept]),
        tokens=average([r.tokens for r in kept]),
        prompt_tokens=average([r.prompt_tokens for r in kept]),
        seconds=seconds_per_sentence(timings, resamples=resamples, seed=seed),
        fallback={reason: average([r.fallback == reason for r in kept]) for reason, _ in reasons.most_common()},
        repairs={reason: n for reason, n in repairs.most_common() if n},
    )


def seconds_per_sentence(timings: Sequence[Timing], *, resamples: int = 2000, seed: int = 0) -> Estimate | None:
    """Total seconds over total sentences, with the bootstrap over portions; None where nothing was timed."""
    if not sum(t.sentences for t in timings):
        return None
    return ratio([t.seconds for t in timings], [t.sentences for t in timings], resamples=resamples, seed=seed)


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
    tau: float | None
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
        tau=order_tau([aligned[t] for t in sorted(aligned)]),
        pairs=tuple(pairs),
    )


def _step_words(sequence: FusionSequence, text: str) -> list[frozenset[int]]:
    """Per step, the indices of the words of ``text`` that its phrase covers."""
    return [frozenset(span) for span in word_spans([words(s.phrase) for s in sequence.steps], words(text))]


def _iou(a: frozenset[int], b: frozenset[int]) -> float:
    return len(a & b) / len(a | b) if a | b else 0.0
