from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neucore_xl.errors import UserError
from neucore_xl.language.vocabulary import Vocabulary

SENTENCES = [("dog", "red", "dog"), ("red", "cat"), ("red",), ()]


def test_order_is_count_then_name() -> None:
    vocabulary = Vocabulary.build(SENTENCES)
    assert vocabulary.names == ("red", "cat", "dog")
    assert vocabulary.counts == (3, 1, 1)  # a sentence counts once
    assert Vocabulary.build(SENTENCES, min_count=2).names == ("red",)
    assert len(Vocabulary.build(SENTENCES, min_count=9)) == 0


def test_labels_and_unseen() -> None:
    vocabulary = Vocabulary.build(SENTENCES)
    labels = vocabulary.labels([("dog", "red", "bird"), (), ("cat",)])
    assert labels.dtype == np.float32
    assert labels.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    assert Vocabulary(()).labels([("dog",)]).shape == (1, 0)
    assert vocabulary.unseen([("dog", "bird"), ("owl", "bird")]) == ("bird", "owl")
    assert "dog" in vocabulary
    assert "bird" not in vocabulary


@given(st.lists(st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=6), max_size=6), max_size=12))
def test_json_round_trip_and_labels_name_what_they_came_from(concepts: list[list[str]]) -> None:
    vocabulary = Vocabulary.build(concepts)
    again = Vocabulary.from_json(json.loads(json.dumps(vocabulary.to_json())))
    assert again == vocabulary
    assert again.fingerprint() == vocabulary.fingerprint()
    assert vocabulary.unseen(concepts) == ()
    for row, names in zip(vocabulary.labels(concepts), concepts, strict=True):
        assert {vocabulary.names[i] for i in np.flatnonzero(row)} == set(names)


def test_fingerprint_knows_the_order() -> None:
    assert Vocabulary(("a", "b")).fingerprint() != Vocabulary(("b", "a")).fingerprint()
    assert Vocabulary(("ab",)).fingerprint() != Vocabulary(("a", "b")).fingerprint()


def test_file_and_damage(tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.json"
    vocabulary = Vocabulary.build(SENTENCES)
    path.write_text(json.dumps(vocabulary.to_json()))
    assert Vocabulary.load(path) == vocabulary
    assert [p.name for p in tmp_path.iterdir()] == ["vocabulary.json"]
    with pytest.raises(UserError, match="does not exist; take the file that the run wrote"):
        Vocabulary.load(tmp_path / "none")
    path.write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        Vocabulary.load(path)
    altered = vocabulary.to_json() | {"names": ["red", "cat", "cow"]}
    with pytest.raises(UserError, match="was altered"):
        Vocabulary.from_json(altered)
    with pytest.raises(UserError, match="not a vocabulary"):
        Vocabulary.from_json([])
    with pytest.raises(UserError, match="is damaged"):
        Vocabulary.from_json(vocabulary.to_json() | {"counts": [1]})
    for counts in ("12", {"red": 1}, [True] * len(vocabulary), [-1] * len(vocabulary), [1.5] * len(vocabulary)):
        with pytest.raises(UserError, match="`counts` must be a list of whole numbers"):
            Vocabulary.from_json(vocabulary.to_json() | {"counts": counts})
    with pytest.raises(UserError, match="`names` must be a list of texts"):
        Vocabulary.from_json(vocabulary.to_json() | {"names": [1, 2]})
    with pytest.raises(ValueError, match="every concept once"):
        Vocabulary(("a", "a"))
