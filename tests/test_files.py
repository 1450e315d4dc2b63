from __future__ import annotations

import errno
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
