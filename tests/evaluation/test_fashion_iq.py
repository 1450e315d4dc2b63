"""Fashion-IQ's switches, by hand, against loops, and at chance level on the released sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neucore_xl.data.datasets import open_split
from neucore_xl.data.triplets import Gallery, Split, Triplet
from neucore_xl.errors import UserError
from neucore_xl.evaluation.fashion_iq import DEFAULT_LINES, Line, base_id, evaluate, evaluate_lines


def query(id: str, reference: str, target: str | None, category: str = "dress", text: str = "words") -> Triplet:
    return Triplet(id, reference, target, text, category=category)


def split_of(triplets: list[Triplet], **galleries: list[str]) -> Split:
    return Split("fashion-iq", "val", Path(), tuple(triplets), {c: Gallery(tuple(n), {}) for c, n in galleries.items()})


def names(n: int) -> list[str]:
    return [f"i{k}" for k in range(n)]


def descending(n: int) -> np.ndarray:
    return -np.arange(n, dtype=np.float32)


def test_reference_and_gallery_switches_by_hand():
    # 60 images in the order of their scores. The reference is the best; the target is 11th.
    split = split_of([query("dress-val-0", "i0", "i10"), query("dress-val-1", "i0", "i59")], dress=names(60))
    scores = np.stack([descending(60)] * 2)

    def run(**switches):
        return evaluate(split, {"dress": [(0, scores)]}, **switches)

    assert run().per_query["rank"].tolist() == [11, 60]
    assert run(reference="drop").per_query["rank"].tolist() == [10, 59]
    # Gallery val: i0, i10 and i59 alone.
    assert run(gallery="val").per_query["rank"].tolist() == [2, 3]
    assert run(gallery="val", reference="drop").per_query["rank"].tolist() == [1, 2]
    kept, dropped = run(), run(reference="drop")
    assert (kept.metrics["R@10"], kept.metrics["R@50"], kept.metrics["mean"]) == (0, 50, 25)
    assert (dropped.metrics["R@10"], dropped.metrics["R@50"], dropped.metrics["mean"]) == (50, 50, 50)
    assert run(gallery="val").protocol["gallery_sizes"] == {"dress": 3}
    assert kept.protocol["gallery_sizes"] == {"dress": 60}


def test_macro_and_micro_average():
    triplets = [query(f"dress-val-{i}", "i0", "i1") for i in range(3)] + [query("shirt-val-0", "i0", "i99", "shirt")]
    split = split_of(triplets, dress=names(100), shirt=names(100))
    chunks = {"dress": [(0, np.stack([descending(100)] * 3))], "shirt": [(0, descending(100)[None])]}
    macro, micro = evaluate(split, chunks), evaluate(split, chunks, average="micro")
    assert (macro.metrics["R@10"], micro.metrics["R@10"]) == (50, 75)
    assert macro.metrics["dress/R@10"] == micro.metrics["dress/R@10"] == 100
    assert macro.metrics["shirt/mean"] == 0
    assert macro.strata is not None
    assert macro.strata.tolist() == ["dress"] * 3 + ["shirt"]
    assert micro.strata is None


def test_both_captions_are_two_queries_and_mean_is_one():
    triplets = [
        query("dress-val-0-a", "i9", "i0"),
        query("dress-val-0-b", "i9", "i0"),
        query("dress-val-1-a", "i9", "i0"),
        query("dress-val-1-b", "i9", "i0", text=" "),  # says nothing: left out of the mean
    ]
    split = split_of(triplets, dress=names(20))
    up = -descending(20)
    scores = np.stack([descending(20), 3 * up, descending(20), 9 * up])
    both = evaluate(split, {"dress": [(0, scores)]}, captions="both")
    assert both.n_queries == 4
    assert both.per_query["rank"].tolist() == [1, 20, 1, 20]
    for chunk in (1, 2, 3, 4):  # a row's two queries may fall into two chunks
        mean = evaluate(split, {"dress": [(i, scores[i : i + chunk]) for i in range(0, 4, chunk)]}, captions="mean")
        assert mean.ids == ("dress-val-0", "dress-val-1")
        assert mean.per_query["rank"].tolist() == [20, 1]


def test_reading_and_switch_must_agree():
    one, two = query("dress-val-0", "i0", "i1"), query("dress-val-0-a", "i0", "i1")
    chunks = {"dress": [(0, np.zeros((1, 3)))]}
    with pytest.raises(UserError, match="captions mean needs a split opened with captions=both"):
        evaluate(split_of([one], dress=names(3)), chunks, captions="mean")
    with pytest.raises(UserError, match="captions 12 needs a split opened with captions=12"):
        evaluate(split_of([two], dress=names(3)), chunks)
    with pytest.raises(UserError, match="'all' is not a Fashion-IQ switch here: choose original, val"):
        Line(gallery="all")  # type: ignore[arg-type]
    assert base_id("dress-val-17") == "dress-val-17"
    assert base_id("dress-val-17-b") == "dress-val-17"


def test_irregular_rows_count_as_misses():
    triplets = [
        query("dress-val-0", "i0", None),
        query("dress-val-1", "i1", "i1"),
        query("dress-val-2", "i0", "elsewhere"),
        query("dress-val-3", "elsewhere", "i1"),
    ]
    split = split_of(triplets, dress=names(3))
    result = evaluate(split, {"dress": [(0, np.eye(4, 3))]}, reference="drop")
    assert result.metrics["R@50"] == 25
    assert result.protocol["irregular"] == {
        "no target": 1,
        "target not in the gallery": 1,
        "target is the reference": 1,
        "reference not in the gallery": 1,
    }
    # Kept in the ranking, a target that is the reference can be found.
    assert evaluate(split, {"dress": [(0, np.eye(4, 3))]}).metrics["R@50"] == 50


def test_a_split_without_labels_is_refused():
    with pytest.raises(UserError, match="carries no labels"):
        evaluate(split_of([query("dress-test-0", "i0", None)], dress=names(3)), {"dress": [(0, np.zeros((1, 3)))]})


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_agrees_with_the_definition(data):
    g, n = data.draw(st.integers(2, 70)), data.draw(st.integers(1, 5))
    image = st.sampled_from(names(g))
    triplets = [query(f"dress-val-{i}", data.draw(image), data.draw(image)) for i in range(n)]
    seed = data.draw(st.integers(0, 2**32 - 1))
    scores = np.random.default_rng(seed).integers(0, 12, (n, g)).astype(np.float32)  # few values: many ties
    line = Line(
        gallery=data.draw(st.sampled_from(["original", "val"])), reference=data.draw(st.sampled_from(["keep", "drop"]))
    )
    result = evaluate_lines(split_of(triplets, dress=names(g)), {"dress": [(0, scores)]}, [line])[0]
    occurring = {x for t in triplets for x in (t.reference, t.target)}
    for k in (10, 50):
        hits = 0
        for t, row in zip(triplets, scores, strict=True):
            ranked = [x for x in names(g) if line.gallery == "original" or x in occurring]
            ranked = [x for x in ranked if line.reference == "keep" or x != t.reference]
            score = dict(zip(names(g), row, strict=True))
            ahead = sum(1 for x in ranked if x != t.target and score[x] >= score[t.target])
            hits += t.target in ranked and ahead < k
        assert result.metrics[f"R@{k}"] == pytest.approx(100 * hits / n)


def test_random_scores_give_chance_on_the_released_sizes(shared):
    split = open_split("fashion-iq", shared / "fashion-iq", "val")
    rng = np.random.default_rng(0)

    def chunks(category):
        n = sum(t.category == category for t in split.triplets)
        for start in range(0, n, 256):
            yield start, rng.standard_normal((min(256, n - start), len(split.galleries[category])), dtype=np.float32)

    original, val = evaluate_lines(split, {c: chunks(c) for c in split.galleries}, DEFAULT_LINES)
    assert original.n_queries == val.n_queries == 2017 + 2038 + 1961
    assert original.protocol["gallery_sizes"] == {"dress": 3817, "shirt": 6346, "toptee": 5373}
    assert val.protocol["gallery_sizes"] == {"dress": 2628, "shirt": 3089, "toptee": 2902}
    for result, taken in ((original, 0), (val, 1)):
        sizes = result.protocol["gallery_sizes"]
        for k in (10, 50):
            chance = np.mean([k / (g - taken) for g in sizes.values()])
            assert result.metrics[f"R@{k}"] == pytest.approx(100 * chance, abs=500 * np.sqrt(chance / 6016))
