"""The order of the data: permutations, purity, and resuming by the step number alone."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neucore_xl.errors import UserError
from neucore_xl.training.stream import BatchOrder, StepSampler


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 60), st.integers(1, 12), st.integers(0, 5), st.integers(0, 3))
def test_an_epoch_is_a_permutation_less_its_rest(count: int, size: int, seed: int, epoch: int) -> None:
    if count < size:
        with pytest.raises(UserError):
            BatchOrder(count, size, seed)
        return
    order = BatchOrder(count, size, seed)
    assert order.per_epoch == count // size
    first = epoch * order.per_epoch
    drawn = [i for m in range(first, first + order.per_epoch) for i in order.indices(m)]
    assert len(drawn) == len(set(drawn)) == count // size * size
    assert set(drawn) <= set(range(count))


def test_epochs_and_seeds_differ() -> None:
    order = BatchOrder(40, 40, seed=0)
    assert order.indices(0) != order.indices(1)
    assert order.indices(0) != BatchOrder(40, 40, seed=1).indices(0)
    assert sorted(order.indices(0)) == list(range(40))


@settings(max_examples=30, deadline=None)
@given(st.integers(8, 40), st.integers(1, 8), st.integers(0, 30), st.integers(0, 30))
def test_resuming_equals_an_unbroken_run(count: int, size: int, start: int, more: int) -> None:
    whole = list(StepSampler(BatchOrder(count, size, 7), 0, start + more))
    resumed = list(StepSampler(BatchOrder(count, size, 7), start, start + more))
    assert whole[start:] == resumed
    assert len(StepSampler(BatchOrder(count, size, 7), start, start + more)) == more


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(["dress", "shirt", "toptee"]), min_size=6, max_size=60), st.integers(1, 3))
def test_batches_of_one_category(groups: list[str], size: int) -> None:
    if max(groups.count(g) for g in groups) < size:
        return
    order = BatchOrder(len(groups), size, 3, groups)
    assert order.per_epoch == sum(groups.count(g) // size for g in set(groups))
    drawn: list[int] = []
    for m in range(order.per_epoch):
        batch = order.indices(m)
        assert len({groups[i] for i in batch}) == 1
        drawn += batch
    assert len(drawn) == len(set(drawn))


def test_categories_are_mixed_within_an_epoch() -> None:
    groups = ["dress"] * 40 + ["shirt"] * 40
    order = BatchOrder(80, 4, 0, groups)
    kinds = [groups[order.indices(m)[0]] for m in range(order.per_epoch)]
    assert kinds != sorted(kinds)


def test_too_few_triplets_name_the_setting() -> None:
    with pytest.raises(UserError, match=r"3 training triplets .* train\.batch_size"):
        BatchOrder(3, 4, 0)
    with pytest.raises(UserError, match="of one category"):
        BatchOrder(4, 3, 0, ["dress", "dress", "shirt", "shirt"])
