from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import filelock
import numpy as np
import pytest

from neucore_xl import files
from neucore_xl.errors import UserError


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    files.write_json(path, {"a": [1, "ü"]})
    assert path.read_text() == '{\n  "a": [\n    1,\n    "ü"\n  ]\n}\n'
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        with pytest.raises(OSError, match="full"):
            files.write_json(path, {})
    assert '"ü"' in path.read_text()
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_file_is_on_the_disk_before_it_has_its_name_and_the_name_before_the_caller_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, synced = tmp_path / "a", []

    def fsync(handle: int) -> None:
        synced.append((str(Path(f"/proc/self/fd/{handle}").readlink()), path.exists()))

    monkeypatch.setattr(files.os, "fsync", fsync)
    with files.new_file(path) as temporary:
        temporary.write_text("x")
    assert synced == [(str(temporary), False), (str(tmp_path), True)]


@pytest.mark.parametrize("mask", [0o002, 0o022, 0o077])
def test_permissions_are_those_that_the_users_mask_gives(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        files.write_json(tmp_path / "a.json", {})
        with files.output_file(tmp_path / "deep" / "b") as temporary:
            temporary.touch()
        for _ in range(2):  # the second replaces the first
            with files.new_folder(tmp_path / "folder") as folder:
                (folder / "c").touch()
        (tmp_path / "plain").touch()
        (tmp_path / "plain folder").mkdir()
    finally:
        os.umask(before)
    entries = list(tmp_path.rglob("*"))
    assert len(entries) == 7
    assert {p.stat().st_mode & 0o777 for p in entries if p.is_dir()} == {0o777 & ~mask}
    assert {p.stat().st_mode & 0o777 for p in entries if p.is_file()} == {0o666 & ~mask}


def test_a_file_of_the_same_content_is_not_touched_where_that_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for text, replaced in (("one", True), ("one", False), ("two", True)):
        before = path.stat().st_ino if path.exists() else None
        with files.new_file(path, keep_same=True) as temporary:
            temporary.write_text(text)
        assert (path.stat().st_ino != before) is replaced
        assert path.read_text() == text
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("folder", r"writing folder under .* is impossible, a folder has that name"),
        ("file/below/it", r"file/below is a file or lies below one, so writing it is impossible"),
        ("n" * 300, r"the name is too long"),
    ],
)
def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=said), files.output_file(tmp_path / name) as temporary:
        temporary.touch()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    files.temporary_folder(tmp_path)
    with files.new_file(tmp_path / "a") as temporary:
        temporary.write_text("x")
        left = temporary.with_name(temporary.name + "0")
        left.touch()
    files.remove_leftovers(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "disk full"),
        (errno.EDQUOT, "disk full"),
        (errno.EROFS, "no permission"),
        (errno.EACCES, "no permission"),
        (errno.ENOTDIR, "choose another folder"),
    ],
)
def test_what_a_user_can_mend_is_said(tmp_path: Path, number: int, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught, files.disk_errors("saving", tmp_path):
        raise OSError(number, "x")
    assert str(tmp_path) in str(caught.value)


def test_other_errors_pass(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="odd"), files.disk_errors("saving", tmp_path):
        raise OSError(errno.EIO, "odd")
    with pytest.raises(UserError, match="mine"), files.disk_errors("saving", tmp_path):
        raise UserError("mine")


def test_a_new_folder_replaces_the_old_one(tmp_path: Path) -> None:
    def write(text: str, error: Exception | None = None) -> None:
        with files.new_folder(tmp_path / "x") as folder:
            (folder / "a").write_text(text)
            if error is not None:
                raise error

    write("one")
    write("two")
    assert (tmp_path / "x" / "a").read_text() == "two"
    with pytest.raises(ValueError, match="no"):
        write("three", ValueError("no"))
    assert (tmp_path / "x" / "a").read_text() == "two"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_a_new_folder_may_hold_folders_and_links(tmp_path: Path) -> None:
    with files.new_folder(tmp_path / "x") as folder:
        (folder / "a" / "b").mkdir(parents=True)
        (folder / "a" / "b" / "c").write_text("deep")
        (folder / "elsewhere").symlink_to(tmp_path, target_is_directory=True)
        (folder / "nowhere").symlink_to("nothing")
    assert (tmp_path / "x" / "elsewhere" / "x" / "a" / "b" / "c").read_text() == "deep"


@pytest.mark.parametrize("array", [np.arange(100_003.0), np.zeros((0, 3), np.float32), np.ones((5, 4))[:, ::2]])
def test_arrays_written_plainly_read_back(tmp_path: Path, array: np.ndarray) -> None:
    with files.plain_writer(tmp_path / "a.npy") as file:
        np.save(file, array)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), array)


def test_a_lock_that_is_held_and_one_that_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        files.locked(tmp_path / "lock", wait=False),
        pytest.raises(filelock.Timeout),
        files.locked(tmp_path / "lock", wait=False),
    ):
        raise AssertionError

    def unsupported(*_: object, **__: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(filelock.FileLock, "acquire", unsupported)
    with files.locked(tmp_path / "lock", wait=True):
        assert "without locks" in caplog.text


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = files.output_json(tmp_path / "x.json", {"a": 1})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"disk full .* while writing x\.json under"):
        files.output_json(path, {"a": 2})
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]
    assert json.loads(path.read_text()) == {"a": 1}
