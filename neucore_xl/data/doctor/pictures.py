"""Decode every picture once, in several processes, and say which are missing, damaged, or twice there."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from neucore_xl.data.images import decode_rgb, picture_bytes
from neucore_xl.errors import UserError
from neucore_xl.progress import track
from neucore_xl.workers import process_pool

_CHUNK = 16  # pictures handed to a process at a time
_POOL_FROM = 64  # fewer pictures than this are decoded here: starting processes would take longer


@dataclass(frozen=True)
class PictureCheck:
    """What became of the named pictures; ``unreadable`` gives the reason, ``same_bytes`` groups equal files."""

    checked: int
    missing: tuple[str, ...]
    unreadable: Mapping[str, str]
    modes: Mapping[str, int] = field(default_factory=dict)
    same_bytes: tuple[tuple[str, ...], ...] = ()


def check_pictures(paths: Mapping[str, Path], *, console: Console | None = None, workers: int = 0) -> PictureCheck:
    """Decode the pictures ``paths`` (name → file); ``workers`` 0 takes one process per core.

    A bar runs on ``console`` if there is one. Raises ``UserError`` when a decoding process dies.
    """
    present = {name: path for name, path in paths.items() if not _is_missing(path)}
    unreadable: dict[str, str] = {}
    modes: Counter[str] = Counter()
    by_digest: dict[str, list[str]] = defaultdict(list)
    bar = track("Decoding pictures", len(present), console, shown=console is not None, quiet_below=0, lines=False)
    with bar as advance:
        for name, (mode, digest, error) in zip(present, _examine_all(list(present.values()), workers), strict=True):
            advance()
            if error is not None:
                unreadable[name] = error
            else:
                modes[mode] += 1
                by_digest[digest].append(name)
    same = tuple(tuple(names) for names in by_digest.values() if len(names) > 1)
    missing = tuple(name for name in paths if name not in present)
    return PictureCheck(len(present), missing, unreadable, dict(modes.most_common()), same)


def _examine(path: Path) -> tuple[str, str, str | None]:
    """Mode, digest of the bytes, and what is wrong, of one picture."""
    try:
        content = picture_bytes(path)
        _, mode = decode_rgb(content, path)
        return mode, hashlib.sha256(content).hexdigest(), None
    except UserError as error:
        return "", "", str(error)


def _is_missing(path: Path) -> bool:
    """Whether nothing is there; a pipe, a folder or a loop of links is something, and is said to be no picture."""
    try:
        os.stat(path)  # noqa: PTH116 (a Path of Python 3.13 reports loops of links in another way)
    except (OSError, ValueError) as error:
        return isinstance(error, FileNotFoundError)
    return False


def _examine_all(paths: list[Path], workers: int) -> Iterator[tuple[str, str, str | None]]:
    workers = workers or os.cpu_count() or 1
    if workers == 1 or len(paths) < _POOL_FROM:
        yield from map(_examine, paths)
        return
    try:
        with process_pool(workers) as pool:
            yield from pool.map(_examine, paths, chunksize=_CHUNK)
    except BrokenProcessPool:
        raise UserError("A process that decodes pictures died; give it more memory or run with --no-images.") from None


def name_clashes(names: Iterable[str]) -> tuple[tuple[str, ...], ...]:
    """Groups of names that a file system or an editor may take for one: they differ in case alone."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in dict.fromkeys(names):
        groups[name.casefold()].append(name)
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)
