"""Irregular rows of CIRR rc2 annotations, beside what rows share: subsets and ranks, soft labels, auxiliary answers."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from neucore_xl.data.cirr import Row, parse_row
from neucore_xl.data.doctor.kinds import Irregular, shorten, text_kinds
from neucore_xl.data.doctor.rows import Found, examine_rows, members_not_listed
from neucore_xl.data.subsets.procedure import PAIRS
from neucore_xl.errors import UserError

RANK_PAIRS = frozenset(PAIRS)
QUESTIONS = ("0", "1", "2", "3")

_CODE = re.compile(r"\[(c|cr0|cr1)\] \S.*")
_CODE_LIKE = re.compile(r"\s*(\[|c[r0-9]*\d\b|c\]|cr\b)")


def parse_rows(raws: Sequence[Any], file: str, split: str) -> tuple[list[Row], list[Irregular]]:
    """The rows that can be read, and one ``row-malformed`` for each that cannot."""
    rows, found = [], []
    for number, raw in enumerate(raws):
        try:
            rows.append(parse_row(raw, f"{file}, row {number}"))
        except UserError as error:
            id = str(raw.get("pairid", f"row {number}")) if isinstance(raw, dict) else f"row {number}"
            found.append(Irregular("row-malformed", id, split, str(error)))
    return rows, found


def examine(rows: Sequence[Row], split: str, listed: Collection[str] | None, labelled: bool) -> list[Irregular]:
    """Every irregularity of the rows of one caption file; arguments as of ``rows.examine_rows``."""

    def own(row: Row) -> Iterator[Found]:
        yield from members_not_listed(row.members, listed)
        yield from _subset(row)
        yield from _ranks(row)
        yield from _soft(row, listed)

    found = examine_rows(rows, split, listed, labelled, has_words=lambda row: bool(row.caption.strip()), own=own)
    return found + list(_across_subset(rows, split))


def examine_auxiliary(raws: Sequence[Any], rows: Sequence[Row], split: str) -> list[Irregular]:
    """Every irregularity of an auxiliary file, and of its relation to the caption file."""
    main = {row.id: row for row in rows}
    found: list[Irregular] = []
    seen: Counter[str] = Counter()
    for number, raw in enumerate(raws):
        if not isinstance(raw, dict) or "pairid" not in raw or not isinstance(raw.get("caption_extend", {}), dict):
            found.append(Irregular("aux-row-malformed", f"row {number}", split, shorten(raw)))
            continue
        id = str(raw["pairid"])
        seen[id] += 1
        kinds: list[Found] = []
        if seen[id] == 2:
            kinds.append(("aux-row-repeated", ""))
        if id not in main:
            kinds.append(("aux-row-extra", ""))
        else:
            kinds += _mismatch(raw, main[id])
        kinds += _answers(raw.get("caption_extend", {}), main[id].caption if id in main else None)
        found += [Irregular(kind, id, split, detail) for kind, detail in kinds]
    return found + [Irregular("aux-row-missing", id, split) for id in main if not seen[id]]


def _subset(row: Row) -> Iterator[Found]:
    if len(row.members) != 6:
        yield "members-not-six", f"{len(row.members)} members"
    for name, count in Counter(row.members).items():
        if count > 1:
            yield "members-repeated", f"{name}, {count} times"
    if not row.set_id:
        yield "set-id-missing", ""
    if row.reference not in row.members:
        yield "reference-not-member", row.reference
    if row.target and row.target not in row.members:
        yield "target-not-member", row.target


def _ranks(row: Row) -> Iterator[Found]:
    ranks = [row.reference_rank, *([row.target_rank] if row.target else [])]
    if None in ranks:
        yield "rank-missing", ""
        return
    odd = [r for r in ranks if not isinstance(r, int) or not 0 <= r <= 5]
    if odd:
        yield "rank-out-of-range", f"rank {odd[0]}"
    elif row.target and tuple(ranks) not in RANK_PAIRS:
        yield "rank-pair-unknown", f"ranks {tuple(ranks)}"


def _soft(row: Row, listed: Collection[str] | None) -> Iterator[Found]:
    if row.target is None:
        return
    if not row.target_soft:
        yield "soft-missing", ""
        return
    if row.target not in row.target_soft:
        yield "soft-without-hard", f"{row.target} not among {', '.join(row.target_soft)}"
    elif row.target_soft[row.target] != 1.0:
        yield "soft-hard-below-one", f"{row.target}: {row.target_soft[row.target]}"
    if row.reference in row.target_soft:
        yield "soft-names-reference", f"{row.reference}: {row.target_soft[row.reference]}"
    outside = [f"{name}: {value}" for name, value in row.target_soft.items() if name not in row.members]
    if outside:
        yield "soft-outside-subset", ", ".join(outside)
    absent = [name for name in row.target_soft if listed is not None and name not in listed]
    if absent:
        yield "soft-not-listed", ", ".join(absent)
    odd = [f"{name}: {value}" for name, value in row.target_soft.items() if value not in (1.0, 0.5, -1.0)]
    if odd:
        yield "soft-odd-value", ", ".join(odd)


def _across_subset(rows: Sequence[Row], split: str) -> Iterator[Irregular]:
    """What only shows when the rows of one subset are laid side by side."""
    subsets: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row.set_id:
            subsets[row.set_id].append(row)
    for set_id, group in subsets.items():
        ranks_of: dict[str, set[Any]] = defaultdict(set)
        images_of: dict[Any, set[str]] = defaultdict(set)
        for name, rank in (placed for row in group for placed in _placed(row)):
            ranks_of[name].add(rank)
            images_of[rank].add(name)
        joined = Counter((row.reference_rank, row.target_rank) for row in group if row.target)
        members = Counter(frozenset(row.members) for row in group)
        for row in group:
            if len(members) > 1:
                yield Irregular("members-differ", row.id, split, f"set {set_id}")
            pair = (row.reference_rank, row.target_rank)
            if row.target and None not in pair and joined[pair] > 1:
                yield Irregular("rank-pair-repeated", row.id, split, f"set {set_id}, ranks {pair}")
            for name, rank in _placed(row):
                if len(ranks_of[name]) > 1 or len(images_of[rank]) > 1:
                    yield Irregular("rank-conflict", row.id, split, f"set {set_id}, {name} at rank {rank}")


def _placed(row: Row) -> list[tuple[str, Any]]:
    """The images of the row whose rank it states."""
    stated = [(row.reference, row.reference_rank), *([(row.target, row.target_rank)] if row.target else [])]
    return [(name, rank) for name, rank in stated if rank is not None]


def _mismatch(raw: dict[str, Any], row: Row) -> Iterator[Found]:
    for field, value in (("reference", row.reference), ("target_hard", row.target)):
        if raw.get(field) != value:
            yield "aux-mismatch", f"{field}: {raw.get(field)} here, {value} in the caption file"


def _answers(answers: dict[str, Any], caption: str | None) -> Iterator[Found]:
    for question in QUESTIONS:
        if question not in answers:
            yield "aux-question-missing", f"question {question}"
    for question, answer in answers.items():
        detail = f"question {question}: {shorten(answer)}"
        if question not in QUESTIONS:
            yield "aux-question-extra", detail
        if not isinstance(answer, str):
            yield "aux-not-text", detail
        elif not answer.strip():
            yield "aux-empty", detail
        elif not _CODE.fullmatch(answer):
            if _CODE_LIKE.match(answer):
                yield "aux-code-unknown", detail
            for ending in text_kinds(answer):
                yield f"aux-{ending}", detail
            if caption is not None and answer.casefold().split() == caption.casefold().split():
                yield "aux-same-as-caption", detail
