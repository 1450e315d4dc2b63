"""The subsets follow CIRR's procedure and every sentence's statements lead to one member only."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neucore_xl.data.subsets.procedure import MAX_SHARED, PAIRS, PAPER, SIZE
from neucore_xl.errors import UserError
from neucore_xl.shapes.claims import holds
from neucore_xl.shapes.difference import difference
from neucore_xl.shapes.edits import corpus
from neucore_xl.shapes.plan import MINIMUM, Plan, plan_split
from neucore_xl.shapes.scene import Palette
from neucore_xl.shapes.statements import MAX_STATEMENTS
from neucore_xl.shapes.subsets import scene_features, subsets


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_split("test", 300, Palette())


def test_nine_pairs_of_six_members_in_every_subset(plan: Plan) -> None:
    by_subset: dict[int, list] = {}
    for q in plan.queries:
        by_subset.setdefault(q.subset, []).append(q)
    assert sorted(by_subset) == list(range(len(by_subset)))
    assert len(by_subset) >= 300 / 6
    for queries in by_subset.values():
        assert {q.members for q in queries} == {queries[0].members}
        assert len(set(queries[0].members)) == SIZE == 6
        assert tuple((q.reference_rank, q.target_rank) for q in queries) == PAIRS
        assert all(0 <= m < 300 for m in queries[0].members)


def test_exactly_the_wanted_images_and_nearly_all_in_subsets(plan: Plan) -> None:
    assert len(plan.scenes) == 300
    assert len({s.key for s in plan.scenes}) == 300
    assert len({m for q in plan.queries for m in q.members}) >= 300 - SIZE


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**32))
def test_no_other_member_fits_the_statements(seed: int) -> None:
    plan = plan_split(f"{seed}", 40, Palette())
    for q in plan.queries:
        assert 1 <= len(q.statements) <= MAX_STATEMENTS
        fitting = []
        for rank, member in enumerate(q.members):
            d = difference(plan.scenes[q.reference], plan.scenes[member])
            if all(holds(s, d) for s in q.statements):
                fitting.append(rank)
        assert fitting == [q.target_rank]
        assert q.target_rank not in q.near
        assert q.reference_rank not in q.near


def test_subsets_keep_the_rules() -> None:
    features = scene_features(corpus("s", Palette(), 400, set()))
    assert np.allclose(np.linalg.norm(features, axis=1), 1)
    found = list(subsets(features, random.Random(3)))
    assert len(found) > 20
    for members in found:
        cosine = features[list(members)] @ features[members[0]]
        assert (cosine[1:] < PAPER.near_identical).all()
        assert (np.diff(cosine) < -PAPER.step + 1e-8).all()
    for a in range(len(found)):
        for b in range(a):
            assert len(set(found[a]) & set(found[b])) <= MAX_SHARED


def test_a_refused_subset_does_not_count_as_overlap() -> None:
    features = scene_features(corpus("s", Palette(), 60, set()))
    source = subsets(features, random.Random(3))
    seen, members = 0, next(source)
    while members is not None:
        seen += 1
        try:
            members = source.send(False)
        except StopIteration:
            members = None
    assert seen > len(list(subsets(features, random.Random(3))))


def test_a_plan_depends_on_its_seed_alone(plan: Plan) -> None:
    assert plan_split("test", 300, Palette()) == plan
    assert plan_split("other", 300, Palette()).scenes != plan.scenes


def test_all_kinds_of_statements_occur(plan: Plan) -> None:
    kinds = Counter(s.kind for q in plan.queries for s in q.statements)
    assert set(kinds) >= {
        "set", "direct", "size", "move", "exchange", "add", "remove", "replace", "view", "brightness", "zoom",
        "mirror", "keep group", "keep background", "keep rest",
    }  # fmt: skip


def test_too_few_images_are_refused() -> None:
    with pytest.raises(UserError, match="at least 12"):
        plan_split("x", MINIMUM - 1, Palette())
