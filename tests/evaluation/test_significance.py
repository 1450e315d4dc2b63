"""Intervals: agreement with the normal approximation, pairing, strata, and the cases with nothing to resample."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neucore_xl.evaluation.significance import bootstrap_interval, holm, paired_bootstrap, paired_p_value


@pytest.fixture
def hits() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    hard = rng.random(1500)  # one difficulty per query, shared by both systems
    noise = rng.normal(0, 0.05, (2, 1500))
    return 100.0 * (hard + noise[0] < 0.55), 100.0 * (hard + noise[1] < 0.50)


@pytest.mark.parametrize("method", ["percentile", "BCa"])
def test_interval_of_a_mean_is_near_the_normal_one(hits, method):
    found = bootstrap_interval(hits[0], method=method)
    error = 1.96 * hits[0].std() / np.sqrt(1500)
    assert found.value == pytest.approx(hits[0].mean())
    assert found.low == pytest.approx(found.value - error, abs=0.3)
    assert found.high == pytest.approx(found.value + error, abs=0.3)


def test_pairing_uses_that_queries_are_the_same(hits):
    a, b = hits
    paired = paired_bootstrap(a, b)
    alone = [bootstrap_interval(x) for x in hits]
    assert paired.value == pytest.approx(a.mean() - b.mean())
    assert paired.excludes_zero
    assert paired.high - paired.low < 0.7 * min(i.high - i.low for i in alone)
    backwards = paired_bootstrap(b, a)
    assert backwards.high == pytest.approx(-paired.low, abs=0.3)


def test_same_seed_same_interval(hits):
    assert paired_bootstrap(*hits, seed=3) == paired_bootstrap(*hits, seed=3)
    assert paired_bootstrap(*hits, seed=3) != paired_bootstrap(*hits, seed=4)


@pytest.mark.parametrize("method", ["percentile", "BCa"])
def test_strata_give_the_mean_of_the_category_means(method):
    rng = np.random.default_rng(0)
    strata = np.array(["dress"] * 900 + ["shirt"] * 100)
    values = np.where(strata == "dress", 10.0, 90.0) + rng.normal(0, 1, 1000)
    found = bootstrap_interval(values, strata=strata, method=method)
    assert found.value == pytest.approx(50, abs=0.2)
    assert found.high - found.low < 0.5  # categories are not resampled; within them the values hardly differ
    assert bootstrap_interval(values).value == pytest.approx(18, abs=0.5)


@pytest.mark.parametrize("method", ["percentile", "BCa"])
def test_nothing_to_resample(method):
    same = np.ones(7)
    found = paired_bootstrap(same, same, method=method)
    assert (found.value, found.low, found.high, found.excludes_zero) == (0, 0, 0, False)
    assert paired_bootstrap(same, np.zeros(7), method=method).low == 1


def test_wrong_values():
    for values in ([], [float("nan"), 1.0], [[1.0]]):
        with pytest.raises(ValueError, match="finite values"):
            bootstrap_interval(values)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the same queries"):
        paired_bootstrap([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="strata"):
        bootstrap_interval([1.0, 2.0], strata=np.array(["a"]))
    with pytest.raises(ValueError, match="method must be one of"):
        bootstrap_interval([1.0, 2.0], method="basic")  # type: ignore[arg-type]


def test_all_flips_of_few_queries_are_counted():
    """Of the 8 sign patterns of (1, 2, 3) two are as far from zero as the one seen: p = 2/8."""
    assert paired_p_value([1.0, 2.0, 3.0], np.zeros(3)) == pytest.approx(2 / 8)
    assert paired_p_value(np.zeros(3), [1.0, 2.0, 3.0]) == pytest.approx(2 / 8)
    assert paired_p_value([1.0, 2.0, 3.0, 5.0], [0.0, 0.0, 0.0, 5.0]) == pytest.approx(2 / 8)  # no difference, no say
    assert paired_p_value(np.ones(4), np.ones(4)) == paired_p_value([1.0, 5.0], [1.0, 0.0]) == 1.0
    assert paired_p_value([3.0], [1.0]) == 1.0


def test_p_values_are_of_the_difference_in_the_mean(hits):
    a, b = hits
    assert paired_p_value(a, b, resamples=999) == pytest.approx(1 / 1000 * 2)  # two-sided, none of them as far
    assert paired_p_value(a, b, resamples=199, seed=1) == paired_p_value(a, b, resamples=199, seed=1)
    shuffled = np.random.default_rng(0).permutation(a)
    assert paired_p_value(shuffled, a, resamples=999) > 0.9  # the same mean


def test_a_category_counts_as_one_whatever_its_size():
    """Ten queries for it in a small category weigh more than twenty against it in a large one."""
    strata = np.array(["dress"] * 100 + ["shirt"] * 10)
    difference = np.concatenate([np.repeat([-1.0, 0.0], [20, 80]), np.ones(10)])
    assert paired_p_value(difference, np.zeros(110), strata=strata, resamples=999) < 0.05
    assert paired_p_value(difference, np.zeros(110), resamples=999) > 0.06


@pytest.mark.parametrize(("a", "b"), [([1.0], [1.0, 2.0]), ([], []), ([np.nan], [1.0]), ([[1.0]], [[1.0]])])
def test_what_cannot_be_tested(a, b):
    with pytest.raises(ValueError, match=r"same queries|finite"):
        paired_p_value(a, b)


def test_holm_as_in_the_textbook():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        holm([1.5])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_rejects_what_the_step_down_procedure_rejects(p_values):
    corrected, m = holm(p_values), len(p_values)
    assert all(p <= c <= min(1.0, m * p) for p, c in zip(p_values, corrected, strict=True))
    for level in (0.01, 0.05, 0.3):  # Holm's own description: step down while p(k) <= level / (m - k + 1)
        rejected = set()
        for k, i in enumerate(sorted(range(m), key=lambda i: p_values[i])):
            if p_values[i] * (m - k) > level:
                break
            rejected.add(i)
        assert rejected == {i for i, c in enumerate(corrected) if c <= level}
