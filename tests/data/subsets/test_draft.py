"""Subsets in CIRR's files: read back by the reader, looked at by the doctor, never over anything else."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from neucore_xl.data.cirr import read_split
from neucore_xl.data.doctor.examine import examine
from neucore_xl.data.subsets.draft import RECORD, Chosen, check_free, write_draft
from neucore_xl.data.subsets.procedure import PAIRS
from neucore_xl.errors import UserError


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    for i in range(20):
        path = folder / ("ä b" if i % 2 else "c") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (i, 2 * i, 3 * i)).save(path)
    return folder


def named(numbers: list[int]) -> list[str]:
    return [f"{'ä b' if i % 2 else 'c'}/{i}.png" for i in numbers]


@pytest.fixture
def splits() -> dict[str, Chosen]:
    # the second subset of train has the first image and the second in one pair with the first subset
    train = np.array([[2, 0, 1, 4, 3, 5], [2, 0, 6, 7, 8, 9]])
    return {
        "train": Chosen(named([*range(10)]), train),
        "val": Chosen(named([*range(19, 11, -1)]), np.array([[0, 1, 2, 3, 4, 5]])),
    }


def fill(root: Path, split: str) -> None:
    path = root / "captions" / f"cap.rc2.{split}.json"
    rows = json.loads(path.read_text(encoding="utf-8"))
    for row in rows:
        row["caption"] = f"make it number {row['pairid']}"
    path.write_text(json.dumps(rows), encoding="utf-8")


def test_what_is_written_is_read_as_cirr(tmp_path: Path, images: Path, splits: dict[str, Chosen]):
    out = tmp_path / "deep" / "out"
    write_draft(out, images, splits, {"made": "here"})
    assert sorted(p.name for p in out.parent.iterdir()) == ["out"]
    assert json.loads((out / RECORD).read_text(encoding="utf-8")) == {"made": "here"}
    with pytest.raises(UserError, match="the caption is empty; write one"):
        read_split(out, "train")
    train, val = (read_split(out, split, empty_text="keep") for split in ("train", "val"))
    assert [t.id for t in train.triplets + val.triplets] == [str(i) for i in range(9 + 8 + 9)]
    assert train.galleries[""].names == tuple(named([*range(10)]))
    assert val.galleries[""].names == tuple(named([19, 18, 17, 16, 15, 14]))
    assert all(train.image_path(name).is_file() for name in train.galleries[""].names)
    members = named([2, 0, 1, 4, 3, 5])
    assert [(t.reference, t.target) for t in train.triplets[:9]] == [(members[a], members[b]) for a, b in PAIRS]
    assert {t.subset for t in train.triplets[:9]} == {tuple(members)}
    assert all(t.target and t.target_soft == {t.target: 1.0} for t in train.triplets)


def test_a_pair_of_two_subsets_is_drawn_once_and_ids_go_on(tmp_path: Path, images: Path, splits: dict[str, Chosen]):
    write_draft(tmp_path / "out", images, splits, {})
    rows = json.loads((tmp_path / "out" / "captions" / "cap.rc2.train.json").read_text(encoding="utf-8"))
    assert len({(row["reference"], row["target_hard"]) for row in rows}) == len(rows) == 17
    second = [row["img_set"] for row in rows if row["img_set"]["id"] == 1]
    assert [(s["reference_rank"], s["target_rank"]) for s in second] == [p for p in PAIRS if p != (0, 1)]
    val = json.loads((tmp_path / "out" / "captions" / "cap.rc2.val.json").read_text(encoding="utf-8"))
    assert {row["img_set"]["id"] for row in val} == {2}


def test_the_doctor_asks_for_the_captions_and_for_nothing_else(tmp_path: Path, images: Path, splits: dict[str, Chosen]):
    out = tmp_path / "out"
    write_draft(out, images, splits, {})
    report = examine("cirr", out)
    assert not report.trainable
    assert set(report.irregular) == {"text-empty", "query-repeated"}  # rows without words ask the same
    assert len(report.irregular["text-empty"]) == 26
    assert report.findings.clashes == []
    assert len(report.findings.problems) == 2
    fill(out, "train")
    fill(out, "val")
    report = examine("cirr", out)
    assert report.trainable
    assert report.irregular == {}
    assert report.pictures is not None
    assert report.pictures.checked == 16


def test_a_line_a_row(tmp_path: Path, images: Path, splits: dict[str, Chosen]):
    write_draft(tmp_path / "out", images, splits, {})
    text = (tmp_path / "out" / "captions" / "cap.rc2.val.json").read_text(encoding="utf-8")
    assert len(text.splitlines()) == 9 + 2
    assert "ä b/19.png" in text


def test_nothing_is_left_of_a_draft_that_failed(tmp_path: Path, images: Path, splits: dict[str, Chosen]):
    splits["val"] = Chosen(["only one"], np.array([[0, 1, 2, 3, 4, 5]]))
    with pytest.raises(IndexError):
        write_draft(tmp_path / "out", images, splits, {})
    assert [p.name for p in tmp_path.iterdir()] == ["pictures"]


def test_an_output_folder_that_is_taken_is_refused(tmp_path: Path, images: Path, splits: dict[str, Chosen]):
    out = tmp_path / "out"
    check_free(out, images)
    out.mkdir()
    check_free(out, images)
    write_draft(out, images, splits, {})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    (tmp_path / "lost").symlink_to("nowhere")
    for taken, why in (
        (out, "holds subsets already, perhaps with captions"),
        (tmp_path / "other", "holds something else"),
        (tmp_path / "other" / "thesis.tex", "is a file"),
        (tmp_path / "lost", "is a file"),
        (images / "out", "lies within the image folder"),
        (images, "holds something else"),
    ):
        with pytest.raises(UserError, match=why):
            check_free(taken, images)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match="lies within the image folder"):
        check_free(empty, empty)


def test_a_place_that_refuses_writing_is_refused_before_the_work(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)  # root may write anywhere
    with pytest.raises(UserError, match=f"no permission to make .*out in {tmp_path}: choose"):
        check_free(tmp_path / "deep" / "out", images)
