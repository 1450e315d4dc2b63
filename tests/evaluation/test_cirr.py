"""CIRR's measures: by hand, against the definition written as loops, and at chance level on the released val file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neucore_xl.data.datasets import open_split
from neucore_xl.data.triplets import Gallery, Split, Triplet
from neucore_xl.errors import UserError
from neucore_xl.evaluation.cirr import GLOBAL_K, SUBSET_K, evaluate

NAMES = tuple("abcdefgh")


def split_of(*triplets: Triplet, gallery: tuple[str, ...] = NAMES) -> Split:
    return Split("cirr", "val", Path(), triplets, {"": Gallery(gallery, {})})


def query(id: str = "1", reference: str = "a", target: str | None = "b", **more) -> Triplet:
    more.setdefault("subset", ("a", "b", "c", "d", "e", "f"))
    return Triplet(id, reference, target, "words", **more)


def measure(split: Split, scores: list[list[float]], **options) -> dict[str, float]:
    return dict(evaluate(split, [(0, np.array(scores, dtype=np.float32))], **options).metrics)


def worst_order(images: list[str], score: dict[str, float], value: dict[str, float]) -> list[str]:
    """Best score first; of equal scores, what would count least comes first."""
    order: list[str] = []
    left = list(images)
    while left:
        best = left[0]
        for name in left:
            if (score[name], -value.get(name, 0.0)) > (score[best], -value.get(best, 0.0)):
                best = name
        order.append(best)
        left.remove(best)
    return order


def slow(split: Split, scores: np.ndarray, labels: str) -> dict[str, float]:
    """The measures from their definitions: order the images, look at the first K."""
    names = split.galleries[""].names
    totals: dict[str, float] = {}

    def add(name: str, value: float) -> None:
        totals[name] = totals.get(name, 0.0) + 100 * value / len(split.triplets)

    for t, row in zip(split.triplets, scores, strict=True):
        score = dict(zip(names, row, strict=True))
        hard = {t.target: 1.0} if t.target else {}
        value = hard if labels == "hard" else {n: max(v, 0.0) for n, v in (t.target_soft or hard).items()}
        everything = [n for n in names if n != t.reference]
        inside = [n for n in dict.fromkeys(t.subset) if n != t.reference and n in score]
        for images, suffix, ks in ((everything, "", GLOBAL_K), (inside, "_subset", SUBSET_K)):
            graded, strict = worst_order(images, score, value), worst_order(images, score, hard)
            for k in ks:
                add(f"R{suffix}@{k}", max([value.get(n, 0.0) for n in graded[:k]], default=0.0))
                add(f"mAP{suffix}@{k}", 1 / (strict.index(t.target) + 1) if t.target in strict[:k] else 0.0)
    totals["mean"] = (totals["R@5"] + totals["R_subset@1"]) / 2
    return totals


@st.composite
def evaluations(draw: st.DrawFn) -> tuple[Split, np.ndarray]:
    """Small galleries and few score values, so that ties, repeats and irregular rows are the rule."""
    anything = st.sampled_from((*NAMES, "elsewhere"))
    triplets = [
        Triplet(
            str(i),
            draw(anything),
            draw(st.one_of(st.none(), anything)) if i else draw(anything),
            "words",
            subset=tuple(draw(st.lists(anything, max_size=7))),
            target_soft=draw(st.dictionaries(anything, st.sampled_from([-1.0, 0.2, 0.5, 1.0]), max_size=5)),
        )
        for i in range(draw(st.integers(1, 4)))
    ]
    row = st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=len(NAMES), max_size=len(NAMES))
    return split_of(*triplets), np.array(draw(st.lists(row, min_size=len(triplets), max_size=len(triplets))))


@settings(max_examples=100, deadline=None)
@given(evaluations(), st.sampled_from(["hard", "soft"]), st.integers(1, 4))
def test_agrees_with_the_definition(evaluation, labels, chunk):
    split, scores = evaluation
    chunks = [(i, scores[i : i + chunk]) for i in range(0, len(scores), chunk)]
    result = evaluate(split, chunks, labels=labels)
    assert dict(result.metrics) == pytest.approx(slow(split, scores, labels), abs=1e-9)
    assert result.per_query["mean"].mean() == pytest.approx(result.metrics["mean"], abs=1e-9)


def test_by_hand():
    split = split_of(query("1", "a", "b"), query("2", "c", "d"))
    # 1: a is out; g, h, b lead -> rank 3, in the subset 1.    2: c is out; d behind a, b, e -> rank 4, subset 4.
    found = measure(split, [[9, 5, 1, 1, 1, 1, 7, 6], [7, 6, 9, 4, 5, 1, 1, 1]])
    assert found["R@1"] == 0
    assert found["R@5"] == 100
    assert found["R_subset@1"] == 50
    assert found["R_subset@3"] == 50
    assert found["mAP@5"] == pytest.approx(100 * (1 / 3 + 1 / 4) / 2)
    assert found["mAP_subset@2"] == 50
    assert found["mean"] == 75


def test_the_subset_is_ranked_directly_even_far_down_the_gallery():
    """The published fault: Recall_subset from a top-50 list misses members that stand below it."""
    names = (*"abcdef", *(f"x{i}" for i in range(200)))
    row = [0.0] * 6 + [1.0] * 200
    row[1] = 0.5  # the target: best of its subset, behind 200 others
    found = measure(split_of(query(), gallery=names), [row])
    assert found["R@50"] == 0
    assert found["R_subset@1"] == 100
    assert found["mean"] == 50


def test_ties_never_help():
    found = measure(split_of(query()), [[0.0] * 8])
    assert (found["R@5"], found["R@10"], found["R_subset@3"]) == (0, 100, 0)


def test_soft_labels():
    soft = {"b": 0.5, "c": 1.0, "d": -1.0, "g": 0.5}
    split = split_of(query(target_soft=soft))
    row = [9, 5, 4, 8, 1, 1, 7, 0]  # d, g, b, c
    found = measure(split, [row], labels="soft")
    assert (found["R@1"], found["R@5"]) == (0, 100)
    assert (found["R_subset@1"], found["R_subset@2"], found["R_subset@3"]) == (0, 50, 100)
    assert found["mAP@5"] == pytest.approx(100 / 3)  # mAP keeps the hard label
    assert measure(split, [row], labels="hard")["R@1"] == 0
    # Equally scored images of one value do not stand in each other's way; the reference's own label never counts.
    tied = split_of(query(target_soft={"a": 1.0, "b": 1.0, "c": 1.0}))
    assert measure(tied, [[1.0, 0.5, 0.5, 0, 0, 0, 0, 0]], labels="soft")["R@1"] == 100


def test_irregular_rows_are_counted_and_none_is_dropped():
    split = split_of(
        query("no target", target=None),
        query("same", target="a"),
        query("elsewhere", target="zz"),
        query("outside", target="h"),
        query("no subset", subset=()),
        query("unknown member", subset=("a", "b", "zz", "c")),
        query("foreign reference", reference="h"),
        query("reference unknown", reference="zz"),
    )
    best_b = [0, 9, 1, 2, 3, 4, 5, 6]
    result = evaluate(split, [(0, np.array([best_b] * 8, dtype=np.float32))])
    assert result.n_queries == 8
    assert result.protocol["irregular"] == {
        "no target": 1,
        "target not in the gallery": 1,
        "target is the reference": 1,
        "target not in the subset": 3,
        "subset members not in the gallery": 1,
        "reference not in its subset": 2,
        "reference not in the gallery": 1,
    }
    assert result.metrics["R@1"] == 100 * 4 / 8
    assert result.metrics["R_subset@1"] == 100 * 3 / 8
    assert result.metrics["R@50"] == 100 * 5 / 8


def test_a_split_without_labels_is_refused():
    with pytest.raises(UserError, match="split val of cirr carries no labels"):
        evaluate(split_of(query(target=None)), [(0, np.zeros((1, 8)))])
    with pytest.raises(UserError, match="labels must be hard or soft"):
        evaluate(split_of(query()), [(0, np.zeros((1, 8)))], labels="both")  # type: ignore[arg-type]


def test_random_scores_give_chance_on_the_released_val_file(shared):
    split = open_split("cirr", shared / "cirr", "val")
    n, g = len(split.triplets), len(split.galleries[""])
    assert (n, g) == (4181, 2297)
    rng = np.random.default_rng(0)

    def chunks():
        for start in range(0, n, 512):
            yield start, rng.standard_normal((min(512, n - start), g), dtype=np.float32)

    hard, soft = evaluate(split, chunks()), evaluate(split, chunks(), labels="soft")
    for result in (hard, soft):
        for k in GLOBAL_K:
            chance = k / (g - 1)
            spread = 5 * 100 * np.sqrt(chance * (1 - chance) / n)
            # Soft labels add a little to chance: a tenth of the rows have more than one positive.
            assert abs(result.metrics[f"R@{k}"] - 100 * chance) < spread + (0 if result is hard else 20 * chance)
        for k in SUBSET_K:
            assert result.metrics[f"R_subset@{k}"] == pytest.approx(20 * k, abs=4)
    assert hard.protocol["irregular"] == {}
    # 37 rows omit the hard target from target_soft, 5 list it below 1; 3 list nothing above 0.
    assert soft.protocol["irregular"] == {"no positive soft label": 3, "hard target below 1 in the soft labels": 42}
