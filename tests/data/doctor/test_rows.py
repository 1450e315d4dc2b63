"""Every kind of irregular row is found by its id, and nothing is found in regular rows."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neucore_xl.data import cirr, fashion_iq
from neucore_xl.data.doctor import rows_cirr as of_cirr
from neucore_xl.data.doctor import rows_fashion_iq as of_fashion
from neucore_xl.data.doctor.kinds import KINDS, caption_kinds, text_kinds

NAMES = tuple("abcdef")


def _row(id: str = "1", reference: int = 0, target: int | None = 1, **changes: Any) -> cirr.Row:
    row = cirr.Row(
        id=id,
        reference=NAMES[reference],
        target=None if target is None else NAMES[target],
        caption="Make it red.",
        set_id="7",
        members=NAMES,
        reference_rank=reference,
        target_rank=target,
        target_soft={} if target is None else {NAMES[target]: 1.0},
    )
    return dataclasses.replace(row, **changes)


def _kinds(*rows: cirr.Row, labelled: bool = True) -> set[str]:
    found = of_cirr.examine(rows, "val", NAMES, labelled)
    assert {i.kind for i in found} <= set(KINDS)
    return {i.kind for i in found if i.id == rows[0].id}


def test_a_regular_subset_has_no_irregular_row() -> None:
    rows = [_row(str(n), *pair, caption=f"Edit {n} of it.") for n, pair in enumerate(sorted(of_cirr.RANK_PAIRS))]
    assert of_cirr.examine(rows, "val", NAMES, True) == []
    unlabelled = [_row(str(n), r, None, caption=f"Edit {n}.") for n, (r, _) in enumerate(sorted(of_cirr.RANK_PAIRS))]
    assert of_cirr.examine(unlabelled, "test1", NAMES, False) == []


@pytest.mark.parametrize(
    ("changes", "kinds"),
    [
        ({"caption": " "}, {"text-empty"}),
        ({"caption": "Red"}, {"caption-one-word"}),
        ({"caption": "Make  it red."}, {"caption-inner-space"}),
        ({"target": None}, {"target-missing"}),
        ({"reference": "x"}, {"reference-not-listed", "reference-not-member"}),
        ({"target": "x"}, {"target-not-listed", "target-not-member", "soft-without-hard"}),
        ({"members": NAMES[:5]}, {"members-not-six"}),
        ({"members": (*NAMES[:5], "a")}, {"members-repeated"}),
        ({"members": (*NAMES[:5], "x")}, {"member-not-listed"}),
        ({"set_id": ""}, {"set-id-missing"}),
        ({"reference_rank": None}, {"rank-missing"}),
        ({"target_rank": None}, {"rank-missing"}),
        ({"reference_rank": 6}, {"rank-out-of-range"}),
        ({"reference_rank": "[0]"}, {"rank-out-of-range"}),
        ({"target_rank": 0, "reference_rank": 1}, {"rank-pair-unknown"}),
        ({"target_soft": {}}, {"soft-missing"}),
        ({"target_soft": {"b": 0.5}}, {"soft-hard-below-one"}),
        ({"target_soft": {"b": 1.0, "a": 1.0}}, {"soft-names-reference"}),
        ({"target_soft": {"b": 1.0, "x": -1.0}}, {"soft-outside-subset", "soft-not-listed"}),
        ({"target_soft": {"b": 1.0, "c": 0.2}}, {"soft-odd-value"}),
    ],
)
def test_kinds_of_one_row(changes: dict[str, Any], kinds: set[str]) -> None:
    assert _kinds(dataclasses.replace(_row(), **changes)) == kinds


def test_target_is_reference() -> None:
    assert {"target-is-reference", "rank-conflict"} <= _kinds(dataclasses.replace(_row(), target="a"))


def test_kinds_that_show_between_rows() -> None:
    one = _row("1")
    assert _kinds(one, _row("1", 1, 2, caption="Another one.")) == {"id-repeated"}
    assert _kinds(one, _row("2")) == {"row-repeated", "rank-pair-repeated"}
    assert _kinds(one, _row("2", caption="More of it.")) == {"pair-repeated", "rank-pair-repeated"}
    assert _kinds(one, _row("2", 0, 2, caption="make IT  red.")) == {"query-repeated"}
    hidden = dataclasses.replace(one, target=None, target_rank=None)
    assert _kinds(hidden, dataclasses.replace(hidden, id="2"), labelled=False) == {"query-repeated"}
    assert _kinds(one, _row("2", 1, 2, caption="More of it.", members=tuple("abcdeg"))) == {"members-differ"}
    assert _kinds(one, _row("2", 2, 3, caption="More of it.", reference_rank=4, target_rank=5)) == set()
    assert _kinds(one, _row("2", 2, 3, caption="More of it.", reference_rank=1, target_rank=2)) == {"rank-conflict"}


@pytest.mark.parametrize(
    ("answers", "kinds"),
    [
        ({}, set()),
        ({"1": "[c] None existed", "2": "[cr0] Nothing worth mentioning", "3": "[cr1] Covered in query"}, set()),
        ({"1": None}, {"aux-not-text"}),
        ({"1": 3}, {"aux-not-text"}),
        ({"1": " "}, {"aux-empty"}),
        ({"1": "c0"}, {"aux-code-unknown"}),
        ({"1": "[cr2] Something"}, {"aux-code-unknown", "aux-stray"}),
        ({"1": "none"}, {"aux-placeholder"}),
        ({"1": "closeup"}, set()),
        ({"1": "change cu[ color"}, {"aux-stray"}),
        ({"1": "make it red."}, {"aux-same-as-caption"}),
        ({"1": "white  background "}, {"aux-inner-space", "aux-outer-space"}),
        ({"4": "more"}, {"aux-question-extra"}),
    ],
)
def test_kinds_of_an_auxiliary_row(answers: dict[str, Any], kinds: set[str]) -> None:
    extended = {str(q): "being a photo of a dog" for q in range(4)} | answers
    raw = {"pairid": 1, "reference": "a", "target_hard": "b", "caption_extend": extended}
    found = of_cirr.examine_auxiliary([raw], [_row()], "val")
    assert {i.kind for i in found} == kinds
    assert kinds <= set(KINDS)


def test_kinds_between_the_two_files() -> None:
    answers = dict.fromkeys(of_cirr.QUESTIONS, "being a photo of a dog")
    raw = {"pairid": 1, "reference": "a", "target_hard": "b", "caption_extend": answers}

    def kinds(*raws: Any) -> list[tuple[str, str]]:
        return [(i.kind, i.id) for i in of_cirr.examine_auxiliary(raws, [_row()], "val")]

    assert kinds(raw, raw) == [("aux-row-repeated", "1")]
    assert kinds() == [("aux-row-missing", "1")]
    assert kinds(raw, raw | {"pairid": 2}) == [("aux-row-extra", "2")]
    assert kinds(raw | {"reference": "c"}) == [("aux-mismatch", "1")]
    assert kinds(raw, "x") == [("aux-row-malformed", "row 1")]
    del answers["2"]
    assert kinds(raw) == [("aux-question-missing", "1")]


@pytest.mark.parametrize(
    ("captions", "kinds"),
    [
        (("is red", "has sleeves"), set()),
        (("is red",), {"captions-not-two"}),
        (("is red", "Is  red "), {"captions-equal", "caption-inner-space", "caption-outer-space"}),
        (("is red", ""), {"caption-empty"}),
        (("", ""), {"text-empty", "captions-equal", "caption-empty"}),
        (("is red", "."), {"caption-no-letters"}),
        (("is red", "2"), {"caption-no-letters"}),
        (("is red", "N/A"), {"caption-placeholder", "caption-one-word"}),
        (("is ombré", "is dark\\er"), {"caption-non-ascii", "caption-stray"}),
        (("is\x00 red", "has sleeves"), {"caption-control"}),
        (("is red", "very " * 41 + "red"), {"caption-long"}),
    ],
)
def test_kinds_of_a_fashion_row(captions: tuple[str, ...], kinds: set[str]) -> None:
    row = fashion_iq.Row("dress-val-0", "a", "b", captions)
    found = of_fashion.examine([row], "val", NAMES, True)
    assert {i.kind for i in found} == kinds
    assert len(found) == len(kinds)


def test_kinds_of_fashion_images_and_repeats() -> None:
    def kinds(*rows: tuple[str, str | None], texts: tuple[str, ...] = ("is red", "is long")) -> set[str]:
        parsed = [
            fashion_iq.Row(f"dress-val-{n}", r, t, (texts[n % len(texts)], "x y")) for n, (r, t) in enumerate(rows)
        ]
        return {i.kind for i in of_fashion.examine(parsed, "val", NAMES, True)}

    assert kinds(("a", "b"), ("b", "a")) == set()
    assert kinds(("a", "a")) == {"target-is-reference"}
    assert kinds(("x", "b"), ("a", "y")) == {"reference-not-listed", "target-not-listed"}
    assert kinds(("a", None)) == {"target-missing"}
    assert kinds(("a", "b"), ("a", "b")) == {"pair-repeated"}
    assert kinds(("a", "b"), ("a", "b"), texts=("is red",)) == {"row-repeated"}
    assert kinds(("a", "b"), ("a", "c"), texts=("is red",)) == {"query-repeated"}


@given(st.text())
def test_no_text_breaks_the_checks_and_all_kinds_are_catalogued(text: str) -> None:
    assert set(caption_kinds(text)) <= set(KINDS)
    assert {f"aux-{ending}" for ending in text_kinds(text)} <= set(KINDS)
