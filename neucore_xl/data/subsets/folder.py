"""The pictures below a folder, by the names that they have in annotations."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from neucore_xl.errors import UserError
from neucore_xl.jsonfile import BadContent, file_name

ENDINGS = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm",
     ".jp2", ".avif")
)  # fmt: skip


@dataclass(frozen=True)
class Pictures:
    """``names``: paths below ``folder`` with "/" between their parts, sorted. ``unusable``: such names → why they can
    be none. ``others``: how many files end otherwise, by ending."""

    folder: Path
    names: tuple[str, ...]
    unusable: dict[str, str]
    others: dict[str, int]

    @property
    def paths(self) -> dict[str, Path]:
        """Name → file."""
        return {name: self.folder / name for name in self.names}


def pictures_below(folder: Path) -> Pictures:
    """Every file below ``folder`` that is a picture by its ending; none is opened.

    Hidden files and folders are passed over, links are followed, a folder that is met again is not entered twice.
    Raises ``UserError`` where ``folder`` is none, or cannot be listed.
    """
    if not folder.is_dir():
        problem = "is no folder" if folder.exists() else "does not exist"
        raise UserError(f"The image folder {folder} {problem}; give the folder that holds the pictures.")
    names: list[str] = []
    unusable: dict[str, str] = {}
    others: Counter[str] = Counter()
    for name, is_file in _files(folder, "", set(), unusable):
        ending = os.path.splitext(name)[1].lower()  # noqa: PTH122 (a Path for each of a million files)
        if ending not in ENDINGS:
            others[ending] += 1
        elif not is_file:
            unusable[name] = "it is no regular file, or a link that leads nowhere"
        elif not _can_be_written(name):
            unusable[name] = "its name cannot be written into a JSON file; rename it"
        else:
            names.append(name)
    if "" in unusable:
        raise UserError(f"The image folder {folder} cannot be listed ({unusable['']}).")
    return Pictures(folder, tuple(sorted(names)), unusable, dict(others.most_common()))


def _files(
    folder: Path, below: str, entered: set[tuple[int, int]], unusable: dict[str, str]
) -> Iterator[tuple[str, bool]]:
    """(path below ``folder``, whether it is a regular file) of everything that is no folder, links followed."""
    try:
        here = (folder / below).stat()
        if (here.st_dev, here.st_ino) in entered:
            return
        entered.add((here.st_dev, here.st_ino))
        with os.scandir(folder / below) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError as error:
        unusable[below] = f"{error.strerror}; change the permissions of the folder"
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        name = below + entry.name
        try:
            is_dir, is_file = entry.is_dir(), entry.is_file()
        except OSError:  # a link to itself
            is_dir = is_file = False
        if is_dir:
            yield from _files(folder, f"{name}/", entered, unusable)
        else:
            yield name, is_file


def _can_be_written(name: str) -> bool:
    try:
        return bool(file_name(name, ""))
    except BadContent:
        return False
