"""Subsets as annotation files in CIRR's layout, their captions empty: what somebody is to fill in."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from neucore_xl import files
from neucore_xl.data.cirr import captions_path, image_map_path
from neucore_xl.data.subsets.procedure import PAIRS
from neucore_xl.errors import UserError

RECORD = "subsets.json"  # how the files were made


@dataclass(frozen=True)
class Chosen:
    """The subsets of one split: ``members`` [S, SIZE] are positions in ``names``, by rank."""

    names: Sequence[str]
    members: np.ndarray

    @property
    def pairs(self) -> Iterator[tuple[int, int, int]]:
        """(subset, rank of the reference, rank of the target) of each pair; one that two subsets share comes once.

        So it is in the released files, where no two rows have the same reference and target.
        """
        seen: set[tuple[int, int]] = set()
        for subset, members in enumerate(self.members.tolist()):
            for reference, target in PAIRS:
                pair = members[reference], members[target]
                if pair not in seen:
                    seen.add(pair)
                    yield subset, reference, target

    @property
    def images(self) -> list[str]:
        """The distinct images of the subsets, in the order of ``names``."""
        return [self.names[i] for i in np.unique(self.members)]


def check_free(out: Path, images: Path) -> None:
    """Raises ``UserError`` unless the folder ``out`` can be made beside ``images`` without touching anything."""
    if (out / RECORD).exists():
        raise UserError(
            f"{out} holds subsets already, perhaps with captions that somebody wrote, and is left as it is; "
            "name a new folder."
        )
    if out.is_dir() and any(out.iterdir()):
        raise UserError(f"{out} holds something else; name a new or an empty folder.")
    if os.path.lexists(out) and not out.is_dir():
        raise UserError(f"{out} is a file; name a folder to write into.")
    if images.resolve() in (out.resolve(), *out.resolve().parents):
        raise UserError(f"{out} lies within the image folder {images}; name a folder beside it.")
    there = next(folder for folder in out.absolute().parents if folder.exists())
    if not os.access(there, os.W_OK):  # hours before the files are written
        raise UserError(f"no permission to make {out} in {there}: choose a folder that you may write to.")


def write_draft(out: Path, images: Path, splits: Mapping[str, Chosen], record: Mapping[str, Any]) -> None:
    """Write the folder ``out`` at once: captions to fill in, image maps, ``record``, and a link to ``images``.

    Pair and subset ids are unique over ``splits``. The gallery of a split are the images of its subsets, as in CIRR.
    Raises ``UserError`` when the disk is full or the place cannot be written; ``out`` is then as before.
    """
    with files.disk_errors("writing subsets", out.parent):
        out.parent.mkdir(parents=True, exist_ok=True)
        with files.new_folder(out) as folder:
            (folder / "img_raw").symlink_to(images.resolve(), target_is_directory=True)
            ids, subsets = itertools.count(), 0
            for split, chosen in splits.items():
                _write_lines(captions_path(folder, split), "[]", map(_json, rows(chosen, ids, subsets)))
                maps = (f"{_json(name)}: {_json(f'./{name}')}" for name in chosen.images)
                _write_lines(image_map_path(folder, split), "{}", maps)
                subsets += len(chosen.members)
            files.write_json(folder / RECORD, record)


def rows(chosen: Chosen, ids: Iterator[int], first: int) -> Iterator[dict[str, Any]]:
    """The rows of the pairs as CIRR's caption files have them, without words; ``first``: id of the first subset."""
    for subset, reference, target in chosen.pairs:
        names = [chosen.names[i] for i in chosen.members[subset]]
        yield {
            "pairid": next(ids),
            "reference": names[reference],
            "target_hard": names[target],
            "target_soft": {names[target]: 1.0},
            "caption": "",
            "img_set": {"id": first + subset, "members": names, "reference_rank": reference, "target_rank": target},
        }


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _write_lines(path: Path, brackets: str, lines: Iterable[str]) -> None:
    """One JSON value, an entry a line, so that people and tools that compare files can work on it."""
    path.parent.mkdir(exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        file.write(brackets[0])
        for i, line in enumerate(lines):
            file.write(("," if i else "") + f"\n{line}")
        file.write(f"\n{brackets[1]}\n")
