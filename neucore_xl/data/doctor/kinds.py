"""Kinds of irregular rows: what each means, which of them stop a training, and the checks of a single caption.

The released files hold most of these kinds, so a reader takes them as they stand unless the kind is ``fatal``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Irregular:
    """One irregular row: its kind, its id (pair id, row id, or the row of a file), its split, what was found there."""

    kind: str
    id: str
    split: str
    detail: str = ""


@dataclass(frozen=True)
class Kind:
    """``fatal`` kinds are those the readers refuse, so no training can start with one in its splits."""

    meaning: str
    fatal: bool = False


KINDS: dict[str, Kind] = {
    "row-malformed": Kind("a field is missing or of another type", fatal=True),
    "id-repeated": Kind("another row has the same pair id", fatal=True),
    "text-empty": Kind("a row with a target has no words at all", fatal=True),
    "text-empty-unlabelled": Kind("a row without a target has no words; kept, since a submission must answer it"),
    "target-missing": Kind("no target in a split that is trained or validated on", fatal=True),
    "reference-not-listed": Kind("the split file does not list the reference image", fatal=True),
    "target-not-listed": Kind("the split file does not list the target image", fatal=True),
    "member-not-listed": Kind("the split file does not list an image of the subset", fatal=True),
    "target-is-reference": Kind("the target is the reference image"),
    "query-repeated": Kind("another row has the same reference and the same words, and another or a hidden target"),
    "pair-repeated": Kind("another row has the same reference and the same target"),
    "row-repeated": Kind("another row is the same in reference, target and words"),
    "captions-not-two": Kind("the row does not hold two captions"),
    "captions-equal": Kind("the two captions are the same"),
    "caption-empty": Kind("one caption of the row has no words; the other is the query"),
    "caption-no-letters": Kind("the caption holds no letter"),
    "caption-placeholder": Kind("the caption says “na”, “n/a”, “none” or the like"),
    "caption-one-word": Kind("the caption is a single word"),
    "caption-long": Kind("more than 40 words: the 77 tokens of a CLIP text tower may cut it"),
    "caption-outer-space": Kind("white space before or behind the caption"),
    "caption-inner-space": Kind("two blanks, a tab or a line break within the caption"),
    "caption-non-ascii": Kind("a character beyond ASCII"),
    "caption-control": Kind("a control or invisible character"),
    "caption-stray": Kind("a stray bracket, backslash, backtick or the like"),
    "members-not-six": Kind("the subset does not have six members"),
    "members-repeated": Kind("an image is twice among the members"),
    "members-differ": Kind("rows of one subset list different members"),
    "reference-not-member": Kind("the reference is not among the members of its subset"),
    "target-not-member": Kind("the target is not among the members of its subset"),
    "set-id-missing": Kind("the subset has no id, so its rows cannot be laid side by side"),
    "rank-missing": Kind("no rank of the reference, or of the target where there is one"),
    "rank-out-of-range": Kind("a rank is not 0 to 5"),
    "rank-pair-unknown": Kind("the two ranks are not one of the nine pairs of a subset"),
    "rank-pair-repeated": Kind("two rows of one subset join the same ranks"),
    "rank-conflict": Kind("an image has two ranks in its subset, or a rank two images"),
    "soft-missing": Kind("a row with a target has no soft labels"),
    "soft-without-hard": Kind("the soft labels do not name the hard target"),
    "soft-hard-below-one": Kind("the soft label of the hard target is not 1.0"),
    "soft-names-reference": Kind("the soft labels name the reference image, which never is ranked"),
    "soft-outside-subset": Kind("a soft label of an image outside the subset"),
    "soft-not-listed": Kind("a soft label of an image that the split file does not list"),
    "soft-odd-value": Kind("a soft label other than 1.0, 0.5 and -1.0"),
    "aux-row-missing": Kind("the auxiliary file has no row of the pair"),
    "aux-row-extra": Kind("the auxiliary file has a row of a pair that the caption file does not hold"),
    "aux-row-repeated": Kind("the auxiliary file has two rows of the pair"),
    "aux-row-malformed": Kind("the auxiliary row is not as it should be", fatal=True),
    "aux-mismatch": Kind("reference or target differ between the auxiliary and the caption file"),
    "aux-question-missing": Kind("an answer to one of the questions 0 to 3 is missing"),
    "aux-question-extra": Kind("an answer to a question other than 0 to 3"),
    "aux-not-text": Kind("an answer is null or no text; left out"),
    "aux-empty": Kind("an answer has no words"),
    "aux-code-unknown": Kind("an answer looks like a code, but not like one of the three known"),
    "aux-placeholder": Kind("an answer says “none” or the like instead of a code"),
    "aux-stray": Kind("a stray bracket, backslash, backtick or the like in an answer"),
    "aux-control": Kind("a control or invisible character in an answer"),
    "aux-non-ascii": Kind("a character beyond ASCII in an answer"),
    "aux-outer-space": Kind("white space before or behind an answer"),
    "aux-inner-space": Kind("two blanks, a tab or a line break within an answer"),
    "aux-same-as-caption": Kind("an answer repeats the caption"),
}

LONG_CAPTION = 40  # words

_PLACEHOLDER = re.compile(r"\W*(n\W?a|none|null|nil|nan|nothing|tbd|todo|unknown|test)\W*", re.IGNORECASE)
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\u00ad\u200b-\u200f\u2028-\u202e\u2060\ufeff\ufffd\ud800-\udfff]")
_STRAY = re.compile(r"[\[\]{}|\\~^`<>_*=#]|&\w+;")
_INNER_SPACE = re.compile(r"\S(\s{2,}|[^\S ])(?=\S)")


def text_kinds(text: str) -> Iterator[str]:
    """Endings of the kinds that a text with words is of: ``stray``, ``non-ascii``, ``outer-space``, …"""
    if text != text.strip():
        yield "outer-space"
    if _INNER_SPACE.search(text):
        yield "inner-space"
    if not text.isascii():
        yield "non-ascii"
    if _CONTROL.search(text):
        yield "control"
    if _STRAY.search(text):
        yield "stray"
    if _PLACEHOLDER.fullmatch(text):
        yield "placeholder"


def caption_kinds(caption: str) -> Iterator[str]:
    """Kinds of a caption that has words; an empty caption is reported with its row."""
    for ending in text_kinds(caption):
        yield f"caption-{ending}"
    words = caption.split()
    if not any(c.isalpha() for c in caption):
        yield "caption-no-letters"
    elif len(words) == 1:
        yield "caption-one-word"
    elif len(words) > LONG_CAPTION:
        yield "caption-long"


def shorten(value: object, length: int = 100) -> str:
    """``value`` with its control characters visible, cut to ``length`` characters."""
    text = repr(value)
    return text if len(text) <= length else text[: length - 1] + "…"
