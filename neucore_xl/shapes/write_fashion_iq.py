"""Writing plans, one for each category, in the files of Fashion-IQ."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from neucore_xl.language.sequence import FusionSequence
from neucore_xl.shapes.claims import Statement
from neucore_xl.shapes.plan import Plan, Query
from neucore_xl.shapes.sentence import sentence

SPLITS = ("train", "val", "test")
_LETTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_OFFSET = {(s, c): i for i, (s, c) in enumerate((s, c) for s in SPLITS for c in ("dress", "shirt", "toptee"))}


def image_name(split: str, category: str, index: int) -> str:
    """A name like an article number, its own for every image of all splits and categories."""
    value = (_OFFSET[split, category] * 10_000_000 + index) * 479_001_599 % 36**7  # coprime to 36: no two alike
    digits = ""
    for _ in range(7):
        value, digit = divmod(value, 36)
        digits = _LETTERS[digit] + digits
    return f"B00{digits}"


def image_path(split: str, category: str, index: int) -> str:
    """Where that image lies below the root."""
    return f"images/{image_name(split, category, index)}.png"


def _dump(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=4), encoding="utf-8")


def _halves(statements: Sequence[Statement], rng: random.Random) -> tuple[list[Statement], list[Statement]]:
    """What each of two annotators says: together everything, each at least one thing, some things both."""
    edits = [s for s in statements if not s.kind.startswith("keep")]
    halves: tuple[list[Statement], list[Statement]] = ([], [])
    for s in statements:
        to = rng.choices(((0,), (1,), (0, 1)), (4, 4, 2))[0]
        for k in to:
            halves[k].append(s)
    for half in halves:  # nobody says only that the rest stays
        if all(s.kind.startswith("keep") for s in half):
            half.insert(0, rng.choice(edits))
    return halves


def captions_of(plan: Plan, query: Query, seed: str) -> tuple[FusionSequence, FusionSequence]:
    """The two captions of a query with the truth of each."""
    rng = query.rng(seed)
    d = plan.difference(query)
    first, second = _halves(query.statements, rng)
    return sentence(first, d, rng, plain=True), sentence(second, d, rng, plain=True)


def joined_truth(first: FusionSequence, second: FusionSequence) -> FusionSequence:
    """The truth of the text that a reader joins from two captions: ``c1 and c2`` without their full stops."""
    text = f"{first.text.rstrip(' .?!,')} and {second.text.rstrip(' .?!,')}"
    return FusionSequence(text, (*first.steps, *second.steps))


def write_split(root: Path, plans: Mapping[str, Plan], split: str, seed: str) -> list[FusionSequence]:
    """Write one split of all categories below ``root``; returns the truth of the texts in both caption orders.

    ``test`` has no targets, as in the released files; they go to ``truth/targets.test.json`` by triplet id.
    """
    truth: list[FusionSequence] = []
    targets: dict[str, str] = {}
    for category, plan in plans.items():
        rows = []
        for number, query in enumerate(plan.queries):
            first, second = captions_of(plan, query, f"{seed}/{category}")
            row: dict[str, object] = {"target": image_name(split, category, query.target)}
            if split == "test":
                targets[f"{category}-{split}-{number}"] = str(row.pop("target"))
            row["candidate"] = image_name(split, category, query.reference)
            row["captions"] = [first.text, second.text]
            rows.append(row)
            truth += [joined_truth(first, second), joined_truth(second, first)]
        names = [image_name(split, category, i) for i in range(len(plan.scenes))]
        _dump(root / "captions" / f"cap.{category}.{split}.json", rows)
        _dump(root / "image_splits" / f"split.{category}.{split}.json", names)
    if split == "test":
        path = root / "truth" / "targets.test.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(targets), encoding="utf-8")
    return truth
