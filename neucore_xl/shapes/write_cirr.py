"""Writing a plan in the files of CIRR rc2."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from neucore_xl.language.sequence import FusionSequence
from neucore_xl.shapes.nouns import PLURALS
from neucore_xl.shapes.plan import Plan, Query
from neucore_xl.shapes.sentence import sentence

SPLITS = ("train", "val", "test1")
PREFIX = {"train": "train", "val": "dev", "test1": "test1"}
FIRST_ID = {"train": 0, "val": 1_000_000, "test1": 2_000_000}  # pair ids of the splits never meet
COVERED, NOTHING, NONE = "[cr1] Covered in query", "[cr0] Nothing worth mentioning", "[c] None existed"


def image_name(split: str, index: int) -> str:
    """The name of image ``index`` of a split, built as NLVR2 builds them: set, pair, side."""
    return f"{PREFIX[split]}-{index // 8}-{index // 2 % 4}-img{index % 2}"


def image_path(split: str, index: int) -> str:
    """Where that image lies below ``img_raw``; training images are spread over a hundred folders."""
    folder = f"train/{index // 8 % 100}" if split == "train" else PREFIX[split]
    return f"./{folder}/{image_name(split, index)}.png"


def _dump(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def _auxiliary(plan: Plan, query: Query) -> dict[str, str]:
    """The answers to CIRR's four questions: what stays, what else changed, the viewpoint, the background."""
    d = plan.difference(query)
    covered = frozenset().union(*(s.covers for s in query.statements))
    stays = [
        g.shape
        for i, g in enumerate(d.reference.groups)
        if d.match[i] is not None and ("group", i, "shape") not in d.keys
    ]
    others = [k for k in d.keys - covered if k[0] == "group"]
    view, ground = {("zoom",), ("tilt",)} & d.keys, {("background",), ("kind",)} & d.keys
    camera = "the camera is closer" if d.target.zoom > d.reference.zoom else "the camera is further away"
    return {
        "0": f"being a picture of {PLURALS.get(stays[0], stays[0] + 's')}" if stays else NONE,
        "1": f"change the {sorted(str(k[2]) for k in others)[0]} of a shape" if others else NONE,
        "2": NOTHING
        if not view
        else COVERED
        if view <= covered
        else camera
        if ("zoom",) in view
        else "the angle differs",
        "3": NOTHING if not ground else COVERED if ground <= covered else f"the background is {d.target.background}",
    }


def rows(plan: Plan, split: str, seed: str) -> Iterator[tuple[dict[str, Any], dict[str, str], str, FusionSequence]]:
    """Per query the full caption row, its auxiliary answers, the target's name, and the truth of its sentence."""
    for number, query in enumerate(plan.queries):
        told = sentence(query.statements, plan.difference(query), query.rng(seed))
        names = [image_name(split, i) for i in query.members]
        shown = list(names)
        random.Random(f"{seed}/members/{query.subset}").shuffle(shown)  # ranks are not positions in the file
        target = names[query.target_rank]
        soft = {target: 1.0} | {names[k]: 0.5 for k in query.near}
        row = {
            "pairid": FIRST_ID[split] + number,
            "reference": names[query.reference_rank],
            "target_hard": target,
            "target_soft": soft,
            "caption": told.text,
            "img_set": {
                "id": query.subset,
                "members": shown,
                "reference_rank": query.reference_rank,
                "target_rank": query.target_rank,
            },
        }
        yield row, _auxiliary(plan, query), target, told


def write_split(root: Path, plan: Plan, split: str, seed: str) -> list[FusionSequence]:
    """Write the annotations of one split below ``root`` and return the truth of its sentences.

    ``test1`` hides its targets as the released file does; they go to ``truth/targets.test1.json``.
    """
    captions, extended, targets, truth = [], [], {}, []
    for row, auxiliary, target, told in rows(plan, split, seed):
        extra: dict[str, Any] = {"pairid": row["pairid"], "reference": row["reference"]}
        if split == "test1":
            del row["target_hard"], row["target_soft"], row["img_set"]["target_rank"]
            targets[str(row["pairid"])] = target
        else:
            extra["target_hard"] = target
        captions.append(row)
        extended.append({**extra, "caption_extend": auxiliary})
        truth.append(told)
    images = {image_name(split, i): image_path(split, i) for i in range(len(plan.scenes))}
    _dump(root / "captions" / f"cap.rc2.{split}.json", captions)
    _dump(root / "captions_ext" / f"cap.ext.rc2.{split}.json", extended)
    _dump(root / "image_splits" / f"split.rc2.{split}.json", images)
    if split == "test1":
        _dump(root / "truth" / "targets.test1.json", targets)
    return truth
