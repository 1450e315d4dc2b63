"""Small folders in the two annotation formats, to be spoiled by the tests."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

PAIRS = ((0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 0), (0, 2), (0, 3), (0, 4))


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def picture(path: Path, colour: tuple[int, int, int] = (200, 10, 10)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), colour).save(path)


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    """Rewrite the JSON in ``path``; ``change`` mutates its value."""
    value = json.loads(path.read_text(encoding="utf-8"))
    change(value)
    write(path, value)


def small_cirr(root: Path) -> Path:
    """CIRR rc2 with train, val and test1 of one subset of six images and its nine pairs each."""
    pair_id = 0
    for number, (split, prefix) in enumerate((("train", "train"), ("val", "dev"), ("test1", "test1"))):
        names = [f"{prefix}-{number}-{i}-img0" for i in range(6)]
        members = [names[i] for i in (3, 0, 5, 1, 4, 2)]  # ranks are not positions
        rows, extended = [], []
        for reference, target in PAIRS:
            pair_id += 1
            row: dict[str, Any] = {"pairid": pair_id, "reference": names[reference]}
            more: dict[str, Any] = dict(row)
            image_set = {"id": number, "members": members, "reference_rank": reference}
            if split != "test1":
                row |= {"target_hard": names[target], "target_soft": {names[target]: 1.0}}
                more["target_hard"] = names[target]
                image_set["target_rank"] = target
            rows.append(row | {"caption": f"make it number {target}, not {reference}.", "img_set": image_set})
            answers = {"0": "being a photo of dots", "1": "[c] None existed"}
            answers |= {"2": "[cr0] Nothing worth mentioning", "3": "[cr1] Covered in query"}
            extended.append(more | {"caption_extend": answers})
        write(root / f"captions/cap.rc2.{split}.json", rows)
        write(root / f"captions_ext/cap.ext.rc2.{split}.json", extended)
        write(root / f"image_splits/split.rc2.{split}.json", {n: f"./{split}/{n}.png" for n in names})
        for i, name in enumerate(names):
            picture(root / f"img_raw/{split}/{name}.png", (number * 80, i * 40, 7))
    return root


def small_fashion_iq(root: Path) -> Path:
    """Fashion-IQ with three categories, three splits, two rows each over three images (one of them in no row)."""
    for c, category in enumerate(("dress", "shirt", "toptee")):
        for s, split in enumerate(("train", "val", "test")):
            names = [f"B0{c}{s}{i}" for i in range(3)]
            captions = [["is red. ", " has long sleeves!"], ["is blue", "is longer?"]]
            rows: list[dict[str, Any]] = [{"candidate": names[i], "captions": captions[i]} for i in range(2)]
            if split != "test":
                for i, row in enumerate(rows):
                    row["target"] = names[1 - i]
            write(root / f"captions/cap.{category}.{split}.json", rows)
            write(root / f"image_splits/split.{category}.{split}.json", names)
            for i, name in enumerate(names):
                picture(root / f"images/{name}.{'png' if i else 'jpg'}", (c * 80, s * 80, i * 80))
    return root
