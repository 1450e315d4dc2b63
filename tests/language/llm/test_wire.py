from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neucore_xl.config.schema import LanguageSettings
from neucore_xl.errors import UserError
from neucore_xl.language.llm import wire
from neucore_xl.language.llm.check import NO_OPERATION, NO_STEPS, NOTHING_TRACEABLE, Lemmas, judge, read_lemmas
from neucore_xl.language.llm.prompt import DEFAULT, load_prompt
from neucore_xl.language.llm.wire import FORMS, RawStep
from neucore_xl.language.sequence import OPERATIONS, FusionSequence, Operation, Step, check_sequence

NASTY: list[str] = json.loads((Path(__file__).parent / "data" / "nasty_captions.json").read_text(encoding="utf-8"))
NASTY += ["remove the dog and " * 527, "x" * 10_000]  # ten thousand characters

TEXT = "Remove the dogs, and Zoom in on 2 cats"
LEMMAS = Lemmas(
    ("remove", "dog", "zoom", "cat"),
    {"remove": "remove", "the": "the", "dogs": "dog", "dog": "dog", "zoom": "zoom", "in": "in", "on": "on", "2": "2",
     "cats": "cat", "cat": "cat", "and": "and"},
)  # fmt: skip


def judged(*steps: RawStep, max_steps: int = 3) -> tuple[list[Step], dict[str, int]]:
    verdict = judge(TEXT, LEMMAS, steps, max_steps)
    assert verdict.sequence is not None
    assert verdict.reason is None
    assert check_sequence(verdict.sequence, max_steps=max_steps) == []
    return list(verdict.sequence.steps), dict(verdict.repairs)


# --- the wire


@pytest.mark.parametrize("form", FORMS)
def test_what_is_spelled_is_read_back(form: wire.Form) -> None:
    for example in load_prompt().examples:
        read = wire.parse(wire.spell(example.steps, form), form)
        assert [(s.operation, s.phrase, s.concepts, s.implied) for s in read] == [
            (s.operation.value, s.phrase, s.concepts, s.implied) for s in example.steps
        ]


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ("", "no JSON"), ("Sure! I cannot", "no JSON"), ('[["keep","a"', "broken"), ("[" * 19_000, "nested"),
        ('{"steps": 7}', "no list"), ("[true, null]", "no step"), ("[[]]", "no step"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_has_a_reason(raw: str, reason: str) -> None:
    form: wire.Form = "objects" if raw.startswith("{") else "arrays"
    found = wire.parse(raw, form)
    assert isinstance(found, str)
    assert found.startswith("unreadable")
    assert reason in found


def test_numbers_of_any_length_and_wrong_types_are_read_without_harm() -> None:
    raw = '[["keep",' + "9" * 6000 + ',["a",null,[1],{"b":2}],7],{"operation":"keep","phrase":"x"}]'
    assert wire.parse(raw, "arrays") == (RawStep("keep", "9" * 6000, ("a", "", "", ""), ("7",)), RawStep("keep", "x"))


def test_text_around_the_json_is_passed_over() -> None:
    assert wire.parse('Steps:\n```json\n{"steps":[{"operation":"keep","phrase":"a"}]}\n```', "objects") == (
        RawStep("keep", "a"),
    )


def test_the_schema_asks_for_what_the_objects_form_spells() -> None:
    schema = wire.json_schema(4)
    assert schema["properties"]["steps"]["maxItems"] == 4
    step = schema["properties"]["steps"]["items"]
    assert step["properties"]["operation"]["enum"] == [op.value for op in OPERATIONS]
    (spelled,) = json.loads(wire.spell([Step(Operation.KEEP, ("a",), "a")], "objects"))["steps"]
    assert set(step["required"]) == set(spelled) == set(step["properties"])


# --- the judge


def test_a_sound_answer_is_taken_as_it_is() -> None:
    steps, repairs = judged(RawStep("negation", "Remove the dogs", ("remove", "dog"), ("animal",)))
    assert steps == [Step(Operation.NEGATION, ("remove", "dog"), "Remove the dogs", ("animal",))]
    assert repairs == {}


@pytest.mark.parametrize("name", ["Negation", " NEGATION.", "negaton", "negate", "neg-ation"])
def test_near_misses_of_an_operation(name: str) -> None:
    steps, repairs = judged(RawStep(name, "the dogs"))
    assert steps[0].operation is Operation.NEGATION
    assert repairs == {"operation": 1}


@pytest.mark.parametrize(
    ("said", "exact"),
    [
        ("zoom IN", "Zoom in"), ("remove   the dogs.", "Remove the dogs"), ("the dogs and zoom", "the dogs, and Zoom"),
        ("remove dogs", "Remove the dogs"), ("remove the dog", "Remove the dogs"),
        ("zoom on 2 cat", "Zoom in on 2 cats"),
    ],
)  # fmt: skip
def test_a_phrase_is_put_back_to_the_exact_words(said: str, exact: str) -> None:
    steps, repairs = judged(RawStep("keep", said))
    assert steps[0].phrase == exact
    assert repairs == {"phrase": 1}


@pytest.mark.parametrize("said", ["", "og", "the horse", "cats zoom", "remove cats", "  ", "Remove the horse"])
def test_what_is_not_of_the_sentence_is_dropped_or_rejected(said: str) -> None:
    wrong = RawStep("keep", said)
    assert judge(TEXT, LEMMAS, [wrong], 3).reason == NOTHING_TRACEABLE
    steps, repairs = judged(wrong, RawStep("negation", "the dogs"))
    assert [s.phrase for s in steps] == ["the dogs"]
    assert repairs == {"dropped step": 1}


def test_rejections() -> None:
    assert judge(TEXT, LEMMAS, [], 3).reason == NO_STEPS
    assert judge(TEXT, LEMMAS, [RawStep("xyz", "the dogs")], 3).reason == NO_OPERATION


def test_concepts_become_lemmas_or_implied_or_nothing() -> None:
    steps, repairs = judged(
        RawStep("keep", "the dogs", ("dogs", "Dog", "red cats", "tree", "x1", ""), ("zoom", "sky", "sea", "air"))
    )
    assert steps[0].concepts == ("dog", "cat", "zoom")
    assert steps[0].implied == ("red", "tree")
    assert repairs == {"lemma": 2, "duplicate": 1, "split": 1, "implied": 3, "dropped concept": 5}


def test_steps_are_ordered_said_once_and_clipped() -> None:
    a, b, c = RawStep("viewpoint", "Zoom in"), RawStep("negation", "Remove the dogs"), RawStep("keep", "2 cats")
    steps, repairs = judged(a, b, c, a)
    assert [s.phrase for s in steps] == ["Remove the dogs", "Zoom in", "2 cats"]
    assert repairs == {"order": 1, "repeated step": 1}
    steps, repairs = judged(b, a, c, max_steps=2)
    assert [s.phrase for s in steps] == ["Remove the dogs", "Zoom in on 2 cats"]
    assert repairs == {"clipped": 1}


def test_a_phrase_that_comes_twice_is_found_behind_the_step_before_it() -> None:
    text = "add a dog left of the cat and add a dog right of it"
    verdict = judge(
        text, Lemmas(), [RawStep("spatial_background", "left of the cat"), RawStep("addition", "add a dog")], 6
    )
    assert verdict.sequence is not None
    assert [s.operation.value for s in verdict.sequence.steps] == ["spatial_background", "addition"]
    assert "order" not in verdict.repairs


STEP = st.builds(
    RawStep,
    st.sampled_from([op.value for op in OPERATIONS]) | st.text(max_size=30),
    st.text(max_size=40) | st.sampled_from(["Remove the dogs", "zoom", "in on", "2", "cats and dogs"]),
    st.lists(st.text(max_size=12) | st.sampled_from(["dog", "cats"]), max_size=6).map(tuple),
    st.lists(st.text(max_size=12) | st.just("sky"), max_size=4).map(tuple),
)
RAW = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda x: st.lists(x) | st.dictionaries(st.text(), x),
)


@given(
    st.text(alphabet=st.characters(codec=None), max_size=60) | st.sampled_from([t[:300] for t in NASTY]),
    st.lists(STEP, max_size=8),
    st.integers(1, 4),
)
def test_any_steps_for_any_text_are_sound_or_have_a_reason(text: str, steps: list[RawStep], most: int) -> None:
    quoting = [RawStep(s.operation, text[: len(s.phrase)], s.concepts, s.implied) for s in steps[::2]]
    words = {w.lower(): w.lower() for w in text.split() if w.lower() == w.lower().lower()}
    verdict = judge(text, Lemmas(tuple(words), words), [*steps, *quoting], most)
    if verdict.sequence is None:
        assert verdict.reason
    else:
        assert check_sequence(verdict.sequence, max_steps=most) == []
        assert all(s.phrase in text for s in verdict.sequence.steps) or "clipped" in verdict.repairs


@given(st.text() | RAW.map(json.dumps) | st.text().map(lambda t: f'[["keep",{t}'), st.sampled_from(FORMS))
def test_any_answer_is_read_or_has_a_reason(raw: str, form: wire.Form) -> None:
    found = wire.parse(raw, form)
    if isinstance(found, str):
        assert found.startswith("unreadable")
    else:
        assert all(isinstance(s, RawStep) and isinstance(s.operation, str) for s in found)


def test_nasty_captions_have_lemmas_and_grammars_that_the_judge_agrees_with() -> None:
    for text, lemmas in zip(NASTY, read_lemmas(NASTY, LanguageSettings()), strict=True):
        verdict = judge(text, lemmas, [RawStep("keep", wire.shown(text), lemmas.concepts)], 6)
        assert (verdict.sequence is None) == (not wire.shown(text).strip(".?!,;: ")), (text, verdict)
        assert (wire.grammar(text, lemmas.concepts, 6) is None) == (
            not wire.shown(text) or text[:100] in {"x" * 100, "a" * 100}
        )
        if verdict.sequence is not None:
            assert check_sequence(FusionSequence(text, verdict.sequence.steps), max_steps=6) == []


# --- the prompt


def test_the_shipped_prompt_shows_every_operation_and_sound_examples() -> None:
    prompt = load_prompt()
    assert {s.operation for e in prompt.examples for s in e.steps} == set(OPERATIONS)
    assert {len(e.steps) for e in prompt.examples} == {1, 2, 3}
    for example, lemmas in zip(
        prompt.examples, read_lemmas([e.text for e in prompt.examples], LanguageSettings()), strict=True
    ):
        raw = wire.parse(wire.spell(example.steps, "arrays"), "arrays")
        assert not isinstance(raw, str)
        assert judge(example.text, lemmas, raw, 6) == type(judge("", Lemmas(), [], 1))(example, {}, None)


@pytest.mark.parametrize("form", FORMS)
def test_what_stands_before_the_sentence_is_the_same_for_all(form: wire.Form) -> None:
    prompt = load_prompt()
    one, other = prompt.messages("a red dog", form), prompt.messages("nothing", form)
    assert one[:-1] == other[:-1]
    assert [m["role"] for m in one] == ["system"] + ["user", "assistant"] * len(prompt.examples) + ["user"]
    assert all(op.value in one[0]["content"] for op in OPERATIONS)
    assert "{" not in prompt.plain("x", "arrays")
    assert prompt.plain("a\n\ud800 b", form).count("Sentence:\na ? b\nSteps:\n") == 1


def test_a_prompt_of_the_users_own(tmp_path: Path) -> None:
    from importlib import resources

    shipped = (resources.files("neucore_xl.language.llm") / "prompts" / f"{DEFAULT}.yaml").read_text(encoding="utf-8")
    own = tmp_path / "own.yaml"
    own.write_text("# a remark\n" + shipped, encoding="utf-8")
    assert load_prompt(own).version == load_prompt().version
    own.write_text(shipped.replace("Take away", "Now take away"), encoding="utf-8")
    assert load_prompt(own).version != load_prompt().version
    assert load_prompt(own).version.startswith(DEFAULT)
    for old, new, said in [
        ("question:", "query:", "lacks question"), ("keep: something", "hold: something", "hold"),
        ("operation: viewpoint", "operation: view", "example 2"), ("{sentence}", "it", "{sentence}"),
        ("phrase: Keep the sofa", "phrase: Keep the chair", "example 5"), ("name: edit", "name: [", "YAML"),
        ("examples:\n  - ", "examples:\n  x: ", "YAML"),
    ]:  # fmt: skip
        own.write_text(shipped.replace(old, new, 1), encoding="utf-8")
        with pytest.raises(UserError, match=r"own\.yaml") as caught:
            load_prompt(own)
        assert said in str(caught.value)
    with pytest.raises(UserError, match=DEFAULT):
        load_prompt("nowhere.yaml")
