"""Irregularities that rows of every dataset can have; what only one layout knows stands in a file of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Protocol, TypeVar

from neucore_xl.data.doctor.kinds import Irregular, caption_kinds, shorten

Found = tuple[str, str]  # (kind, what was found there)


class Row(Protocol):
    """What the shared checks read of a row, whichever reader it comes from."""

    @property
    def id(self) -> str: ...

    @property
    def reference(self) -> str: ...

    @property
    def target(self) -> str | None: ...

    @property
    def captions(self) -> Sequence[str]: ...


R = TypeVar("R", bound=Row)


def examine_rows(
    rows: Sequence[R],
    split: str,
    listed: Collection[str] | None,
    labelled: bool,
    *,
    has_words: Callable[[R], bool],
    own: Callable[[R], Iterable[Found]],
) -> list[Irregular]:
    """Every irregularity of the rows of one caption file, in the order of the rows.

    ``listed``: names of the split file, None where there is none; ``labelled``: the split must have targets.
    ``has_words``: whether the layout's reader finds any in the row; ``own``: what the layout checks beside all this.
    """
    repeats = _Repeats(rows)
    irregular = []
    for row in rows:
        found = [*_text(row, has_words(row)), *_images(row, listed), *own(row), *repeats.of(row)]
        if row.target is None and labelled:
            found.append(("target-missing", ""))
        irregular += [Irregular(kind, row.id, split, detail) for kind, detail in found]
    return irregular


def members_not_listed(members: Sequence[str], listed: Collection[str] | None) -> Iterator[Found]:
    """Images of a row's subset that the split file does not list."""
    for name in dict.fromkeys(members):
        if listed is not None and name not in listed:
            yield "member-not-listed", name


def folded(row: Row) -> tuple[str, ...]:
    """The captions without case and with single blanks, to compare rows by."""
    return tuple(" ".join(caption.casefold().split()) for caption in row.captions)


class _Repeats:
    """How often ids, queries, pairs and whole rows occur."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._ids = Counter(row.id for row in rows)
        self._queries = Counter((row.reference, folded(row)) for row in rows)
        self._pairs = Counter((row.reference, row.target) for row in rows if row.target)
        self._whole = Counter((row.reference, row.target, folded(row)) for row in rows if row.target)

    def of(self, row: Row) -> Iterator[Found]:
        """What occurs again among the others, the closest likeness alone."""
        if self._ids[row.id] > 1:
            yield "id-repeated", f"{self._ids[row.id]} rows"
        if row.target and self._whole[row.reference, row.target, folded(row)] > 1:
            yield "row-repeated", _quoted(row)
        elif row.target and self._pairs[row.reference, row.target] > 1:
            yield "pair-repeated", f"{row.reference} → {row.target}"
        elif self._queries[row.reference, folded(row)] > 1:
            yield "query-repeated", _quoted(row)


def _images(row: Row, listed: Collection[str] | None) -> Iterator[Found]:
    if row.target == row.reference:
        yield "target-is-reference", row.reference
    if listed is None:
        return
    if row.reference not in listed:
        yield "reference-not-listed", row.reference
    if row.target and row.target not in listed:
        yield "target-not-listed", row.target


def _text(row: Row, has_words: bool) -> Iterator[Found]:
    if not has_words:
        yield "text-empty" if row.target else "text-empty-unlabelled", _quoted(row)
    # A caption can be irregular in the same way twice; the row is reported once per kind.
    kinds: dict[str, str] = {}
    for caption in row.captions:
        if caption.strip():
            for kind in caption_kinds(caption):
                kinds.setdefault(kind, shorten(caption))
        elif len(row.captions) > 1:
            kinds.setdefault("caption-empty", _quoted(row))
    yield from kinds.items()


def _quoted(row: Row) -> str:
    return shorten(row.captions[0] if len(row.captions) == 1 else list(row.captions))
