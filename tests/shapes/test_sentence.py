"""Sentences: phrases are their words, the lexicon knows them all, and the operations fit the words."""

from __future__ import annotations

import random
import re
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neucore_xl.language.sequence import FusionSequence, Operation, check_sequence
from neucore_xl.shapes.claims import Statement
from neucore_xl.shapes.difference import difference
from neucore_xl.shapes.lexicon import lemmas, unknown
from neucore_xl.shapes.plan import Plan, plan_split
from neucore_xl.shapes.scene import Group, Palette, Scene
from neucore_xl.shapes.sentence import sentence
from neucore_xl.shapes.write_fashion_iq import captions_of, joined_truth

STAR = Group("star", "red", "plain", "small", 1, (0, 0))
RING = Group("ring", "blue", "striped", "large", 1, (2, 2))
BASE = Scene((STAR, RING), "grey", "plain")


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_split("sentences", 400, Palette())


@pytest.fixture(scope="module")
def told(plan: Plan) -> list[FusionSequence]:
    return [sentence(q.statements, plan.difference(q), q.rng("s")) for q in plan.queries]


def words_in_order(s: FusionSequence) -> None:
    """The phrases stand in the text one after the other, without overlap, and only joints stand between them."""
    at, between = 0, []
    for step in s.steps:
        start = s.text.index(step.phrase, at)
        between.append(s.text[at:start])
        at = start + len(step.phrase)
    assert between[0] == ""
    assert set(between[1:]) <= {" and ", ", ", ", and ", ", then ", ". ", " but ", ", but "}
    assert s.text[at:] in ("", ".")


def test_phrases_are_the_words_of_the_sentence(plan: Plan, told: list[FusionSequence]) -> None:
    for query, s in zip(plan.queries, told, strict=True):
        words_in_order(s)
        assert check_sequence(s, max_steps=4) == []
        assert len(s.steps) == len(query.statements)
        assert s.text == " ".join(s.text.split())
        for step in s.steps:
            assert step.concepts == lemmas(step.phrase)


def test_every_word_is_in_the_lexicon(plan: Plan, told: list[FusionSequence]) -> None:
    gaps = Counter(w for s in told for w in unknown(s.text))
    for query in plan.queries:
        gaps.update(w for s in captions_of(plan, query, "k") for w in unknown(s.text))
    assert not gaps


def test_all_operations_occur_often_and_sentences_differ(told: list[FusionSequence]) -> None:
    share = Counter(op for s in told for op in {step.operation for step in s.steps})
    assert all(share[op] > 0.05 * len(told) for op in Operation)
    assert len({s.text for s in told}) > 0.97 * len(told)
    length = sum(len(s.text.split()) for s in told) / len(told)
    assert 9 < length < 16  # CIRR: 11.3 words
    assert sum(len(s.steps) >= 2 for s in told) > 0.437 * len(told)  # CIRR's statements with conjunction


def test_many_sentences_need_the_reference(told: list[FusionSequence]) -> None:
    leaning = re.compile(
        r"\b(other|more|same|instead|bigger|larger|smaller|it|its|them|they|their|rest|else|opposite|fewer|but|"
        r"closer|further|darker|lighter|brighter|from|higher|lower|up|down|only|everything)\b"
    )
    assert sum(bool(leaning.search(s.text.lower())) for s in told) > 0.7 * len(told)


def test_english_slips_do_not_occur(told: list[FusionSequence]) -> None:
    slips = re.compile(
        r"\b(a [aeio]\w+|an [^aeio ]\w*|(\w+) \2|it are|they is|them is|they has|it have)\b"
        r"|  | ,|,,|\.\."
    )
    bad = [s.text for s in told if slips.search(s.text.lower())]
    assert not bad, bad[:10]


SINGLE = [
    (Statement("remove", 1), replace(BASE, groups=(STAR,)), {Operation.NEGATION}),
    (
        Statement("size", 0, (("sign", 1),)),
        replace(BASE, groups=(replace(STAR, size="large"), RING)),
        {Operation.COMPARATIVE},
    ),
    (
        Statement("set", 0, (("count", 2),)),
        replace(BASE, groups=(replace(STAR, count=2), RING)),
        {Operation.CARDINALITY},
    ),
    (
        Statement("set", 0, (("colour", "green"),)),
        replace(BASE, groups=(replace(STAR, colour="green"), RING)),
        {Operation.CHANGE, Operation.DIRECT},
    ),
    (
        Statement("set", 0, (("place", (0, 2)),)),
        replace(BASE, groups=(replace(STAR, place=(0, 2)), RING)),
        {Operation.SPATIAL},
    ),
    (Statement("view", None, (("background", "pink"),)), replace(BASE, background="pink"), {Operation.SPATIAL}),
    (Statement("zoom", None, (("sign", 1),)), replace(BASE, zoom=1), {Operation.VIEWPOINT}),
    (Statement("keep background"), replace(BASE, zoom=1), {Operation.KEEP}),
]


@pytest.mark.parametrize(("statement", "target", "operations"), SINGLE, ids=[s[0].kind for s in SINGLE])
def test_operations_of_single_statements(statement: Statement, target: Scene, operations: set[Operation]) -> None:
    d = difference(BASE, target)
    seen = {sentence([statement], d, random.Random(seed)).steps[0].operation for seed in range(60)}
    assert seen == operations


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32))
def test_removal_never_names_the_wrong_group(seed: int) -> None:
    s = sentence([Statement("remove", 1)], difference(BASE, replace(BASE, groups=(STAR,))), random.Random(seed))
    text = s.text.lower()
    if "except" in text or "but" in text.split():
        named = "star" in text or "at the top" in text or "on the left" in text
        left = "everything but" in text and not text.startswith("remove")  # "has everything but the ring"
        assert named != left
    else:
        assert "star" not in text


def test_fashion_iq_captions_and_their_joined_truth(plan: Plan) -> None:
    for query in plan.queries[:300]:
        first, second = captions_of(plan, query, "k")
        for caption in (first, second):
            words_in_order(caption)
            assert any(step.operation is not Operation.KEEP for step in caption.steps)
        joined = joined_truth(first, second)
        assert joined.text.startswith(first.text.rstrip(" .?!,") + " and ")
        assert joined.steps == (*first.steps, *second.steps)
        at = 0
        for step in joined.steps:
            at = joined.text.index(step.phrase, at) + len(step.phrase)
