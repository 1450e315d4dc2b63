"""Writing so that a reader never sees half a file, and a full or closed disk gives one clear sentence.

What is written gets the permissions that the user's mask (``umask``) gives to any new file. A group that shares its
run folders sets a mask that lets it, somebody with private data one that forbids it; a fixed 0644 would overrule both,
and would differ from what TensorBoard, DeepSpeed and the lock write beside it in the same folder.
"""

from __future__ import annotations

import errno
import filecmp
import json
import logging
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO, RawIOBase
from pathlib import Path
from typing import Any

import filelock
import xxhash

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
    if error.errno in (errno.EISDIR, errno.ENAMETOOLONG):
        why = "a folder has that name" if error.errno == errno.EISDIR else "the name is too long"
        return UserError(f"{doing} under {where} is impossible, {why}: choose another name.")
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return UserError(f"{where} is a file or lies below one, so {doing} is impossible: choose another folder.")
    if error.errno == errno.ELOOP:
        return UserError(f"a link under {where} leads to itself, so {doing} is impossible: remove it.")
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


@contextmanager
def new_file(path: Path, *, keep_same: bool = False) -> Iterator[Path]:
    """A temporary name beside ``path``: the file that the block writes there becomes ``path`` when the block ends well.

    It is on the disk before it takes the name, and the name is before the caller goes on. An error leaves an older
    ``path`` as it was and nothing beside it. With ``keep_same`` an older ``path`` of the same content is not touched.
    """
    temporary = _temporary_name(path.parent)
    try:
        yield temporary
        if not (keep_same and path.exists() and filecmp.cmp(temporary, path, shallow=False)):
            sync_file(temporary)
            temporary.replace(path)
            sync_folder(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def output_file(path: Path, *, keep_same: bool = False) -> Iterator[Path]:
    """``new_file`` for a path that a user gave: its folder is made, and what the disk refuses is a ``UserError``."""
    with disk_errors(f"writing {path.name}", path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        with new_file(path, keep_same=keep_same) as temporary:
            yield temporary


def write_bytes(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data`` in one step (see ``new_file``)."""
    with new_file(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` by ``text`` in UTF-8, in one step."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Replace ``path`` by ``value`` as indented JSON, in one step; what JSON does not know becomes its ``str``."""
    write_bytes(path, json_bytes(value, default=str))


def output_json(path: Path, value: Any) -> Path:
    """``value`` as indented JSON at a ``path`` that a user gave (see ``output_file``); NaN is refused."""
    content = json_bytes(value, allow_nan=False)
    with output_file(path) as temporary:
        temporary.write_bytes(content)
    return path


def json_bytes(value: Any, *, indent: int | None = 2, **options: Any) -> bytes:
    """``value`` as a line of UTF-8 JSON, or several; without ``indent`` in its most compact form.

    Half characters (of a path that is not UTF-8) are escaped, as JSON has it. ``options`` are those of ``json.dumps``.
    """
    separators = None if indent else (",", ":")
    text = json.dumps(value, ensure_ascii=False, indent=indent, separators=separators, **options) + "\n"
    return text.encode("utf-8", "backslashreplace")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that becomes ``path`` when the block ends well and vanishes when it does not.

    Every file in it is fsynced before the rename. An older ``path`` is replaced; it stays until the new one is
    complete.
    """
    temporary = temporary_folder(path.parent)
    try:
        yield temporary
        for entry in temporary.rglob("*"):
            if not entry.is_symlink():
                (sync_folder if entry.is_dir() else sync_file)(entry)
        publish(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def temporary_folder(parent: Path) -> Path:
    """A new empty folder in ``parent`` that ``remove_leftovers`` would remove; ``publish`` gives it its name."""
    folder = _temporary_name(parent)
    folder.mkdir()
    return folder


def usual_permissions(file: Path) -> None:
    """Give ``file``, which a library made private, the permissions that the user's mask gives to any new file."""
    probe = _temporary_name(file.parent)
    probe.touch()
    try:
        file.chmod(stat.S_IMODE(probe.stat().st_mode))
    finally:
        probe.unlink()


def checksum(file: Path) -> str:
    """XXH3 of 128 bits, in hex: it notices damage for less than reading costs, and is no seal against people."""
    digest, block = xxhash.xxh3_128(), bytearray(1 << 22)
    view = memoryview(block)
    with file.open("rb", buffering=0) as stream:
        while count := stream.readinto(block):
            digest.update(view[:count])
    return digest.hexdigest()


def sync_file(file: Path) -> None:
    """Wait until ``file`` is on the disk."""
    with file.open("rb") as stream:
        os.fsync(stream.fileno())


def publish(temporary: Path, path: Path) -> None:
    """Give the folder ``temporary``, whose files are on the disk, the name ``path`` beside it, in one step."""
    sync_folder(temporary)
    if path.exists():
        old = temporary_folder(path.parent) / path.name
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


def set_aside(path: Path) -> Path:
    """Give ``path``, whatever it is, a name beside it that nobody looks for, and return that: ``damaged-…``."""
    new = aside_name(path)
    path.rename(new)
    sync_folder(path.parent)
    return new


def aside_name(path: Path) -> Path:
    """A free name beside ``path`` for what was damaged: ``damaged-NAME``, ``damaged-2-NAME``, …"""
    new, number = path.with_name(f"damaged-{path.name}"), 1
    while os.path.lexists(new):
        number += 1
        new = path.with_name(f"damaged-{number}-{path.name}")
    return new


def remove_leftovers(folder: Path) -> None:
    """Delete what an earlier crash left behind; call only while holding the folder's lock."""
    for entry in folder.glob(TEMPORARY + "*"):
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


def _temporary_name(folder: Path) -> Path:
    """Not through ``tempfile``, which makes everything private: the mask would have to be read to undo that."""
    return folder / f"{TEMPORARY}{secrets.token_hex(6)}"
