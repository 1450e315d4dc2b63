"""The doctor on healthy and on spoiled folders; its verdict agrees with what the readers accept."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from neucore_xl import terminal
from neucore_xl.data.datasets import open_split
from neucore_xl.data.doctor.examine import examine
from neucore_xl.data.doctor.pictures import check_pictures
from neucore_xl.data.doctor.printed import print_report
from neucore_xl.data.doctor.report import DoctorReport
from neucore_xl.errors import UserError

Edit = Callable[[Path, Callable[[Any], Any]], None]
CAP = "captions/cap.rc2.{}.json"
FIQ = "captions/cap.dress.{}.json"


def _printed(report: DoctorReport) -> str:
    stream = StringIO()
    print_report(report, terminal.console(file=stream, width=200))
    json.dumps(report.to_json())  # everything in it can be stored
    return stream.getvalue()


def test_healthy_folders_are_trainable(cirr_root: Path, fashion_root: Path) -> None:
    for name, root, pictures in (("cirr", cirr_root, 18), ("fashion-iq", fashion_root, 27)):
        report = examine(name, root)
        assert report.trainable
        assert report.findings.problems == []
        assert report.pictures is not None
        assert (report.pictures.checked, report.pictures.missing) == (pictures, ())
        assert "A training can start from this folder." in _printed(report)
    assert set(examine("cirr", cirr_root).irregular) == set()
    assert set(examine("fashion-iq", fashion_root).irregular) == {"caption-outer-space"}


def test_a_wrong_call_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean fashion-iq"):
        examine("fashioniq", tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        examine("cirr", tmp_path / "no")


def test_an_empty_folder_and_the_other_format(tmp_path: Path, cirr_root: Path, fashion_root: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name, problems in (("cirr", 4), ("fashion-iq", 12)):
        report = examine(name, tmp_path / "empty")
        assert not report.trainable
        assert len(report.findings.problems) == problems
        assert "captions/" in _printed(report)
    assert "format of fashion-iq" in _printed(examine("cirr", fashion_root))
    assert "format of cirr" in _printed(examine("fashion-iq", cirr_root))


SPOILED_CIRR: list[tuple[str, Callable[[Any], Any], str]] = [
    (CAP.format("train"), lambda rows: rows.__setitem__(0, 5), "row-malformed"),
    (CAP.format("train"), lambda rows: rows[0].pop("img_set"), "row-malformed"),
    (CAP.format("val"), lambda rows: rows[0].update(target_soft={"x": None}), "row-malformed"),
    (CAP.format("val"), lambda rows: rows[0].update(caption=""), "text-empty"),
    (CAP.format("train"), lambda rows: rows[0].update(pairid=rows[1]["pairid"]), "id-repeated"),
    (CAP.format("train"), lambda rows: rows[0].update(reference="x"), "reference-not-listed"),
    (CAP.format("train"), lambda rows: rows[0].update(target_hard="x"), "target-not-listed"),
    (CAP.format("train"), lambda rows: rows[0]["img_set"]["members"].append("x"), "member-not-listed"),
    ("captions_ext/cap.ext.rc2.train.json", lambda rows: rows[0].pop("pairid"), "aux-row-malformed"),
]


@pytest.mark.parametrize(("file", "change", "kind"), SPOILED_CIRR)
def test_what_the_cirr_reader_refuses_the_doctor_calls_fatal(
    cirr_root: Path, edit: Edit, file: str, change: Callable[[Any], Any], kind: str
) -> None:
    edit(cirr_root / file, change)
    with pytest.raises(UserError):
        open_split("cirr", cirr_root, file.split(".")[-2])
    report = examine("cirr", cirr_root, images=False)
    assert not report.trainable
    assert kind in report.irregular
    assert any(kind in problem for problem in report.findings.problems)
    assert kind in _printed(report)


SPOILED_FASHION: list[tuple[str, Callable[[Any], Any], str]] = [
    (FIQ.format("train"), lambda rows: rows.__setitem__(0, 5), "row-malformed"),
    (FIQ.format("train"), lambda rows: rows[0].update(captions=[None, "is red"]), "row-malformed"),
    (FIQ.format("val"), lambda rows: rows[0].update(captions=["", " ."]), "text-empty"),
    (FIQ.format("val"), lambda rows: rows[0].update(candidate="x"), "reference-not-listed"),
    (FIQ.format("val"), lambda rows: rows[0].update(target="x"), "target-not-listed"),
]


@pytest.mark.parametrize(("file", "change", "kind"), SPOILED_FASHION)
def test_what_the_fashion_reader_refuses_the_doctor_calls_fatal(
    fashion_root: Path, edit: Edit, file: str, change: Callable[[Any], Any], kind: str
) -> None:
    edit(fashion_root / file, change)
    with pytest.raises(UserError):
        open_split("fashion-iq", fashion_root, file.split(".")[-2])
    report = examine("fashion-iq", fashion_root, images=False)
    assert not report.trainable
    assert [i.id for i in report.irregular[kind]] == [f"dress-{file.split('.')[-2]}-0"]


def test_harmless_irregularities_leave_it_trainable(cirr_root: Path, edit: Edit) -> None:
    edit(cirr_root / CAP.format("test1"), lambda rows: rows[0].update(caption=" "))
    edit(cirr_root / CAP.format("val"), lambda rows: rows[0].update(target_soft={}))
    (cirr_root / "captions_ext/cap.ext.rc2.val.json").unlink()
    report = examine("cirr", cirr_root)
    assert report.trainable
    assert set(report.irregular) == {"text-empty-unlabelled", "soft-missing"}
    assert report.irregular["soft-missing"][0].id == "10"
    assert "missing (not needed to train)" in _printed(report)


@pytest.mark.parametrize("split", ["train", "val"])
def test_missing_malformed_and_unlabelled_files_stop_a_training(cirr_root: Path, edit: Edit, split: str) -> None:
    path = cirr_root / CAP.format(split)
    edit(path, lambda rows: rows[4].pop("target_hard"))
    assert "target-missing" in examine("cirr", cirr_root, images=False).irregular
    path.write_text('[\n{"pairid" 1}]', encoding="utf-8")
    report = examine("cirr", cirr_root, images=False)
    assert not report.trainable
    assert any(f"{path}, line 2" in problem for problem in report.findings.problems)
    path.write_text("[]", encoding="utf-8")
    assert f"captions/{path.name} holds no rows." in examine("cirr", cirr_root, images=False).findings.problems
    path.unlink()
    assert f"captions/{path.name} is missing." in examine("cirr", cirr_root, images=False).findings.problems


def test_a_damaged_test_split_is_noted_only(cirr_root: Path) -> None:
    (cirr_root / "captions/cap.rc2.test1.json").write_text("[", encoding="utf-8")
    report = examine("cirr", cirr_root, images=False)
    assert report.trainable
    assert any("cap.rc2.test1.json, line 1" in note for note in report.findings.notes)


def test_one_category_is_enough(fashion_root: Path) -> None:
    for path in fashion_root.glob("*/*.shirt.*.json"):
        path.unlink()
    report = examine("fashion-iq", fashion_root)
    assert report.trainable
    assert report.findings.notes == ["No files of shirt: train with data.categories=[dress,toptee]."]
    (fashion_root / "captions/cap.toptee.val.json").unlink()
    assert examine("fashion-iq", fashion_root).findings.problems == ["captions/cap.toptee.val.json is missing."]


@pytest.mark.parametrize("rank", ["0", True, [0], 6, 1.5])
def test_odd_ranks_are_reported(cirr_root: Path, edit: Edit, rank: object) -> None:
    edit(cirr_root / CAP.format("val"), lambda rows: rows[0]["img_set"].update(reference_rank=rank))
    report = examine("cirr", cirr_root, images=False)
    assert report.trainable
    assert [i.id for i in report.irregular["rank-out-of-range"]] == ["10"]
    assert len(open_split("cirr", cirr_root, "val").triplets) == 9


def test_missing_and_damaged_pictures(cirr_root: Path) -> None:
    (cirr_root / "img_raw/train/train-0-2-img0.png").unlink()
    (cirr_root / "img_raw/val/dev-1-3-img0.png").write_bytes(b"")
    (cirr_root / "img_raw/test1/test1-2-0-img0.png").unlink()
    report = examine("cirr", cirr_root)
    assert report.pictures is not None
    assert report.pictures.missing == ("train-0-2-img0", "test1-2-0-img0")
    assert list(report.pictures.unreadable) == ["dev-1-3-img0"]
    missing, damaged = report.findings.problems
    assert missing == "Images that train or val needs are missing: 1, the first is train-0-2-img0."
    assert "dev-1-3-img0.png has zero bytes" in damaged
    assert examine("cirr", cirr_root, images=False).trainable


def test_pictures_that_no_training_opens_may_be_missing(fashion_root: Path) -> None:
    (fashion_root / "images/B0002.png").unlink()  # listed in dress/train, in no row
    (fashion_root / "images/B0020.jpg").unlink()  # dress/test
    assert examine("fashion-iq", fashion_root).trainable
    (fashion_root / "images/B0012.png").unlink()  # in no row of dress/val, but in its gallery
    assert not examine("fashion-iq", fashion_root).trainable


def test_name_clashes(cirr_root: Path, fashion_root: Path, edit: Edit) -> None:
    path = cirr_root / "image_splits/split.rc2.val.json"
    edit(path, lambda names: names.update({"DEV-1-0-img0": "./val/dev-1-0-img0.png"}))
    path.write_text(path.read_text().replace("{", '{"dev-1-0-img0": "./val/dev-1-0-img0.png", ', 1))
    kinds = {clash.kind for clash in examine("cirr", cirr_root).findings.clashes}
    assert kinds == {"case", "one-file", "other-name", "json-key"}
    Image.new("RGB", (4, 4)).save(fashion_root / "images/B0011.jpg")
    edit(fashion_root / "image_splits/split.dress.val.json", lambda names: names.append(names[0]))
    report = examine("fashion-iq", fashion_root)
    assert {clash.kind for clash in report.findings.clashes} == {"several-files", "listed-twice"}
    assert "B0011.png, B0011.jpg (the first is read)" in _printed(report)


def test_shared_images_by_name_and_by_bytes(fashion_root: Path, edit: Edit) -> None:
    edit(fashion_root / "image_splits/split.shirt.val.json", lambda names: names.append("B0000"))
    images = fashion_root / "images"
    (images / "B0011.png").write_bytes((images / "B0001.png").read_bytes())
    shared = examine("fashion-iq", fashion_root).findings.shared
    by_name, by_bytes = (next(s for s in shared if s.same_bytes is flag) for flag in (False, True))
    assert (by_name.one, by_name.other, by_name.names) == ("dress/train", "shirt/val", ("B0000",))
    assert by_name.across_splits
    assert (by_bytes.one, by_bytes.other, by_bytes.names) == ("train", "val", ("B0001 = B0011",))


def test_statistics_of_the_small_folder(cirr_root: Path, fashion_root: Path) -> None:
    measured = examine("cirr", cirr_root, images=False).to_json()["statistics"]["measured"]["val"]
    assert (measured["subsets"], measured["pairs"], measured["images"]) == (1, 9, 6)
    assert (measured["pairs_per_subset"], measured["closed_loops"], measured["words"]) == (9.0, 100.0, 6.0)
    assert measured["answered"] == (100.0, 0.0, 0.0, 0.0)
    assert measured["covered"] == (100.0, 0.0, 0.0, 100.0)
    fashion = examine("fashion-iq", fashion_root, images=False).to_json()["statistics"]["measured"]["dress/val"]
    assert (fashion["rows"], fashion["images"], fashion["images_in_rows"], fashion["words"]) == (2, 3, 2, 2.25)


@pytest.mark.slow
def test_pictures_are_decoded_in_processes(tmp_path: Path) -> None:
    """Slow: worker processes."""
    paths = {}
    for number in range(80):
        paths[f"n{number}"] = tmp_path / f"{number}.png"
        Image.new("L", (8, 8), number).save(paths[f"n{number}"])
    paths["n7"].write_bytes(b"no picture")
    check = check_pictures(paths, workers=2)
    assert check.checked == 80
    assert list(check.unreadable) == ["n7"]
    assert check.modes == {"L": 79}
