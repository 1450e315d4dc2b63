"""What a planner needed: how often its model's answers were accepted, and tokens and seconds per sentence.

Definitions, over the records of distinct sentences that are not blank:

- ``validity``: sentences whose model answer was accepted, with or without repairs.
- ``repaired``: sentences whose answer was accepted after at least one repair.
- ``fallback``: sentences for which the clause planner stood in, by reason; validity and all of them sum to one.
- ``repairs``: number of repairs by reason, of accepted and rejected answers alike.
- ``tokens``, ``prompt_tokens``: generated and read tokens per sentence, rejected answers included.
- ``seconds``: wall-clock seconds per sentence. Time is measured over portions of sentences (a batch), so its
  interval is the bootstrap over portions; one portion has none.

Every other interval is the 95 % percentile bootstrap over sentences.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from neucore_xl.errors import UserError
from neucore_xl.language.estimates import Estimate, ratio
from neucore_xl.language.llm.answers import Record


@dataclass(frozen=True)
class Timing:
    """Wall-clock time that one portion of sentences took."""

    sentences: int
    seconds: float


@dataclass(frozen=True)
class Rates:
    """The measures of this module; ``seconds`` is None where no time was taken."""

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
