from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neucore_xl.errors import UserError
from neucore_xl.estimates import Estimate, mean, ratio
from neucore_xl.language.llm.answers import Record, Timing
from neucore_xl.language.sequence import FusionSequence, Operation, Step
from neucore_xl.prepare.scoring import score_records, seconds_per_sentence


def record(text: str, fallback: str | None = None, repairs: dict[str, int] | None = None, tokens: int = 0) -> Record:
    steps = (Step(Operation.KEEP, (), text),) if text.strip() else ()
    return Record(FusionSequence(text, steps), fallback, repairs or {}, prompt_tokens=10, tokens=tokens)


def test_hand_computed() -> None:
    rates = score_records(
        [
            record("a", tokens=10),
            record("b", repairs={"concept": 2, "order": 0}, tokens=20),
            record("c", "json", {"concept": 1}, tokens=30),
            record("d", "time"),
            record("e", "json", tokens=40),
            record("  ", "blank", {"blank": 1}, tokens=999),  # no sentence: not counted anywhere
        ],
        [Timing(3, 6.0), Timing(2, 9.0)],
    )
    assert rates.sentences == 5
    assert rates.validity.value == pytest.approx(2 / 5)
    assert rates.repaired.value == pytest.approx(1 / 5)  # "c" was repaired in vain
    assert {reason: share.value for reason, share in rates.fallback.items()} == {
        "json": pytest.approx(2 / 5),
        "time": pytest.approx(1 / 5),
    }
    assert next(iter(rates.fallback)) == "json"
    assert rates.repairs == {"concept": 3}
    assert rates.tokens.value == pytest.approx(20)
    assert rates.prompt_tokens == Estimate(10.0, (10.0, 10.0))
    assert rates.seconds is not None
    assert rates.seconds.value == pytest.approx(3.0)
    assert rates.seconds.interval == pytest.approx((2.0, 4.5))  # the portions alone: 2 s and 4.5 s a sentence
    assert json.loads(json.dumps(rates.to_json()))["fallback"]["time"]["value"] == pytest.approx(0.2)


def test_without_time_and_without_sentences() -> None:
    assert score_records([record("a")]).seconds is None
    assert seconds_per_sentence([Timing(0, 1.0)]) is None
    assert seconds_per_sentence([Timing(4, 2.0)]) == Estimate(0.5, None)
    with pytest.raises(UserError, match="no record"):
        score_records([record(" ")])


@given(st.lists(st.sampled_from([None, "json", "time", "words"]), min_size=1, max_size=30))
def test_shares_sum_to_one(reasons: list[str | None]) -> None:
    rates = score_records([record(f"s{i}", reason) for i, reason in enumerate(reasons)], resamples=20)
    shares = sum(share.value for share in rates.fallback.values())
    assert rates.validity.value + shares == pytest.approx(1)
    assert rates.fallback_total.value == pytest.approx(shares)
    if (interval := rates.fallback_total.interval) is not None:
        assert 0 <= interval[0] <= interval[1] <= 1


def test_an_interval_narrows_with_more_sentences() -> None:
    def width(n: int) -> float:
        interval = ratio([0, 1] * n, [1] * (2 * n)).interval
        assert interval is not None
        return interval[1] - interval[0]

    assert width(400) == pytest.approx(width(25) / 4, rel=0.3)  # as the root of the number


def test_how_an_estimate_is_printed() -> None:
    assert str(Estimate(0.5, (0.25, 0.75))) == "50.0 % [25.0, 75.0]"
    assert str(Estimate(0.5, None)) == "50.0 %"
    assert Estimate(-0.5, (-1, 0.123)).number() == "-0.50 [-1.00, 0.12]"
    assert Estimate(12.34, None).number(1) == "12.3"
    assert Estimate(1.5, (-1, 4)).signed() == "+1.50 [-1.00, +4.00]"
    assert [Estimate(1.5, i).excludes_zero for i in (None, (-1, 4), (1, 4), (-4, -1))] == [False, False, True, True]
    assert Estimate(1.5, None).to_json()["low"] is None
    assert mean([]) is None
