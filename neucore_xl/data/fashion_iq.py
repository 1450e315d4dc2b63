"""Reader of Fashion-IQ: ``captions/``, ``image_splits/`` and ``images/NAME.png`` (or jpg, jpeg), by category.

Source of the format: Wu et al., "Fashion IQ" (CVPR 2021) and the released files.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_lowercase
from typing import Any, get_args

from neucore_xl.data.switches import Captions, EmptyText, GalleryKind, Switches, require_captions, require_known
from neucore_xl.data.triplets import Gallery, Split, Triplet
from neucore_xl.errors import UserError
from neucore_xl.jsonfile import file_name, one_line, read_json, text_field, text_list

CATEGORIES = ("dress", "shirt", "toptee")
OTHER_FORMAT = "rc2"  # what stands in the place of a category in the file names of CIRR
SUFFIXES = (".png", ".jpg", ".jpeg")  # where a name has several files, the first of these is read


def captions_path(root: Path, category: str, split: str) -> Path:
    """Where the sentences of a category's split lie."""
    return root / "captions" / f"cap.{category}.{split}.json"


def image_list_path(root: Path, category: str, split: str) -> Path:
    """Where the list of a category's gallery images lies."""
    return root / "image_splits" / f"split.{category}.{split}.json"


def splits_in(root: Path) -> dict[str, tuple[str, ...]]:
    """Category → names of the splits of which there are captions."""
    found: dict[str, list[str]] = {}
    for path in sorted(root.glob("captions/cap.*.*.json")):
        _, category, split, _ = path.name.split(".", 3)
        if category != OTHER_FORMAT:
            found.setdefault(category, []).append(split)
    return {category: tuple(splits) for category, splits in found.items()}


def split_names(root: Path) -> tuple[str, ...]:
    """Names of the splits of which any category has captions."""
    present = {c: splits for c, splits in splits_in(root).items() if not c.startswith("rc")}  # another release of CIRR
    return tuple(dict.fromkeys(split for splits in present.values() for split in splits))


@dataclass(frozen=True)
class Row:
    """One row of a caption file, its types checked and nothing else."""

    id: str
    reference: str
    target: str | None
    captions: tuple[str, ...]


def row_id(category: str, split: str, number: int) -> str:
    """The id of row ``number`` (from 0) of a caption file; the file itself has none."""
    return f"{category}-{split}-{number}"


def parse_row(raw: Any, where: str, id: str) -> Row:
    """``raw`` as a ``Row``; raises ``UserError`` beginning with ``where`` if a field is missing or of another type."""
    reference = text_field(raw, "candidate", where)
    target = None if raw.get("target") is None else text_field(raw, "target", where)
    if "captions" not in raw:
        raise UserError(f"{where} has no `captions`; add a list of two.")
    return Row(id, reference, target, tuple(text_list(raw["captions"], f"{where}: `captions`")))


def clean(caption: str) -> str:
    """The caption without outer white space and trailing punctuation, inner white space as single blanks."""
    return one_line(caption).rstrip(" .?!,")


def join(captions: Sequence[str]) -> str:
    """The captions as one sentence, "c1 and c2"; empty ones are left out (the released files hold some)."""
    return " and ".join(c for c in map(clean, captions) if c)


def read_image_list(root: Path, category: str, split: str) -> tuple[str, ...]:
    """Names of the split file in file order, repeats left in.

    Raises ``UserError`` on an entry that is not a text, that no file can have as its name, or that leaves ``images/``.
    """
    path = image_list_path(root, category, split)
    return tuple(file_name(name, f"{path}, image name") for name in text_list(read_json(path, list), f"{path}"))


def find_images(root: Path) -> dict[str, list[Path]]:
    """Image name → its files below ``images/``, preferred suffix first; one listing of the folder for all names."""
    folder = root / "images"
    found: dict[str, list[Path]] = {}
    if not folder.is_dir():
        return found
    with os.scandir(folder) as entries:
        for entry in entries:
            path = folder / entry.name
            if path.suffix.lower() in SUFFIXES:
                found.setdefault(path.stem, []).append(path)
    for files in found.values():
        files.sort(key=lambda p: (SUFFIXES.index(p.suffix.lower()), p.name))
    return found


def open_split(root: Path, split: str, switches: Switches) -> Split:
    """``read_split`` for the registry; raises ``UserError`` with what is there for a category or split that is not."""
    present = splits_in(root)
    categories = CATEGORIES if switches.categories is None else switches.categories
    for category in categories:
        require_known("Fashion-IQ category", category, tuple(dict.fromkeys((*CATEGORIES, *present))))
        require_captions(root, split, captions_path(root, category, split), present.get(category, ()))
    return read_split(
        root,
        split,
        categories=categories,
        captions=switches.captions,
        gallery=switches.gallery,
        empty_text=switches.empty_text,
    )


def sentences(root: Path, split: str) -> list[str]:
    """The texts of every way of joining captions, of all categories that have the split; ``UserError`` for none."""
    categories = [category for category, splits in splits_in(root).items() if split in splits]
    if not categories:
        raise UserError(f"Split {split!r} has no captions below {root / 'captions'}.")
    readings = (
        read_split(root, split, categories=categories, captions=captions, empty_text="keep")
        for captions in get_args(Captions)
    )
    return [triplet.text for reading in readings for triplet in reading.triplets]


def read_split(
    root: Path | str,
    split: str,
    *,
    categories: Sequence[str] = CATEGORIES,
    captions: Captions = "12",
    gallery: GalleryKind = "original",
    empty_text: EmptyText = "refuse",
) -> Split:
    """Every row of ``split`` of the categories, in order, and one gallery per category.

    ``captions``: one query per row that reads "c1 and c2" (``12``) or "c2 and c1" (``21``), or one query per caption
    (``both``; ids end in ``-a``, ``-b``; a caption of no words stays a query without words, so that the number
    of queries is a protocol's). ``gallery``: all names of the split file, or only the images of the split's rows.
    A row without words is kept where it has no target; where it has one, ``empty_text`` decides. Raises
    ``UserError`` naming file and row for a malformed row, an empty text (``refuse``) and an image that the
    split does not list.
    """
    root = Path(root)
    files = find_images(root)
    triplets: list[Triplet] = []
    galleries: dict[str, Gallery] = {}
    for category in categories:
        listed = dict.fromkeys(read_image_list(root, category, split))
        rows = _read_rows(root, category, split, listed, empty_text)
        triplets.extend(query for row in rows for query in _queries(row, category, captions))
        if gallery == "val":
            used = {name for row in rows for name in (row.reference, row.target)}
            names = tuple(name for name in listed if name in used)
        else:
            names = tuple(listed)
        galleries[category] = Gallery(names, {name: image_path(root, name, files) for name in names})
    return Split("fashion-iq", split, root, tuple(triplets), galleries)


def image_path(root: Path, name: str, files: Mapping[str, list[Path]]) -> Path:
    """The file of image ``name``; where there is none, the name that the user should give it."""
    return files[name][0] if name in files else root / "images" / f"{name}{SUFFIXES[0]}"


def _read_rows(root: Path, category: str, split: str, listed: Mapping[str, None], empty_text: EmptyText) -> list[Row]:
    path = captions_path(root, category, split)
    rows = []
    for number, raw in enumerate(read_json(path, list)):
        where = f"{path}, row {number}"
        row = parse_row(raw, where, row_id(category, split, number))
        if row.target is not None and empty_text == "refuse" and not join(row.captions):
            raise UserError(f"{where}: all captions are empty; write one or pass data.empty_text=keep.")
        for name in (row.reference, row.target):
            if name is not None and name not in listed:
                raise UserError(
                    f"{where} names image {name}, which {image_list_path(root, category, split)} does not list; add it."
                )
        rows.append(row)
    return rows


def _queries(row: Row, category: str, captions: Captions) -> list[Triplet]:
    def query(id: str, text: str) -> Triplet:
        return Triplet(id, row.reference, row.target, text, captions=row.captions, category=category)

    if captions == "both":
        texts = [clean(c) for c in row.captions] or [""]
        return [query(f"{row.id}-{ascii_lowercase[i] if i < 26 else i}", text) for i, text in enumerate(texts)]
    return [query(row.id, join(row.captions if captions == "12" else row.captions[::-1]))]
