"""The control sequences of an ablation: what they keep of a plan, and what they take away."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from neucore_xl.config.schema import FusionSettings, LanguageSettings
from neucore_xl.language.planners.controls import reordered, shuffled, single
from neucore_xl.language.planning import sequences_for
from neucore_xl.language.sequence import OPERATIONS, FusionSequence, Operation, Step, check_sequence

steps = st.lists(st.builds(Step, st.sampled_from(OPERATIONS), st.just(()), st.text("abc", min_size=1)), max_size=4)
plans = st.dictionaries(st.text(), steps, max_size=8).map(
    lambda found: {text: FusionSequence(text, tuple(own)) for text, own in found.items()}
)


@given(st.lists(st.text(), max_size=8))
def test_single_is_one_sound_step_that_says_it_all(texts: list[str]) -> None:
    for text, sequence in single(texts).items():
        assert sequence.text == text
        assert len(sequence.steps) == bool(text.strip())
        assert not check_sequence(sequence, max_steps=1)


@given(plans)
def test_shuffled_deals_every_sequence_once_and_none_to_its_own_sentence(planned: dict[str, FusionSequence]) -> None:
    dealt = shuffled(planned)
    assert dealt.keys() == planned.keys()
    assert all(sequence.text == text for text, sequence in dealt.items())
    assert sorted(map(repr, (s.steps for s in dealt.values()))) == sorted(
        map(repr, (s.steps for s in planned.values()))
    )
    numbered = {t: FusionSequence(t, (Step(Operation.KEEP, (t,), "x"),)) for t, s in planned.items() if s.steps}
    if len(numbered) > 1:
        assert all(s.steps != numbered[t].steps for t, s in shuffled(numbered).items())


@given(plans)
def test_reordered_keeps_the_steps_and_never_their_order(planned: dict[str, FusionSequence]) -> None:
    for text, sequence in reordered(planned).items():
        own = planned[text].steps
        assert sorted(map(repr, sequence.steps)) == sorted(map(repr, own))
        assert (sequence.steps == own) == (len(set(own)) < 2)


@given(plans)
def test_controls_depend_on_the_sentences_alone(planned: dict[str, FusionSequence]) -> None:
    backwards = dict(reversed(planned.items()))
    assert shuffled(backwards) == shuffled(planned)
    assert reordered(backwards) == reordered(planned)


def test_the_switch_reaches_every_control() -> None:
    texts = ["add a dog and remove the cat", "make it bigger, zoom in", " ", "two red chairs"]
    language = LanguageSettings()
    plan = sequences_for(texts, FusionSettings(sequence="clauses"), language)
    assert [len(plan[t].steps) for t in texts] == [2, 2, 0, 1]
    assert sequences_for(texts, FusionSettings(sequence="single"), language) == single(texts)
    assert sequences_for(texts, FusionSettings(sequence="shuffled"), language) == shuffled(plan)
    swapped = sequences_for(texts, FusionSettings(sequence="reordered"), language)
    assert swapped[texts[0]].steps == plan[texts[0]].steps[::-1]
