"""The Fashion-IQ reader on a small folder and on spoiled copies of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neucore_xl.data.doctor.examine import examine
from neucore_xl.data.fashion_iq import captions_path, clean, image_list_path, join, read_split
from neucore_xl.errors import UserError

Edit = Callable[[Path, Callable[[Any], Any]], None]


def test_rows_become_triplets(fashion_root: Path) -> None:
    split = read_split(fashion_root, "val")
    assert [t.id for t in split.triplets[:3]] == ["dress-val-0", "dress-val-1", "shirt-val-0"]
    first = split.triplets[0]
    assert (first.reference, first.target, first.category) == ("B0010", "B0011", "dress")
    assert first.text == "is red and has long sleeves"
    assert first.captions == ("is red. ", " has long sleeves!")
    assert {key: len(g) for key, g in split.galleries.items()} == {"dress": 3, "shirt": 3, "toptee": 3}
    assert split.image_path("B0010") == fashion_root / "images/B0010.jpg"
    assert split.image_path("B0011") == fashion_root / "images/B0011.png"


def test_caption_switches(fashion_root: Path) -> None:
    reverse = read_split(fashion_root, "val", categories=["dress"], captions="21")
    assert [t.text for t in reverse.triplets] == ["has long sleeves and is red", "is longer and is blue"]
    both = read_split(fashion_root, "val", categories=["dress"], captions="both")
    assert [(t.id, t.text) for t in both.triplets] == [
        ("dress-val-0-a", "is red"),
        ("dress-val-0-b", "has long sleeves"),
        ("dress-val-1-a", "is blue"),
        ("dress-val-1-b", "is longer"),
    ]


def test_gallery_val_holds_only_images_of_rows(fashion_root: Path) -> None:
    split = read_split(fashion_root, "val", gallery="val")
    assert split.galleries["dress"].names == ("B0010", "B0011")
    assert split.image_path("B0210").is_file()
    assert read_split(fashion_root, "test", gallery="val").galleries["dress"].names == ("B0020", "B0021")


def test_missing_and_double_pictures(fashion_root: Path) -> None:
    (fashion_root / "images/B0011.jpeg").write_bytes(b"")
    (fashion_root / "images/B0012.png").unlink()
    (fashion_root / "images/B0010.jpg").rename(fashion_root / "images/B0010.JPG")
    split = read_split(fashion_root, "val", categories=["dress"])
    assert split.image_path("B0010").name == "B0010.JPG"
    assert split.image_path("B0011").name == "B0011.png"  # png before jpeg, whatever the folder's order
    assert split.image_path("B0012") == fashion_root / "images/B0012.png"  # absent: the name it should have


def test_names_with_dots_keep_them(fashion_root: Path, edit: Edit, write: Callable[[Path, Any], None]) -> None:
    (fashion_root / "images/B0010.jpg").rename(fashion_root / "images/v1.5-red.jpg")
    write(image_list_path(fashion_root, "dress", "val"), ["v1.5-red"])
    row = {"candidate": "v1.5-red", "target": "v1.5-red", "captions": ["is same"]}
    write(captions_path(fashion_root, "dress", "val"), [row])
    split = read_split(fashion_root, "val", categories=["dress"])
    assert split.image_path("v1.5-red").is_file()
    assert split.triplets[0].text == "is same"


def test_an_empty_caption_leaves_the_other_and_two_are_refused_with_a_target(fashion_root: Path, edit: Edit) -> None:
    path = captions_path(fashion_root, "shirt", "train")
    edit(path, lambda rows: rows[0].update(captions=["", " is red ."]))
    assert read_split(fashion_root, "train", categories=["shirt"]).triplets[0].text == "is red"
    both = read_split(fashion_root, "train", categories=["shirt"], captions="both").triplets
    assert [t.text for t in both] == ["", "is red", "is blue", "is longer"]
    edit(path, lambda rows: rows[1].update(captions=[" ", ".?"]))
    with pytest.raises(UserError, match=r"cap\.shirt\.train\.json, row 1: all captions are empty"):
        read_split(fashion_root, "train")
    assert read_split(fashion_root, "train", empty_text="keep").triplets[3].text == ""
    edit(captions_path(fashion_root, "dress", "test"), lambda rows: rows[1].update(captions=[]))
    assert [t.text for t in read_split(fashion_root, "test", captions="both").triplets[:3]] == [
        "is red",
        "has long sleeves",
        "",
    ]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows: rows.__setitem__(1, []), "row 1 is not an object"),
        (lambda rows: rows[1].pop("candidate"), "row 1 has no `candidate`"),
        (lambda rows: rows[1].pop("captions"), "row 1 has no `captions`"),
        (lambda rows: rows[1].update(captions="is red"), "row 1: `captions` must be a list of texts"),
        (lambda rows: rows[1].update(captions=["is red", None]), "row 1: `captions` must be a list of texts"),
        (lambda rows: rows[1].update(target=7), "`target` must be a text"),
        (lambda rows: rows[1].update(target="B9"), r"row 1 names image B9, .*split\.dress\.val\.json does not list"),
        (lambda rows: rows[1].update(candidate="B9"), "row 1 names image B9"),
    ],
)
def test_a_wrong_row_is_named(fashion_root: Path, edit: Edit, change: Callable[[Any], Any], words: str) -> None:
    path = captions_path(fashion_root, "dress", "val")
    edit(path, change)
    with pytest.raises(UserError, match=words) as caught:
        read_split(fashion_root, "val")
    assert str(path) in str(caught.value)


def test_a_wrong_split_file_is_named(fashion_root: Path, write: Callable[[Path, Any], None]) -> None:
    write(image_list_path(fashion_root, "dress", "val"), ["B0010", 3])
    with pytest.raises(UserError, match=r"split\.dress\.val\.json must be a list of texts"):
        read_split(fashion_root, "val")


@given(st.lists(st.text(), max_size=4))
def test_joined_text_is_one_clean_line(captions: list[str]) -> None:
    text = join(captions)
    assert text == " ".join(text.split())
    assert text == clean(text)
    assert bool(text) == any(clean(c) for c in captions)
    text.encode("utf-8")


@given(st.text(), st.text(alphabet=" .?!,\n\t"), st.text(alphabet=" \n\t"))
def test_clean_ignores_what_stands_around(core: str, behind: str, before: str) -> None:
    assert clean(before + core + behind) == clean(core)


@pytest.mark.parametrize("name", ["../../outside", "/etc/hostname", "a\0", "", "a\tb", ".."])
def test_an_image_name_that_leaves_the_folder_is_refused(fashion_root: Path, edit: Edit, name: str) -> None:
    edit(fashion_root / "image_splits/split.shirt.val.json", lambda names: names.append(name))
    with pytest.raises(UserError, match=r"split\.shirt\.val\.json, image name: .*(leads out|not a name that)"):
        read_split(fashion_root, "val")
    assert any("Image names that are refused: 1" in p for p in examine("fashion-iq", fashion_root).findings.problems)
