from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neucore_xl.language.sequence import (
    OPERATION_INDEX,
    OPERATIONS,
    FusionSequence,
    Operation,
    Step,
    check_sequence,
    clip_steps,
    is_traceable,
    word_spans,
    words,
)


def sequence(text: str, *phrases: str) -> FusionSequence:
    return FusionSequence(text, tuple(Step(op, (), p) for op, p in zip(OPERATIONS, phrases, strict=False)))


def test_operations_keep_their_index() -> None:
    names = (
        "cardinality addition negation direct_addressing compare_change comparative spatial_background viewpoint keep"
    )
    assert [op.value for op in OPERATIONS] == names.split()
    assert OPERATION_INDEX[Operation.KEEP] == 8


@pytest.mark.parametrize(
    ("phrase", "traceable"),
    [("ADD  a dog", True), ("a cat", True), ("add cat", True), ("cat add", False), ("add a bird", False)],
)
def test_traceable(phrase: str, traceable: bool) -> None:
    assert is_traceable(phrase, "Add a dog, then a cat") is traceable


def test_sound_sequence_has_no_problem() -> None:
    sound = FusionSequence("Add a dog", (Step(Operation.ADDITION, ("add", "dog"), "Add a dog"),))
    assert check_sequence(sound, max_steps=1) == []
    assert check_sequence(FusionSequence(" ", ()), max_steps=1) == []


def test_every_problem_is_named() -> None:
    bad = FusionSequence(
        "Add a dog",
        (
            Step(Operation.ADDITION, ("Dog", "red cat", "x", "x"), "Add a cat"),
            Step("add", (), " "),  # type: ignore[arg-type]
        ),
    )
    problems = "\n".join(check_sequence(bad, max_steps=1))
    for part in (
        "2 steps, at most 1",
        "step 1: the phrase 'Add a cat' is not of",
        "concept 'Dog'",
        "concept 'red cat'",
        "step 1: a concept is named twice",
        "step 2: unknown operation",
        "step 2: blank phrase",
    ):
        assert part in problems
    assert check_sequence(FusionSequence("x", ()), max_steps=1) == ["no step for a sentence that is not blank"]


def test_clip_merges_the_tail_into_the_last_step() -> None:
    full = sequence("add a dog, no cat and bigger, closer", "add a dog", "no cat", "bigger", "closer")
    clipped = clip_steps(full, 2)
    assert clipped.steps[0] == full.steps[0]
    assert clipped.steps[1] == Step(OPERATIONS[1], (), "no cat and bigger, closer")
    assert check_sequence(clipped, max_steps=2) == []
    assert clip_steps(full, 4) is full
    disordered = sequence("red and blue", "blue", "red")
    assert clip_steps(disordered, 1).steps[0].phrase == "blue, red"
    with pytest.raises(ValueError, match="at least 1"):
        clip_steps(full, 0)


def test_clip_unites_concepts_in_order() -> None:
    steps = tuple(Step(Operation.KEEP, c, p) for c, p in ((("a",), "a"), (("b", "c"), "b c"), (("c", "d"), "c d")))
    assert clip_steps(FusionSequence("a b c c d", steps), 2).steps[1].concepts == ("b", "c", "d")


def test_word_spans_follow_the_order_of_the_phrases() -> None:
    sentence = words("a dog and a dog and a cat")
    assert word_spans([["a", "dog"], ["a", "dog"]], sentence) == [[0, 1], [3, 4]]
    assert word_spans([["a", "cat"], ["a", "dog"]], sentence) == [[6, 7], [0, 1]]
    assert word_spans([["dog", "cat", "bird"], []], sentence) == [[1, 7], []]


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=12), st.data())
def test_a_piece_of_a_sentence_is_found_where_its_words_are(sentence: list[str], data: st.DataObject) -> None:
    begin = data.draw(st.integers(0, len(sentence) - 1))
    end = data.draw(st.integers(begin + 1, len(sentence)))
    (span,) = word_spans([sentence[begin:end]], sentence)
    assert [sentence[i] for i in span] == sentence[begin:end]
