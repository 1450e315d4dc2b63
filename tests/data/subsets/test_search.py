"""The search against a slow implementation of its own, and drawing that is killed and goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neucore_xl.data.subsets import search
from neucore_xl.data.subsets.journal import Journal
from neucore_xl.data.subsets.procedure import PAPER, SIZE, Rule, subset_of
from neucore_xl.data.subsets.search import Drawn, draw_subsets, similar_subsets
from neucore_xl.errors import UserError


def slow_subset(vectors: np.ndarray, first: int, rule: Rule) -> list[int] | None:
    """Section 4.1, sentence by sentence, without a matrix product."""

    def cosine(a: int, b: int) -> float:
        return sum(float(x) * float(y) for x, y in zip(vectors[a], vectors[b], strict=True))

    ranked = sorted((i for i in range(len(vectors)) if i != first), key=lambda i: (-cosine(first, i), i))
    members, last = [first], 1.0
    for i in [i for i in ranked if cosine(first, i) < rule.near_identical][: rule.top]:
        here = cosine(first, i)
        apart = not rule.distinct or all(cosine(i, j) < rule.near_identical for j in members[1:])
        if last - here > rule.step and apart:
            members.append(i)
            last = here
        if len(members) == 6:
            return members
    return None


def found(vectors: np.ndarray, rule: Rule, **sizes: int) -> list[list[int] | None]:
    rows = np.concatenate(list(similar_subsets(vectors, np.arange(len(vectors)), rule, **sizes)))
    assert (rows[:, 0] == np.arange(len(vectors))).all()
    return [None if row[1] < 0 else row.tolist() for row in rows]


# Products of multiples of 1/16 are exact in fp32, so that equal cosines are equal in both implementations.
grids = st.integers(1, 30).flatmap(
    lambda n: st.lists(st.tuples(*[st.integers(-9, 9)] * 3), min_size=n, max_size=n).map(
        lambda rows: np.array(rows, np.float32) / 16
    )
)
rules = st.builds(
    Rule,
    near_identical=st.sampled_from([0.25, 0.5, 0.94, 2.0]),
    step=st.sampled_from([-1.0, 0.0, 0.002, 1 / 64]),
    top=st.sampled_from([5, 6, 9, 20]),
    distinct=st.booleans(),
)


@given(grids, rules, st.integers(1, 7), st.integers(1, 40))
def test_the_search_is_the_slow_procedure(vectors: np.ndarray, rule: Rule, block: int, chunk: int):
    expected = [slow_subset(vectors, first, rule) for first in range(len(vectors))]
    assert found(vectors, rule, block=block, chunk=chunk) == expected
    if not rule.distinct:
        cosines = vectors @ vectors.T
        of_one = [subset_of(cosines[first], first, rule) for first in range(len(vectors))]
        assert [None if m is None else list(m) for m in of_one] == expected


def units(count: int, width: int = 24, seed: int = 0) -> np.ndarray:
    """Unit vectors in clusters, with near-identical pairs: what a photographer's folder looks like."""
    draw = np.random.default_rng(seed)
    centres = draw.standard_normal((max(count // 40, 1), width))
    vectors = centres[draw.integers(0, len(centres), count)] + 0.7 * draw.standard_normal((count, width))
    vectors[1::9] = vectors[0::9][: len(vectors[1::9])] + 0.01
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return units(1500)


def test_real_vectors_give_the_rules_of_the_paper(vectors: np.ndarray):
    subsets = [members for members in found(vectors, PAPER) if members is not None]
    assert len(subsets) > 1000
    exact = vectors.astype(np.float64)
    for members in subsets:
        cosine = exact[members] @ exact[members[0]]
        assert (cosine[1:] < 0.94 + 1e-6).all()
        assert (np.diff(cosine) < -0.002 + 1e-6).all()


def test_chunks_and_blocks_change_nothing(vectors: np.ndarray):
    assert found(vectors, PAPER, block=100, chunk=333) == found(vectors, PAPER)


def test_a_read_only_memory_map_is_read_as_it_is(vectors: np.ndarray, tmp_path: Path, recwarn: pytest.WarningsRecorder):
    np.save(tmp_path / "vectors.npy", vectors)
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    assert found(mapped, PAPER) == found(vectors, PAPER)
    assert not [w for w in recwarn if "writable" in str(w.message)]


def test_many_copies_of_one_picture_take_one_place():
    """Thirty copies among the nearest: one is added, and they fill the twenty places, the earliest of them first."""
    first = np.array([1.0, 0, 0], np.float32)
    steps = [np.array([c, np.sqrt(1 - c * c), 0], np.float32) for c in (0.9, 0.8, 0.7, 0.6, 0.5)]
    vectors = np.stack([first, *[steps[0]] * 30, *steps[1:]])
    assert found(vectors, PAPER)[0] is None
    assert found(vectors, Rule(top=34), chunk=7)[0] == [0, 1, 31, 32, 33, 34]


def draw(vectors: np.ndarray, **options: object) -> Drawn:
    firsts = np.random.default_rng(5).permutation(len(vectors))
    return draw_subsets(vectors, firsts, **options)  # type: ignore[arg-type]


def test_drawing_keeps_overlap_low_and_counts_everything(vectors: np.ndarray):
    seen: list[tuple[int, int]] = []
    drawn = draw(vectors, tried=lambda images, kept: seen.append((images, kept)))
    sets = [set(row.tolist()) for row in drawn.members]
    assert all(len(s) == SIZE for s in sets)
    assert max(len(a & b) for i, a in enumerate(sets) for b in sets[:i]) == 2
    assert drawn.tried == len(vectors) == sum(images for images, _ in seen)
    assert drawn.tried == len(sets) + drawn.discarded + drawn.overlapping
    assert sum(kept for _, kept in seen) == len(sets) > 100
    assert drawn.overlapping > 0
    assert len(draw(vectors, max_shared=0).members) < len(sets) < len(draw(vectors, max_shared=6).members)


def test_a_number_of_subsets_ends_the_search_early(vectors: np.ndarray):
    whole, some = draw(vectors), draw(vectors, count=40, block=64)
    assert some.tried < 200
    assert np.array_equal(some.members, whole.members[:40])
    assert draw(vectors, count=0).members.shape == (0, SIZE)


class Killed(Exception):
    pass


@pytest.mark.parametrize("cut", [0, 1, 27])
def test_a_killed_search_goes_on_where_it_was(
    vectors: np.ndarray, tmp_path: Path, cut: int, monkeypatch: pytest.MonkeyPatch
):
    journal = Journal(tmp_path / "deep" / "found")
    calls = 0

    def kill(images: int, kept: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise Killed

    with pytest.raises(Killed):
        draw(vectors, journal=journal, tried=kill, block=200)
    size = journal.path.stat().st_size
    assert size == 600 * 28
    with journal.path.open("ab") as file:
        file.truncate(size - cut)
    computed: list[int] = []
    inner = search.similar_subsets

    def counted(vectors: np.ndarray, firsts: np.ndarray, rule: Rule, **options: Any) -> Iterator[np.ndarray]:
        computed.append(len(firsts))
        return inner(vectors, firsts, rule, **options)

    monkeypatch.setattr(search, "similar_subsets", counted)
    again = draw(vectors, journal=journal)
    assert computed == [1500 - 600 + (cut > 0)]
    whole = draw(vectors)
    assert np.array_equal(again.members, whole.members)
    assert (again.tried, again.discarded, again.overlapping) == (whole.tried, whole.discarded, whole.overlapping)
    computed.clear()
    assert np.array_equal(draw(vectors, journal=journal).members, whole.members)
    assert computed == [0]
    journal.remove()
    assert not journal.path.exists()


@pytest.mark.parametrize("where", [0, 5, 11, 24])
def test_a_damaged_journal_is_found_again_from_the_damage_on(tmp_path: Path, where: int):
    journal, firsts = Journal(tmp_path / "found"), np.array([7, 3, 9])
    journal.read(firsts)
    rows = np.array([[7, 1, 2, 3, 4, 5], [3, -1, -1, -1, -1, -1], [9, 8, 7, 6, 5, 4]], np.int32)
    journal.append(rows[:2])
    journal.append(rows[2:])
    assert np.array_equal(journal.read(firsts), rows)
    content = bytearray(journal.path.read_bytes())
    content[28 + where] ^= 0x40
    journal.path.write_bytes(content)
    assert np.array_equal(journal.read(firsts), rows[:1])
    assert journal.path.stat().st_size == 28
    journal.append(rows[1:])
    assert np.array_equal(journal.read(firsts), rows)
    assert len(journal.read(np.array([7, 9, 3]))) == 1, "another order of first images is another search"


def test_a_journal_in_a_place_that_is_a_file_is_one_sentence(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="keeping what was found is impossible"):
        Journal(tmp_path / "file" / "found").read(np.arange(3))


def test_the_search_leaves_gradients_alone(vectors: np.ndarray):
    assert torch.is_grad_enabled()
    next(similar_subsets(vectors, np.arange(3)))
    assert torch.is_grad_enabled()
