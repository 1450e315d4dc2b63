"""The zero-shot concepts of a split, on annotations written by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from neucore_xl.errors import UserError
from neucore_xl.prepare.concepts import concept_lists


def write(root: Path, split: str, sentences: list[str]) -> None:
    rows = [
        {
            "pairid": i,
            "reference": "a",
            "target_hard": "b",
            "target_soft": {"b": 1.0},
            "caption": text,
            "img_set": {"id": 1, "members": ["a", "b"], "reference_rank": 0, "target_rank": 1},
        }
        for i, text in enumerate(sentences)
    ]
    for folder in ("captions", "image_splits"):
        (root / folder).mkdir(exist_ok=True)
    (root / "captions" / f"cap.rc2.{split}.json").write_text(json.dumps(rows))
    (root / "image_splits" / f"split.rc2.{split}.json").write_text(json.dumps({"a": "./a.png", "b": "./b.png"}))


def test_zero_shot_concepts_are_what_training_never_named(tmp_path: Path) -> None:
    write(tmp_path, "train", ["a brown dog", "a dog on grass"])
    write(tmp_path, "val", ["a brown unicorn", "a dog on grass", "a unicorn and a sphinx", "a brown unicorn"])
    lists = concept_lists(tmp_path)
    assert lists.zero_shot == ("unicorn", "sphinx")
    assert (lists.sentences, lists.touched) == (3, 2)
    assert lists.to_json()["zero_shot"] == ["unicorn", "sphinx"]
    assert set(lists.vocabulary.names) == {"dog", "brown", "grass"}


def test_a_missing_split_is_one_sentence(tmp_path: Path) -> None:
    write(tmp_path, "train", ["a dog"])
    with pytest.raises(UserError, match="val"):
        concept_lists(tmp_path)
