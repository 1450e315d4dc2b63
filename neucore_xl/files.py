"""Writing so that a reader never sees half a file, and a full or closed disk gives one clear sentence."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO, RawIOBase
from pathlib import Path
from typing import Any

import filelock

from neucore_xl.errors import UserError

log = logging.getLogger(__name__)

TEMPORARY = ".tmp-"  # what a crash may leave behind; every such entry can be deleted


@contextmanager
def disk_errors(doing: str, where: Path) -> Iterator[None]:
    """Turn the operating system's "no space" and "not permitted" into a ``UserError`` that says what to do."""
    try:
        yield
    except OSError as error:
        raise translated(error, doing, where) from error


def translated(error: OSError, doing: str, where: Path) -> Exception:
    """``error`` as a ``UserError`` when the user can mend it, else ``error`` itself."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return UserError(
            f"disk full (or a quota reached) while {doing} under {where}: free some space and start again."
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return UserError(f"no permission for {doing} under {where}: choose a folder that you may write to.")
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return UserError(f"{where} is a file or lies below one, so {doing} is impossible: choose another folder.")
    if error.errno == errno.ENOENT:
        return UserError(f"{where} cannot be made or has vanished, so {doing} is impossible: choose another folder.")
    return error


@contextmanager
def plain_writer(path: Path) -> Iterator[PlainWriter]:
    """A file for libraries that write to file objects, and the operating system's own error if that fails.

    numpy and torch answer a full disk with errors that no longer say so; the cause is raised in their place.
    """
    with path.open("wb", buffering=0) as file:
        writer = PlainWriter(file)
        try:
            yield writer
        except Exception:
            if writer.error is not None:
                raise writer.error from None
            raise


class PlainWriter:
    """``write`` and no more, so that no library reaches for the file below it; keeps the first error."""

    def __init__(self, file: RawIOBase | FileIO) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        view = memoryview(data).cast("B")
        done = 0
        try:
            while done < len(view):
                done += self._file.write(view[done:]) or 0
        except OSError as error:
            self.error = self.error or error
            raise
        return done

    def flush(self) -> None:
        """Nothing is held back."""


def sync_folder(folder: Path) -> None:
    """Make renames inside ``folder`` survive a power cut (a no-op where folders cannot be opened)."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)


def write_bytes(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data`` in one step: temporary file in the same folder, fsync, rename."""
    handle, name = tempfile.mkstemp(prefix=TEMPORARY, dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)  # mkstemp gives 0600, which would lock colleagues out of a shared run folder
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Replace ``path`` by ``value`` as indented JSON, in one step."""
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n").encode())


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that becomes ``path`` when the block ends well and vanishes when it does not.

    Every file in it is fsynced before the rename. An older ``path`` is replaced; it stays until the new one is
    complete.
    """
    temporary = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=path.parent))
    try:
        yield temporary
        for file in temporary.iterdir():
            sync_file(file)
        publish(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def sync_file(file: Path) -> None:
    """Wait until ``file`` is on the disk."""
    with file.open("rb") as stream:
        os.fsync(stream.fileno())


def publish(temporary: Path, path: Path) -> None:
    """Give the folder ``temporary``, whose files are on the disk, the name ``path`` beside it, in one step."""
    temporary.chmod(0o755)
    sync_folder(temporary)
    if path.exists():
        old = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=path.parent)) / path.name
        path.replace(old)
        temporary.replace(path)
        shutil.rmtree(old.parent, ignore_errors=True)
    else:
        temporary.replace(path)
    sync_folder(path.parent)


@contextmanager
def locked(path: Path, *, wait: bool, waiting: str = "") -> Iterator[None]:
    """Hold the lock file ``path``; the kernel lets go of it when the process ends, however it ends.

    With ``wait`` the message ``waiting`` is logged if the lock is not free at once; without it ``filelock.Timeout``
    is raised then. A file system without locks (some cluster mounts) gives a warning and no protection.
    """
    lock = filelock.FileLock(path)
    try:
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            if not wait:
                raise
            log.warning(waiting)
            lock.acquire()
    except NotImplementedError:
        log.warning("%s lies on a file system without locks: see to it that nothing else writes there", path.parent)
    try:
        yield
    finally:
        lock.release()


def remove_leftovers(folder: Path) -> None:
    """Delete what an earlier crash left behind; call only while holding the folder's lock."""
    for entry in folder.glob(TEMPORARY + "*"):
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)
