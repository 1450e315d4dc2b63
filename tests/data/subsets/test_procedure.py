"""The procedure on the paper's own example, and the subsets of the released files."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from neucore_xl.data.subsets.procedure import LOOP, MAX_SHARED, PAIRS, Overlap, Rule, greedy, subset_of

# Supplement D, figure 5: 0.9981 is near-identical, 0.8488 lies within 0.002 of 0.8490.
FIGURE_5 = np.array([1.0, 0.9981, 0.8691, 0.8663, 0.8603, 0.8490, 0.8488, 0.8456, 0.8435])


def test_the_example_of_figure_5():
    assert subset_of(FIGURE_5, 0) == (0, 2, 3, 4, 5, 7)
    assert subset_of(FIGURE_5[:7], 0) is None, "a sixth image cannot be added: the whole set is discarded"
    shuffled = np.random.default_rng(1).permutation(9)
    first = int(np.flatnonzero(shuffled == 0)[0])
    members = subset_of(FIGURE_5[shuffled], first)
    assert members is not None
    assert tuple(int(shuffled[i]) for i in members) == (0, 2, 3, 4, 5, 7)


def test_the_steps_of_figure_5_one_by_one():
    candidates = FIGURE_5[FIGURE_5 < 0.94].tolist()  # (b): I₂ is removed, the others move up
    assert candidates[0] == 0.8691
    assert greedy(candidates[:5]) is None  # (d): 0.8488 was skipped, so four are added
    assert greedy(candidates) == [0, 1, 2, 3, 5]


def test_only_the_next_twenty_are_looked_at():
    tied = np.concatenate([[1.0], np.full(20, 0.9), [0.8, 0.7, 0.6, 0.5, 0.4]])
    assert subset_of(tied, 0) is None
    assert subset_of(tied, 0, Rule(top=24)) == (0, 1, 21, 22, 23, 24)


@pytest.mark.parametrize(("cosine", "taken"), [(0.94, False), (0.9399, True), (-0.3, True)])
def test_the_border_of_near_identity_belongs_to_it(cosine: float, taken: bool):
    others = [0.9, 0.8, 0.7, 0.6, *([] if taken else [0.5])]
    members = subset_of(np.array([1.0, cosine, *others]), 0)
    assert members is not None
    assert (1 in members) == taken


def test_a_step_at_the_border_is_skipped():
    binary = Rule(step=2**-9)  # exact in the arithmetic of a computer
    assert greedy([0.5, 0.5 - 2**-9, 0.4, 0.3, 0.2, 0.1], binary) == [0, 2, 3, 4, 5]
    assert greedy([0.5, 0.5 - 2**-9 - 2**-30, 0.4, 0.3, 0.2], binary) == [0, 1, 2, 3, 4]


def test_steps_are_counted_from_the_last_image_that_was_added():
    """0.0009 apart: every third is more than 0.002 below the last one added, whatever was skipped between."""
    assert greedy([0.9 - 0.0009 * i for i in range(20)]) == [0, 3, 6, 9, 12]


def test_distinct_leaves_out_what_is_near_identical_to_a_member():
    among = np.eye(7)
    among[2, 1] = among[1, 2] = 0.95
    cosines = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3]
    assert greedy(cosines, Rule(distinct=True), among.tolist()) == [0, 1, 3, 4, 5]


def test_nine_pairs_a_loop_and_four_from_the_first_image():
    assert len(set(PAIRS)) == 9
    assert [b for _, b in LOOP] == [a for a, _ in LOOP[1:]] + [0]
    assert [b for a, b in PAIRS if a == 0] == [1, 2, 3, 4]


def test_overlap_is_counted_with_each_subset_apart():
    overlap = Overlap(2)
    overlap.keep((0, 1, 2, 3, 4, 5))
    overlap.keep((10, 11, 12, 13, 14, 15))
    assert not overlap.heavy((0, 1, 10, 11, 20, 21))
    assert overlap.heavy((0, 1, 2, 20, 21, 22))
    assert Overlap(0).heavy((0, 1, 2, 3, 4, 5)) is False


@pytest.mark.parametrize("split", ["val", "test1"])
def test_released_subsets_share_two_images_at_most(shared: Path, split: str):
    rows = json.loads((shared / "cirr" / "captions" / f"cap.rc2.{split}.json").read_text(encoding="utf-8"))
    members = {row["img_set"]["id"]: frozenset(row["img_set"]["members"]) for row in rows}
    assert len(members) == 503
    assert max(len(a & b) for a, b in combinations(members.values(), 2)) == MAX_SHARED
