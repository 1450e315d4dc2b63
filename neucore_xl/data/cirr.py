"""Reader of CIRR rc2: ``captions/``, ``captions_ext/``, ``image_splits/`` and the images below ``img_raw/``.

Source of the format: Liu et al., "Image Retrieval on Real-life Images with Pre-trained Vision-and-Language Models"
(ICCV 2021), sections 4 and C, and the released files.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neucore_xl.data.switches import EmptyText, Switches, require_captions
from neucore_xl.data.triplets import Gallery, Split, Triplet
from neucore_xl.errors import UserError
from neucore_xl.jsonfile import BadContent, file_name, one_line, read_json, text_field, text_list


def captions_path(root: Path, split: str) -> Path:
    """Where the sentences of a split lie."""
    return root / "captions" / f"cap.rc2.{split}.json"


def extended_path(root: Path, split: str) -> Path:
    """Where the auxiliary annotations of a split lie."""
    return root / "captions_ext" / f"cap.ext.rc2.{split}.json"


def image_map_path(root: Path, split: str) -> Path:
    """Where a split's map from image name to file lies."""
    return root / "image_splits" / f"split.rc2.{split}.json"


def splits_in(root: Path) -> tuple[str, ...]:
    """Names of the splits of which there are captions."""
    return tuple(sorted(p.name.split(".")[2] for p in root.glob("captions/cap.rc2.*.json")))


@dataclass(frozen=True)
class Row:
    """One row of a caption file, its types checked and nothing else."""

    id: str
    reference: str
    target: str | None
    caption: str
    set_id: str
    members: tuple[str, ...]
    reference_rank: int | str | None = None  # a text where the file has something other than a whole number
    target_rank: int | str | None = None
    target_soft: dict[str, float] = field(default_factory=dict)

    @property
    def captions(self) -> tuple[str, ...]:
        """The caption, as one of the texts that a row of any dataset holds."""
        return (self.caption,)


def parse_row(raw: Any, where: str) -> Row:
    """``raw`` as a ``Row``; raises ``UserError`` beginning with ``where`` if a field is missing or of another type."""
    reference, caption = text_field(raw, "reference", where), text_field(raw, "caption", where)
    pair = raw.get("pairid")
    if not isinstance(pair, int | str) or isinstance(pair, bool):
        raise UserError(f"{where} has no `pairid`; add a number that no other row has.")
    where = f"{where} (pair {pair})"
    image_set = raw.get("img_set")
    if not isinstance(image_set, dict) or "members" not in image_set:
        raise UserError(f"{where} has no `img_set` with `members`; add the subset of the pair.")
    target = None if raw.get("target_hard") is None else text_field(raw, "target_hard", where)
    return Row(
        id=str(pair),
        reference=reference,
        target=target,
        caption=caption,
        set_id=str(image_set.get("id", "")),
        members=tuple(text_list(image_set["members"], f"{where}: `members`")),
        reference_rank=_rank(image_set.get("reference_rank")),
        target_rank=_rank(image_set.get("target_rank")),
        target_soft=_soft_labels(raw.get("target_soft"), where),
    )


def is_answer(text: str) -> bool:
    """Whether an auxiliary annotation says something, rather than "[c] None existed", "[cr0] …" or "[cr1] …"."""
    return bool(text.strip()) and not text.lstrip().startswith("[c")


def read_auxiliary(path: Path) -> dict[str, dict[str, str]]:
    """Pair id → question ("0" to "3") → answer as the file has it; empty if the file is absent, which is allowed.

    Answers that are not texts are left out (the doctor names them); raises ``UserError`` on a malformed file.
    """
    if not os.path.lexists(path):
        return {}
    found: dict[str, dict[str, str]] = {}
    for number, raw in enumerate(read_json(path, list)):
        if not isinstance(raw, dict) or not isinstance(raw.get("caption_extend", {}), dict) or "pairid" not in raw:
            raise UserError(f"{path}, row {number} is not an object with `pairid` and `caption_extend`; mend it.")
        answers = raw.get("caption_extend", {})
        found.setdefault(str(raw["pairid"]), {}).update({k: v for k, v in answers.items() if isinstance(v, str)})
    return found


def read_image_map(root: Path, split: str) -> dict[str, Path]:
    """Image name → file, in file order; raises ``UserError`` as ``image_file`` does."""
    path = image_map_path(root, split)
    return {name: image_file(root, name, relative, str(path)) for name, relative in read_json(path, dict).items()}


def image_file(root: Path, name: str, relative: Any, where: str) -> Path:
    """The file of image ``name``, to which the map in the file ``where`` gives the path ``relative``.

    Raises ``UserError`` for a path that is not a text, that no file can have, or that leaves ``img_raw/``; links in
    there may lead wherever whoever made them wants.
    """
    where = f"{where}: the path of image {name}"
    if not isinstance(relative, str):
        raise BadContent(f"{where} must be a text, not {repr(relative)[:80]}.")
    return root / "img_raw" / file_name(relative, where)


def open_split(root: Path, split: str, switches: Switches) -> Split:
    """``read_split`` for the registry; raises ``UserError`` naming the splits that are there for one that is not."""
    require_captions(root, split, captions_path(root, split), splits_in(root))
    return read_split(root, split, empty_text=switches.empty_text)


def read_split(root: Path | str, split: str, *, empty_text: EmptyText = "refuse") -> Split:
    """Every pair of ``split``, in file order, and the gallery of all images of the split.

    ``subset`` holds the distinct members in file order, and the reference and the target even where the file forgot
    them. A pair without words is kept where it has no target (the released test1 holds one, and a submission
    must answer it); where it has a target, ``empty_text`` decides. Raises ``UserError`` naming file and pair for
    a malformed row, a repeated pair id, an empty text (``refuse``) and an image that the split does not list.
    """
    root = Path(root)
    path = captions_path(root, split)
    files = read_image_map(root, split)
    auxiliary = read_auxiliary(extended_path(root, split))
    triplets: dict[str, Triplet] = {}
    for number, raw in enumerate(read_json(path, list)):
        row = parse_row(raw, f"{path}, row {number}")
        where = f"{path}, row {number} (pair {row.id})"
        if row.id in triplets:
            raise UserError(f"{where}: another row has the same pair id; give every pair its own.")
        text = one_line(row.caption)
        if not text and row.target is not None and empty_text == "refuse":
            raise UserError(f"{where}: the caption is empty; write one or pass data.empty_text=keep.")
        named = (row.reference, *row.members, *((row.target,) if row.target else ()))
        for name in named:
            if name not in files:
                raise UserError(
                    f"{where} names image {name}, which {image_map_path(root, split)} does not list; add it."
                )
        triplets[row.id] = Triplet(
            id=row.id,
            reference=row.reference,
            target=row.target,
            text=text,
            captions=(row.caption,),
            subset=tuple(dict.fromkeys((*row.members, *named))),
            target_soft=row.target_soft,
            auxiliary=auxiliary.get(row.id, {}),
        )
    gallery = Gallery(names=tuple(files), paths=files)
    return Split("cirr", split, root, tuple(triplets.values()), {"": gallery})


def _soft_labels(soft: Any, where: str) -> dict[str, float]:
    if soft is None:
        return {}
    if not isinstance(soft, dict):
        raise BadContent(f"{where}: `target_soft` must give each image name a number, not be {repr(soft)[:80]}.")
    for name, value in soft.items():
        if not isinstance(value, int | float) or isinstance(value, bool) or not -1 <= value <= 1:
            shown = repr(value)[:80]
            raise BadContent(f"{where}: `target_soft` of {name} must be a number from -1 to 1, not {shown}; mend it.")
    return {name: float(value) for name, value in soft.items()}


def _rank(value: Any) -> int | str | None:
    return value if value is None or type(value) is int else repr(value)
