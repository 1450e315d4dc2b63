"""The CIRR reader on a small folder and on spoiled copies of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from neucore_xl.data.cirr import captions_path, extended_path, image_map_path, is_answer, read_split
from neucore_xl.data.doctor.examine import examine
from neucore_xl.data.images import load_rgb
from neucore_xl.errors import UserError

Edit = Callable[[Path, Callable[[Any], Any]], None]


def test_rows_become_triplets(cirr_root: Path) -> None:
    split = read_split(cirr_root, "val")
    assert (split.dataset, split.name, len(split.triplets)) == ("cirr", "val", 9)
    first = split.triplets[0]
    assert (first.id, first.reference, first.target) == ("10", "dev-1-0-img0", "dev-1-1-img0")
    assert first.text == "make it number 1, not 0."
    assert set(first.subset) == {f"dev-1-{i}-img0" for i in range(6)}
    assert first.subset[0] == "dev-1-3-img0"  # file order, not rank order
    assert first.target_soft == {"dev-1-1-img0": 1.0}
    assert first.auxiliary["1"] == "[c] None existed"
    assert split.galleries[""].names == tuple(f"dev-1-{i}-img0" for i in range(6))
    assert split.image_path(first.target).is_file()


def test_test_split_has_no_targets(cirr_root: Path) -> None:
    split = read_split(cirr_root, "test1")
    assert len(split.triplets) == 9
    assert {t.target for t in split.triplets} == {None}


def test_auxiliary_file_may_be_absent_and_its_nulls_are_left_out(cirr_root: Path, edit: Edit) -> None:
    edit(extended_path(cirr_root, "val"), lambda rows: rows[0]["caption_extend"].update({"2": None}))
    assert set(read_split(cirr_root, "val").triplets[0].auxiliary) == {"0", "1", "3"}
    extended_path(cirr_root, "val").unlink()
    assert read_split(cirr_root, "val").triplets[0].auxiliary == {}


def test_forgotten_members_are_completed_and_repeats_dropped(cirr_root: Path, edit: Edit) -> None:
    def spoil(rows: list[dict[str, Any]]) -> None:
        rows[0]["img_set"]["members"] = ["dev-1-3-img0", "dev-1-3-img0", "dev-1-4-img0"]

    edit(captions_path(cirr_root, "val"), spoil)
    subset = read_split(cirr_root, "val").triplets[0].subset
    assert subset == ("dev-1-3-img0", "dev-1-4-img0", "dev-1-0-img0", "dev-1-1-img0")


def test_an_empty_caption_is_refused_only_where_there_is_a_target(cirr_root: Path, edit: Edit) -> None:
    for split in ("train", "test1"):
        edit(captions_path(cirr_root, split), lambda rows: rows[2].update(caption=" \t"))
    with pytest.raises(UserError, match=r"cap\.rc2\.train\.json, row 2 \(pair 3\): the caption is empty"):
        read_split(cirr_root, "train")
    kept = read_split(cirr_root, "train", empty_text="keep").triplets
    assert (len(kept), kept[2].text, kept[2].captions) == (9, "", (" \t",))
    unlabelled = read_split(cirr_root, "test1").triplets
    assert (len(unlabelled), unlabelled[2].text) == (9, "")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows: rows.__setitem__(1, "text"), "row 1 is not an object"),
        (lambda rows: rows[1].pop("reference"), "row 1 has no `reference`"),
        (lambda rows: rows[1].pop("pairid"), "row 1 has no `pairid`"),
        (lambda rows: rows[1].pop("img_set"), "pair 11.* has no `img_set`"),
        (lambda rows: rows[1].update(caption=3), "`caption` must be a text, not 3"),
        (lambda rows: rows[1].update(target_hard=["x"]), "`target_hard` must be a text"),
        (
            lambda rows: rows[1].update(target_soft={"x": "1"}),
            "`target_soft` of x must be .* from -1 to 1, not '1'",
        ),
        (
            lambda rows: rows[1].update(target_soft={"x": True}),
            "`target_soft` of x must be .* from -1 to 1, not True",
        ),
        (
            lambda rows: rows[1].update(target_soft={"x": 2.5}),
            "`target_soft` of x must be .* from -1 to 1, not 2.5",
        ),
        (
            lambda rows: rows[1].update(target_soft={"x": -1.01}),
            "`target_soft` of x must be .* from -1 to 1, not -1.01",
        ),
        (lambda rows: rows[1].update(target_soft={"x": float("nan")}), "line 1: the number NaN"),
        (lambda rows: rows[1].update(target_soft={"x": float("inf")}), "line 1: the number Infinity"),
        (lambda rows: rows[1].update(target_soft=False), "each image name a number, not be False"),
        (lambda rows: rows[1].update(target_soft=""), "each image name a number, not be ''"),
        (lambda rows: rows[1]["img_set"].update(members="abc"), "`members` must be a list of texts"),
        (lambda rows: rows[1].update(pairid=10), "another row has the same pair id"),
        (lambda rows: rows[1].update(reference="nobody"), r"pair 11.* names image nobody, .*split\.rc2\.val\.json"),
        (lambda rows: rows[1].update(target_hard="nobody"), "names image nobody"),
        (lambda rows: rows[1]["img_set"]["members"].append("nobody"), "names image nobody"),
    ],
)
def test_a_wrong_row_is_named(cirr_root: Path, edit: Edit, change: Callable[[Any], Any], words: str) -> None:
    path = captions_path(cirr_root, "val")
    edit(path, change)
    with pytest.raises(UserError, match=words) as caught:
        read_split(cirr_root, "val")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/etc/hostname", "leads out of the folder"),
        ("../outside.png", "leads out of the folder"),
        ("./val/../../../outside.png", "leads out of the folder"),
        ("..", "leads out of the folder"),
        ("val/a\0.png", "is not a name that a file can have"),
        ("val/a\n.png", "is not a name that a file can have"),
        (" ", "is not a name that a file can have"),
        (["val/a.png"], "must be a text"),
    ],
)
def test_an_image_path_that_leaves_the_folder_is_refused(cirr_root: Path, edit: Edit, path: Any, words: str) -> None:
    edit(image_map_path(cirr_root, "train"), lambda names: names.update({"train-0-3-img0": path}))
    with pytest.raises(UserError, match=rf"split\.rc2\.train\.json: the path of image train-0-3-img0.*{words}"):
        read_split(cirr_root, "train")
    problem = next(p for p in examine("cirr", cirr_root).findings.problems if "Paths that are refused: 1" in p)
    assert words in problem


def test_a_link_that_the_user_made_may_leave_the_folder(cirr_root: Path, tmp_path: Path) -> None:
    folder = cirr_root / "img_raw" / "train"
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    split = read_split(cirr_root, "train")
    assert all(load_rgb(path).size == (8, 6) for path in split.galleries[""].paths.values())
    assert examine("cirr", cirr_root).trainable


def test_a_wrong_image_path_and_a_wrong_auxiliary_row_are_named(cirr_root: Path, edit: Edit) -> None:
    edit(image_map_path(cirr_root, "train"), lambda names: names.update({"train-0-0-img0": 4}))
    with pytest.raises(UserError, match="the path of image train-0-0-img0 must be a text"):
        read_split(cirr_root, "train")
    edit(extended_path(cirr_root, "val"), lambda rows: rows[3].pop("pairid"))
    with pytest.raises(UserError, match=r"cap\.ext\.rc2\.val\.json, row 3"):
        read_split(cirr_root, "val")


@pytest.mark.parametrize(
    ("text", "says_something"),
    [("white background", True), ("[c] None existed", False), ("[cr1] Covered in query", False), (" ", False)],
)
def test_is_answer(text: str, says_something: bool) -> None:
    assert is_answer(text) is says_something
