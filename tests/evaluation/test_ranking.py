"""Ranks and lists from scores, against definitions written as loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neucore_xl.errors import UserError
from neucore_xl.evaluation.metrics import average_precision_at, graded_at, hit_at
from neucore_xl.evaluation.ranking import ABSENT, UNRANKED, checked, columns, rank_of_target, top_k


def slow_rank(scores: list[float], target: int, out: set[int]) -> int:
    """The last place that the target can take when images of equal score are shuffled."""
    if target == ABSENT or target in out:
        return UNRANKED
    place = 1
    for j, score in enumerate(scores):
        if j != target and j not in out and not score < scores[target]:
            place += 1
    return place


@st.composite
def problems(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    q, g = draw(st.integers(1, 6)), draw(st.integers(1, 9))
    few = st.sampled_from([-1.0, 0.0, 0.5, 1.0, float("-inf"), float("inf")])  # few values: many ties
    scores = np.array(draw(st.lists(st.lists(few, min_size=g, max_size=g), min_size=q, max_size=q)))
    column = st.integers(ABSENT, g - 1)
    target = np.array(draw(st.lists(column, min_size=q, max_size=q)))
    out = np.array(draw(st.lists(st.lists(column, min_size=2, max_size=2), min_size=q, max_size=q)))
    return scores, target, out


@given(problems())
def test_rank_is_the_worst_place_among_ties(problem):
    scores, target, out = problem
    expected = [slow_rank(list(s), int(t), set(e) - {ABSENT}) for s, t, e in zip(scores, target, out, strict=True)]
    assert rank_of_target(scores, target, out).tolist() == expected
    mask = np.zeros(scores.shape, dtype=bool)
    for i, row in enumerate(out):
        mask[i, row[row >= 0]] = True
    assert rank_of_target(scores, target, mask).tolist() == expected


@given(problems(), st.integers(1, 12))
def test_top_k_is_a_selection_by_repeated_search(problem, k):
    scores, _, out = problem
    found = top_k(scores, k, out)
    assert found.shape == (len(scores), min(k, scores.shape[1]))
    for row, excluded, got in zip(scores, out, found, strict=True):
        left = [j for j in range(len(row)) if j not in set(excluded)]
        for place in got:
            if not left:
                assert place == ABSENT
                continue
            best = left[0]
            for j in left:
                if row[j] > row[best]:
                    best = j
            assert place == best
            left.remove(best)


def test_a_constant_score_ranks_the_target_last():
    assert rank_of_target(np.zeros((2, 5)), np.array([0, 3])).tolist() == [5, 5]
    assert rank_of_target(np.zeros((2, 5)), np.array([0, 3]), np.array([1, 3])).tolist() == [4, UNRANKED]


def test_inputs_are_left_as_they_were():
    scores = np.arange(6.0).reshape(2, 3)
    rank_of_target(scores, np.array([0, 1]), np.array([2, 2]))
    top_k(scores, 2, np.array([2, 2]))
    assert scores.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_columns_of_names():
    assert columns(["b", None, "z"], ["a", "b"]).tolist() == [1, ABSENT, ABSENT]


def test_chunks_must_cover_every_query_once():
    ids = ["q0", "q1", "q2"]
    rows = [r for r, _ in checked([(0, np.zeros((2, 4))), (2, np.zeros((1, 4)))], ids, 4)]
    assert rows == [slice(0, 2), slice(2, 3)]
    for wrong, message in (
        ([(0, np.zeros((2, 4)))], "end after 2 of 3"),
        ([(0, np.zeros((2, 4))), (1, np.zeros((2, 4)))], "expected query 2"),
        ([(0, np.zeros((4, 4)))], "do not fit"),
        ([(0, np.zeros((3, 5)))], "do not fit"),
    ):
        with pytest.raises(ValueError, match=message):
            list(checked(wrong, ids, 4))


def test_scores_that_are_not_numbers_name_the_query():
    scores = np.zeros((3, 4), dtype=np.float32)
    scores[1, 2] = np.nan
    with pytest.raises(UserError, match=r"1 queries are not numbers \(NaN\), first at query q1"):
        list(checked([(0, scores)], ["q0", "q1", "q2"], 4))


def test_metrics_by_hand():
    ranks = np.array([1, 2, 5, 6, UNRANKED])
    assert hit_at(ranks, 5).tolist() == [100, 100, 100, 0, 0]
    assert average_precision_at(ranks, 5).tolist() == [100, 50, 20, 0, 0]
    labelled = np.array([[1, 3], [4, 2], [UNRANKED, 1]])
    values = np.array([[0.5, 1.0], [1.0, 0.5], [1.0, -1.0]])
    assert graded_at(labelled, values, 1).tolist() == [50, 0, 0]
    assert graded_at(labelled, values, 3).tolist() == [100, 50, 0]
