"""Irregular rows of Fashion-IQ annotations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from neucore_xl.data.doctor.kinds import Irregular, caption_kinds, shorten
from neucore_xl.data.fashion_iq import Row, join, parse_row
from neucore_xl.errors import UserError


def parse_rows(
    raws: Sequence[Any], file: str, category: str, split: str
) -> tuple[list[tuple[str, Row]], list[Irregular]]:
    """The rows that can be read with their ids, and one ``row-malformed`` for each that cannot."""
    rows, found = [], []
    for number, raw in enumerate(raws):
        id = f"{category}-{split}-{number}"
        try:
            rows.append((id, parse_row(raw, f"{file}, row {number}")))
        except UserError as error:
            found.append(Irregular("row-malformed", id, split, str(error)))
    return rows, found


def examine_rows(
    rows: Sequence[tuple[str, Row]], split: str, listed: Collection[str] | None, labelled: bool
) -> list[Irregular]:
    """Every irregularity of the rows of one caption file.

    ``listed``: names of the split file, None where there is none; ``labelled``: the split must have targets.
    """
    found = []
    queries = Counter((row.reference, _folded(row)) for _, row in rows)
    pairs = Counter((row.reference, row.target) for _, row in rows if row.target)
    exact = Counter((row.reference, row.target, _folded(row)) for _, row in rows if row.target)
    for id, row in rows:
        kinds = [*_text(row), *_images(row, listed)]
        if row.target is None and labelled:
            kinds.append(("target-missing", ""))
        if row.target and exact[row.reference, row.target, _folded(row)] > 1:
            kinds.append(("row-repeated", shorten(list(row.captions))))
        elif row.target and pairs[row.reference, row.target] > 1:
            kinds.append(("pair-repeated", f"{row.reference} → {row.target}"))
        elif queries[row.reference, _folded(row)] > 1:
            kinds.append(("query-repeated", shorten(list(row.captions))))
        found += [Irregular(kind, id, split, detail) for kind, detail in kinds]
    return found


def _folded(row: Row) -> tuple[str, ...]:
    return tuple(" ".join(c.casefold().split()) for c in row.captions)


def _text(row: Row) -> Iterator[tuple[str, str]]:
    if len(row.captions) != 2:
        yield "captions-not-two", f"{len(row.captions)} captions"
    elif len(set(_folded(row))) == 1:
        yield "captions-equal", shorten(row.captions[0])
    if not join(row.captions):
        yield "text-empty" if row.target else "text-empty-unlabelled", shorten(list(row.captions))
    # A caption can be irregular in the same way twice; the row is reported once per kind.
    kinds: dict[str, str] = {}
    for caption in row.captions:
        if not caption.strip():
            kinds.setdefault("caption-empty", shorten(list(row.captions)))
        else:
            for kind in caption_kinds(caption):
                kinds.setdefault(kind, shorten(caption))
    yield from kinds.items()


def _images(row: Row, listed: Collection[str] | None) -> Iterator[tuple[str, str]]:
    if row.target == row.reference:
        yield "target-is-reference", row.reference
    if listed is None:
        return
    if row.reference not in listed:
        yield "reference-not-listed", row.reference
    if row.target and row.target not in listed:
        yield "target-not-listed", row.target
