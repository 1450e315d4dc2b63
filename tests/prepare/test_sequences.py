"""Sequence files of a dataset, and the score of a planner (neucore_xl.prepare.sequences)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from neucore_xl import terminal
from neucore_xl.errors import UserError
from neucore_xl.language.sequence_file import read_sequences
from neucore_xl.prepare.sequences import prepare_sequences, print_prepared, print_score, score_truth


def cirr(root: Path, split: str, captions: list[str]) -> None:
    for folder in ("captions", "image_splits"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    names = [f"{split}-{i}-0-img0" for i in range(6)]
    (root / "image_splits" / f"split.rc2.{split}.json").write_text(json.dumps({n: f"./{split}/{n}.png" for n in names}))
    rows = [
        {
            "pairid": i,
            "reference": names[0],
            "target_hard": names[1],
            "target_soft": {names[1]: 1.0},
            "caption": caption,
            "img_set": {"id": 0, "members": names, "reference_rank": 0, "target_rank": 1},
        }
        for i, caption in enumerate(captions)
    ]
    (root / "captions" / f"cap.rc2.{split}.json").write_text(json.dumps(rows))


def fashion_iq(root: Path) -> None:
    for folder in ("captions", "image_splits"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "image_splits" / "split.dress.val.json").write_text('["A", "B"]')
    (root / "captions" / "cap.dress.val.json").write_text(
        json.dumps([{"candidate": "A", "target": "B", "captions": ["is red", "has no sleeves"]}])
    )


def test_cirr(tmp_path: Path) -> None:
    cirr(tmp_path, "train", ["add a dog", "add a dog", "no cat and bigger"])
    cirr(tmp_path, "val", ["zoom in"])
    result = prepare_sequences(tmp_path)
    assert result.path == tmp_path / "sequences" / "clauses.jsonl"
    assert (result.dataset, result.splits) == ("cirr", ("train", "val"))
    assert (result.queries, result.sentences, result.steps) == (4, 3, 4)
    assert result.operations["negation"] == result.operations["viewpoint"] == 1
    stored = read_sequences(result.path)
    assert stored.planner == "clauses"
    assert set(stored.by_text) == {"add a dog", "no cat and bigger", "zoom in"}
    one = prepare_sequences(tmp_path, splits=["val"])
    assert one.path.name == "clauses.val.jsonl"
    assert one.sentences == 1
    console = terminal.console(record=True, width=120)
    print_prepared(result, console)
    assert "3 distinct sentences" in console.export_text()


def test_fashion_iq_plans_every_way_of_joining(tmp_path: Path) -> None:
    fashion_iq(tmp_path)
    result = prepare_sequences(tmp_path, out=tmp_path / "plans.jsonl")
    assert set(read_sequences(result.path).by_text) == {
        "is red and has no sleeves",
        "has no sleeves and is red",
        "is red",
        "has no sleeves",
    }


def test_an_existing_file_is_kept(tmp_path: Path) -> None:
    cirr(tmp_path, "val", ["zoom in"])
    path = prepare_sequences(tmp_path).path
    before = path.read_bytes()
    prepare_sequences(tmp_path)  # the same again: nothing to do
    with pytest.raises(UserError, match="exists and differs"):
        prepare_sequences(tmp_path, max_steps=3)
    assert path.read_bytes() == before
    prepare_sequences(tmp_path, max_steps=3, force=True)
    assert read_sequences(path).settings["max_steps"] == 3


def test_wrong_calls(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        prepare_sequences(tmp_path / "none")
    with pytest.raises(UserError, match="no captions of CIRR or Fashion-IQ"):
        prepare_sequences(tmp_path)
    cirr(tmp_path, "val", ["zoom in"])
    with pytest.raises(UserError, match="test1"):
        prepare_sequences(tmp_path, splits=["test1"])
    with pytest.raises(UserError, match="unknown planner"):
        prepare_sequences(tmp_path, planner="magic")


def test_score_of_a_planner_and_of_a_file(tmp_path: Path) -> None:
    cirr(tmp_path, "val", ["zoom in and add a dog", "is red"])
    truth = prepare_sequences(tmp_path).path
    assert score_truth(truth).exact_match.value == 1.0
    clipped = prepare_sequences(tmp_path, max_steps=1, out=tmp_path / "clipped.jsonl").path
    score = score_truth(truth, predicted=clipped)
    assert score.operation_accuracy.value == pytest.approx(1 / 3)  # the merged step is aligned with "add a dog"
    assert score.exact_match.value == 0.5
    console = terminal.console(record=True, width=120)
    print_score(score, console)
    printed = console.export_text()
    assert "operation accuracy" in printed
    assert "33.3 %" in printed
