"""What is a picture below a folder, and by which name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from neucore_xl.data.subsets.folder import pictures_below
from neucore_xl.errors import UserError


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_pictures_are_told_by_their_endings_in_folders_of_folders(tmp_path: Path):
    touch(tmp_path, "b.JPG", "a/b.jpg", "a/c/é 1.webp", "b.png", "notes.txt", "a/README", "a/x.heic", "a/y.heic")
    touch(tmp_path, ".hidden.png", ".git/x.png")
    found = pictures_below(tmp_path)
    assert found.names == ("a/b.jpg", "a/c/é 1.webp", "b.JPG", "b.png")
    assert found.others == {".heic": 2, ".txt": 1, "": 1}
    assert found.unusable == {}
    assert found.paths["a/b.jpg"] == tmp_path / "a" / "b.jpg"


def test_what_is_no_regular_file_is_named_and_never_waited_for(tmp_path: Path):
    touch(tmp_path, "a.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "lost.png").symlink_to("nowhere")
    (tmp_path / "self.png").symlink_to("self.png")
    found = pictures_below(tmp_path)
    assert found.names == ("a.png",)
    assert set(found.unusable) == {"pipe.png", "lost.png", "self.png"}


@pytest.mark.parametrize("name", [b"latin\xe9.png", b"two\nlines.png", b"bell\x07.png"])
def test_names_that_no_json_file_can_hold_are_named(tmp_path: Path, name: bytes):
    touch(tmp_path, "a.png")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).touch()
    found = pictures_below(tmp_path)
    assert found.names == ("a.png",)
    assert [why for why in found.unusable.values() if "rename it" in why]


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    touch(tmp_path, "a.png", "closed/b.png")
    listing = os.scandir

    def refused(path: Path) -> object:  # permissions stop nobody who may do everything
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied")
        return listing(path)

    monkeypatch.setattr(os, "scandir", refused)
    found = pictures_below(tmp_path)
    assert found.names == ("a.png",)
    assert found.unusable == {"closed/": "Permission denied; change the permissions of the folder"}
    with pytest.raises(UserError, match="closed cannot be listed"):
        pictures_below(tmp_path / "closed")


def test_links_are_followed_and_circles_end(tmp_path: Path):
    touch(tmp_path, "elsewhere/a.png", "pictures/b.png")
    (tmp_path / "pictures" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "pictures" / "up").symlink_to(tmp_path)
    (tmp_path / "pictures" / "c.png").symlink_to("b.png")
    assert pictures_below(tmp_path / "pictures").names == ("b.png", "c.png", "linked/a.png")


def test_a_folder_that_is_not_there_is_one_sentence(tmp_path: Path):
    touch(tmp_path, "file")
    with pytest.raises(UserError, match="absent does not exist; give the folder"):
        pictures_below(tmp_path / "absent")
    with pytest.raises(UserError, match="file is no folder; give the folder"):
        pictures_below(tmp_path / "file")
