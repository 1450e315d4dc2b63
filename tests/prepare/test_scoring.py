from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neucore_xl.errors import UserError
from neucore_xl.language.llm.answers import Record, Timing
from neucore_xl.language.sequence import OPERATIONS, FusionSequence, Operation, Step
from neucore_xl.prepare.scoring import order_tau, score_sequences

A, N, K = Operation.ADDITION, Operation.NEGATION, Operation.KEEP


def make(text: str, *steps: tuple[Operation, str, tuple[str, ...]]) -> FusionSequence:
    return FusionSequence(text, tuple(Step(op, concepts, phrase) for op, phrase, concepts in steps))


def by_text(*sequences: FusionSequence) -> dict[str, FusionSequence]:
    return {s.text: s for s in sequences}


def test_hand_computed() -> None:
    text = "add a dog and remove the cat"
    truth = by_text(make(text, (A, "add a dog", ("add", "dog")), (N, "remove the cat", ("remove", "cat"))))
    one = by_text(make(text, (A, text, ("add", "dog", "cat"))))  # aligned with one of them: IoU 3/7 < 0.5
    score = score_sequences(one, truth)
    assert (score.sentences, score.true_steps, score.predicted_steps) == (1, 2, 1)
    assert score.operation_accuracy.value == 0.5
    assert score.operation_accuracy.interval is None
    assert score.step_f1.value == 0.0
    assert score.concept_f1.value == pytest.approx(2 * 2 / (4 + 3))
    assert score.exact_match.value == 0.0
    assert score.by_operation == {"addition": (1, 1), "negation": (0, 1)}
    assert score.confusion == {"negation>": 1}


def test_a_wrong_operation_costs_accuracy_but_not_boundaries() -> None:
    text = "no dog, the same cat"
    truth = by_text(make(text, (N, "no dog", ("dog",)), (K, "the same cat", ("same", "cat"))))
    guess = by_text(make(text, (N, "no dog", ("dog",)), (A, "same cat", ("cat",))))
    score = score_sequences(guess, truth)
    assert score.operation_accuracy.value == 0.5
    assert score.step_f1.value == 1.0
    assert score.concept_f1.value == pytest.approx(2 * 2 / (3 + 2))
    assert score.exact_match.value == 0.0
    assert score.confusion == {"keep>addition": 1}


def test_alignment_is_by_words_not_by_place() -> None:
    text = "no dog, the same cat"
    steps = ((N, "no dog", ()), (K, "the same cat", ()))
    score = score_sequences(by_text(make(text, *steps[::-1])), by_text(make(text, *steps)))
    assert score.operation_accuracy.value == 1.0
    assert score.step_f1.value == 1.0
    assert score.exact_match.value == 0.0  # the order is part of a sequence


def test_missing_and_empty() -> None:
    with pytest.raises(UserError, match="1 sentences of the truth have no sequence, the first is 'b'"):
        score_sequences(by_text(make("a")), by_text(make("a", (A, "a", ())), make("b", (A, "b", ()))))
    with pytest.raises(UserError, match="holds no step"):
        score_sequences(by_text(make("a")), by_text(make("a")))


@given(st.lists(st.lists(st.tuples(st.sampled_from(OPERATIONS), st.sampled_from("abc")), min_size=1, max_size=4),
                min_size=1, max_size=6), st.integers(0, 99))  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_bounds_and_perfection(rows: list[list[tuple[Operation, str]]], seed: int) -> None:
    truth, other = {}, {}
    for i, row in enumerate(rows):
        text = f"s{i} " + " ".join(w + str(k) for k, (_, w) in enumerate(row))
        steps = [(op, w + str(k), (w,)) for k, (op, w) in enumerate(row)]
        truth[text] = make(text, *steps)
        other[text] = make(text, *[(OPERATIONS[seed % 9], p, c) for _, p, c in steps[: 1 + seed % 4]])
    perfect = score_sequences(truth, truth, resamples=50)
    for estimate in (perfect.operation_accuracy, perfect.step_f1, perfect.concept_f1, perfect.exact_match):
        assert estimate.value == 1.0
    score = score_sequences(other, truth, resamples=50)
    assert 0 <= score.operation_accuracy.value <= 1
    if score.operation_accuracy.interval:
        low, high = score.operation_accuracy.interval
        assert 0 <= low <= high <= 1
    assert score_sequences(other, truth, resamples=50).to_json() == score.to_json()  # seeded


def ordered(order: Sequence[int], operation: Operation = A) -> FusionSequence:
    """One sentence of numbered words, its steps in the given order."""
    text = " ".join(f"w{k}" for k in range(len(order)))
    return make(text, *[(operation, f"w{k}", (f"c{k}",)) for k in order])


orders = st.integers(2, 7).flatmap(lambda n: st.permutations(range(n)))


@given(orders)
def test_tau_of_an_order_and_of_its_reverse(order: list[int]) -> None:
    same = score_sequences(by_text(ordered(order)), by_text(ordered(order)), resamples=10)
    assert same.kendall_tau is not None
    assert same.kendall_tau.value == pytest.approx(1)
    turned = score_sequences(by_text(ordered(order[::-1])), by_text(ordered(order)), resamples=10)
    assert turned.kendall_tau is not None
    assert turned.kendall_tau.value == pytest.approx(-1)


@given(orders, orders)
def test_tau_counts_inversions_whatever_the_operations(truth: list[int], guess: list[int]) -> None:
    if len(truth) != len(guess):
        guess = list(reversed(truth))
    n = len(truth)
    place = {k: i for i, k in enumerate(guess)}
    inverted = sum(place[truth[i]] > place[truth[j]] for i in range(n) for j in range(i + 1, n))
    score = score_sequences(by_text(ordered(guess, N)), by_text(ordered(truth)), resamples=10)
    assert score.kendall_tau is not None
    assert score.kendall_tau.value == pytest.approx(1 - 4 * inverted / (n * (n - 1)))
    back = score_sequences(by_text(ordered(truth)), by_text(ordered(guess)), resamples=10)
    assert back.kendall_tau is not None
    assert back.kendall_tau.value == pytest.approx(score.kendall_tau.value)
    assert order_tau([10 * place[k] + 3 for k in truth]) == pytest.approx(score.kendall_tau.value)


def test_tau_looks_only_at_aligned_steps_and_weighs_sentences_equally() -> None:
    long = make("a b c d", (A, "a", ()), (A, "b", ()), (A, "c", ()))
    turned = make("a b c d", (A, "c", ()), (N, "d", ()), (A, "b", ()), (A, "a", ()))  # "d" is nobody's
    short = make("e f", (A, "e", ()), (A, "f", ()))
    lone = make("g h", (A, "g", ()), (A, "h", ()))
    guesses = by_text(turned, short, make("g h", (A, "g h", ())))
    score = score_sequences(guesses, by_text(long, short, lone), resamples=200)
    assert score.ordered_sentences == 2
    assert score.kendall_tau is not None
    assert score.kendall_tau.value == 0.0  # the mean of -1 and 1
    assert score.kendall_tau.interval == (-1.0, 1.0)


def test_no_tau_without_two_aligned_steps() -> None:
    one = by_text(make("a b", (A, "a", ())))
    score = score_sequences(one, one)
    assert score.kendall_tau is None
    assert order_tau([4]) is None
    assert score.to_json()["kendall_tau"] is None


def test_rates_come_with_records() -> None:
    sequence = make("a b", (A, "a", ()))
    score = score_sequences(
        by_text(sequence), by_text(sequence), records=[Record(sequence, tokens=7)], timings=[Timing(1, 2.5)]
    )
    assert score.rates is not None
    assert score.rates.tokens.value == 7
    assert score.rates.seconds is not None
    assert score.rates.seconds.value == 2.5
    validity = score.to_json()["rates"]["validity"]
    assert (validity["value"], validity["interval"], validity["confidence"]) == (1.0, None, 0.95)
    assert json.dumps(score.to_json())
