"""Irregular rows of Fashion-IQ annotations, beside what rows share: the number of captions."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from neucore_xl.data.doctor.kinds import Irregular, shorten
from neucore_xl.data.doctor.rows import Found, examine_rows, folded
from neucore_xl.data.fashion_iq import Row, join, parse_row, row_id
from neucore_xl.errors import UserError


def parse_rows(raws: Sequence[Any], file: str, category: str, split: str) -> tuple[list[Row], list[Irregular]]:
    """The rows that can be read, and one ``row-malformed`` for each that cannot."""
    rows, found = [], []
    for number, raw in enumerate(raws):
        id = row_id(category, split, number)
        try:
            rows.append(parse_row(raw, f"{file}, row {number}", id))
        except UserError as error:
            found.append(Irregular("row-malformed", id, split, str(error)))
    return rows, found


def examine(rows: Sequence[Row], split: str, listed: Collection[str] | None, labelled: bool) -> list[Irregular]:
    """Every irregularity of the rows of one caption file; arguments as of ``rows.examine_rows``."""
    return examine_rows(
        rows, split, listed, labelled, has_words=lambda row: bool(join(row.captions)), own=_number_of_captions
    )


def _number_of_captions(row: Row) -> Iterator[Found]:
    if len(row.captions) != 2:
        yield "captions-not-two", f"{len(row.captions)} captions"
    elif len(set(folded(row))) == 1:
        yield "captions-equal", shorten(row.captions[0])
