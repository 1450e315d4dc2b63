"""The registry of protocols: each dataset's own, none for an unknown one, and the ready-made recall."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from neucore_xl.data.datasets import dataset_names
from neucore_xl.data.switches import Switches
from neucore_xl.data.triplets import Gallery, Split, Triplet
from neucore_xl.errors import UserError
from neucore_xl.evaluation import cirr, fashion_iq, protocols
from neucore_xl.training.validate import check_labels

NAMES = ("a", "b", "c", "d")


def split_of(dataset: str, *triplets: Triplet) -> Split:
    keys = dict.fromkeys(t.category or "" for t in triplets)
    return Split(dataset, "val", Path(), triplets, {key: Gallery(NAMES, {}) for key in keys})


def test_every_dataset_has_a_protocol() -> None:
    for name in dataset_names():
        assert callable(protocols.protocol_of(name))


def test_each_dataset_is_scored_by_its_own_measures() -> None:
    scores = np.array([[9.0, 5, 7, 6]])
    one = split_of("cirr", Triplet("1", "a", "c", "x", subset=NAMES))
    found = protocols.evaluate(one, {"": [(0, scores)]}, Switches())
    assert found.metrics == cirr.evaluate(one, [(0, scores)], labels="hard").metrics
    assert found.metrics["R_subset@1"] == 100.0
    both = split_of("fashion-iq", *(Triplet(f"dress-val-0-{x}", "a", "c", "x", category="dress") for x in "ab"))
    chunks = {"dress": [(0, np.repeat(scores, 2, axis=0))]}
    found = protocols.evaluate(both, chunks, Switches(captions="both"))
    assert found.protocol == fashion_iq.evaluate(both, chunks, captions="both").protocol
    assert found.protocol["captions"] == "both"


def test_a_dataset_without_a_protocol_is_refused_and_not_scored_by_another_ones() -> None:
    for refused in (
        lambda split: protocols.evaluate(split, {"": []}, Switches()),
        check_labels,  # before any training
    ):
        with pytest.raises(UserError, match=r"No protocol scores dataset 'fashioniq'; did you mean fashion-iq\?"):
            refused(split_of("fashioniq", Triplet("1", "a", "c", "x")))


def test_a_name_keeps_its_protocol() -> None:
    with pytest.raises(UserError, match="'cirr' has a protocol already"):
        protocols.register("cirr", protocols.recall_at(1))
    protocols.register("cirr", protocols.protocol_of("cirr"))  # the same again changes nothing


def test_recall_over_galleries_with_and_without_the_reference() -> None:
    split = split_of(
        "own",
        Triplet("1", "a", "c", "x", category="p"),
        Triplet("2", "b", "a", "x", category="q"),
        Triplet("3", "b", None, "x", category="q"),  # nothing to be found: a miss
    )
    scores = {"p": [(0, np.array([[9.0, 5, 7, 6]]))], "q": [(0, np.array([[1.0, 9, 2, 3], [1, 2, 3, 4]]))]}
    found = protocols.recall_at(1, 3)(split, scores, Switches())
    assert found.ids == ("1", "2", "3")
    assert found.per_query["rank"].tolist()[:2] == [1, 3]
    assert found.metrics["R@1"] == pytest.approx(100 / 3)
    assert found.metrics["R@3"] == pytest.approx(200 / 3)
    assert found.score == pytest.approx(50.0)
    assert found.per_query["mean"].tolist() == [100.0, 50.0, 0.0]
    kept = protocols.recall_at(1, 3, reference="keep")(split, scores, Switches())
    assert kept.per_query["rank"].tolist()[:2] == [2, 4]
    assert kept.protocol["mean"] == "(R@1 + R@3) / 2"
