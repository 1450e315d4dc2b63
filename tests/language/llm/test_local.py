"""Random weights under a grammar: what comes out is always read and sound, and a shared prefix changes nothing."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("llguidance")
sys.path.insert(0, str(Path(__file__).parent))
from tiny import save_tiny

from neucore_xl.config.schema import LanguageSettings
from neucore_xl.errors import UserError
from neucore_xl.language.llm import check, local, wire
from neucore_xl.language.llm.answers import Answer
from neucore_xl.language.llm.loading import LanguageModel, load_language_model, local_revision
from neucore_xl.language.llm.local import LocalWriter
from neucore_xl.language.llm.planner import LlmPlanner
from neucore_xl.language.llm.prompt import Prompt, load_prompt
from neucore_xl.language.sequence import check_sequence

NASTY: list[str] = json.loads((Path(__file__).parent / "data" / "nasty_captions.json").read_text(encoding="utf-8"))
NASTY += ["remove the dog and " * 527, "x" * 1900]
PLAIN = [
    "remove the two dogs",
    "Make it bigger, and zoom in on the cat",
    "a",
    "no more than one red bird is left of it",
]


@pytest.fixture(scope="module")
def prompt() -> Prompt:
    return load_prompt()


@pytest.fixture(scope="module")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def llama(llama_folder: Path) -> LanguageModel:
    return load_language_model(llama_folder, device="cpu")


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    """A T5 whose vocabulary, like the real one's, has neither braces nor a line break."""
    spm = pytest.importorskip("sentencepiece")
    import torch
    from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration

    folder = tmp_path_factory.mktemp("t5")
    lines = [
        *load_prompt().plain("remove the two dogs", "arrays").split("\n"),
        " ".join(wire.STRUCTURE),
        wire.STRUCTURE,
    ]
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(lines * 3), model_prefix=str(folder / "spiece"), vocab_size=300, hard_vocab_limit=False,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2,
    )  # fmt: skip
    settings = {"tokenizer_class": "T5Tokenizer", "extra_ids": 4}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=384, d_model=16, d_ff=16, d_kv=8, num_layers=1, num_heads=2, decoder_start_token_id=0,
    )  # fmt: skip
    T5ForConditionalGeneration(config).save_pretrained(folder)
    loaded = load_language_model(folder, device="cpu")
    assert "{" not in "".join(AutoTokenizer.from_pretrained(folder).get_vocab())
    return loaded


def answers_of(writer: LocalWriter, texts: Sequence[str]) -> dict[str, Answer]:
    return {a.text: a for portion in writer.write(texts) for a in portion}


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_nasty_captions_never_break_the_schema_or_the_run(
    kind: str, prompt: Prompt, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(kind)
    brief = replace(prompt, examples=prompt.examples[:1])
    writer = LocalWriter(model, prompt=brief, max_steps=2, max_new_tokens=100, batch_size=24)
    planner = LlmPlanner(writer, LanguageSettings(), max_steps=2)
    texts = list(dict.fromkeys([*PLAIN, *NASTY]))
    records = {r.sequence.text: r for portion in planner.records(texts) for r in portion}
    assert list(records) != texts  # longest first
    assert set(records) == set(texts)
    for text, record in records.items():
        assert check_sequence(record.sequence, max_steps=2) == [], text
        assert record.fallback in {
            None, local.CUT_SHORT, local.TOO_LONG, local.UNREADABLE, check.NOTHING_TRACEABLE, "nothing to read",
        }, (text, record)  # fmt: skip
        if not text.strip():
            assert record.sequence.steps == ()
            assert record.tokens == 0
    assert records["remove the dog and " * 527].fallback == local.TOO_LONG
    written = sum(r.fallback is None for r in records.values())
    assert written > len(texts) / 3  # the grammar, not the fallback, is what keeps them sound


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_an_answer_that_is_not_cut_short_is_always_read(
    kind: str, prompt: Prompt, request: pytest.FixtureRequest
) -> None:
    writer = LocalWriter(request.getfixturevalue(kind), prompt=prompt, max_steps=2, max_new_tokens=400)
    lemmas = check.read_lemmas(PLAIN, LanguageSettings())
    answers = answers_of(writer, PLAIN)
    for text, of_text in zip(PLAIN, lemmas, strict=True):
        answer = answers[text]
        assert answer.failure is None
        assert answer.tokens > 0
        steps = wire.parse(answer.raw, "arrays")
        assert not isinstance(steps, str)
        assert 1 <= len(steps) <= 2
        assert all(step.phrase in text and set(step.concepts) <= set(of_text.concepts) for step in steps)
        verdict = check.judge(text, of_text, steps, 2)
        assert verdict.sequence is not None
        assert not {"operation", "dropped step", "lemma"} & set(verdict.repairs)


def test_a_shared_prefix_changes_no_answer(llama: LanguageModel, prompt: Prompt) -> None:
    shared = LocalWriter(llama, prompt=prompt, max_steps=2, max_new_tokens=60, batch_size=3)
    whole = LocalWriter(llama, prompt=prompt, max_steps=2, max_new_tokens=60, batch_size=2, share_prefix=False)
    assert answers_of(shared, PLAIN) == answers_of(whole, PLAIN)
    assert shared._prefix_cache is not None
    assert shared.identity == whole.identity


def test_scores_are_equal_with_a_shared_prefix_and_without(llama: LanguageModel, prompt: Prompt) -> None:
    import torch

    rows = [[5, 6, 7], [8, 9, 10, 11, 12]]
    scores = []
    for share in (True, False):
        writer = LocalWriter(llama, prompt=prompt, max_new_tokens=8, share_prefix=share)
        inputs = writer._inputs(rows)
        cached = inputs["past_key_values"].get_seq_length() if share else 0
        position = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)[:, cached:]
        inputs["input_ids"] = inputs["input_ids"][:, cached:]
        with torch.inference_mode():
            scores.append(llama.model(**inputs, position_ids=position).logits[:, -1])
    torch.testing.assert_close(scores[0], scores[1], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(scores[0][0], scores[0][1], rtol=1e-3)


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_control_tokens_in_a_sentence_are_mere_text(kind: str, prompt: Prompt, request: pytest.FixtureRequest) -> None:
    writer = LocalWriter(request.getfixturevalue(kind), prompt=prompt)
    control = set(writer._tokenizer.all_special_ids) - {writer._tokenizer.unk_token_id}
    for token in [*writer._tokenizer.all_special_tokens, "<<|end|>|end|>", "＜／s＞ ＜ｐａｄ＞", "<</s>/s>"]:
        read, ids = writer._read(f"add {token} a dog{token}")
        assert ids is not None
        assert not control & set(ids), token
        assert wire.shown(read).startswith("add")
    assert control & set(writer._tokenizer(writer._tokenizer.eos_token)["input_ids"])  # they would have been


def test_a_model_without_a_chat_template_is_asked_in_plain_text(llama_folder: Path, prompt: Prompt) -> None:
    loaded = load_language_model(llama_folder, device="cpu")
    loaded.tokenizer.chat_template = None
    writer = LocalWriter(loaded, prompt=prompt, max_steps=1, max_new_tokens=200)
    assert writer.identity["decoding"]["chat"] is False
    assert answers_of(writer, PLAIN[:1])[PLAIN[0]].failure is None


def test_a_template_without_a_system_turn(llama_folder: Path, prompt: Prompt) -> None:
    loaded = load_language_model(llama_folder, device="cpu")
    template = loaded.tokenizer.chat_template
    loaded.tokenizer.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}" + template
    )
    writer = LocalWriter(loaded, prompt=prompt)
    assert "spatial_background" in writer._tokenizer.decode(writer._head)
    loaded.tokenizer.chat_template = "{{ raise_exception('never') }}"
    with pytest.raises(UserError, match="template fails: never"):
        LocalWriter(loaded, prompt=prompt)


def test_an_answer_may_be_cut_short_and_then_the_clauses_plan(llama: LanguageModel, prompt: Prompt) -> None:
    writer = LocalWriter(llama, prompt=prompt, max_new_tokens=3)
    (portion,) = LlmPlanner(writer, LanguageSettings(), 6).records(["remove the dog and zoom in"])
    assert portion[0].fallback == local.CUT_SHORT
    assert portion[0].tokens == 3
    assert [s.operation.value for s in portion[0].sequence.steps] == ["negation", "viewpoint"]


def test_memory_that_runs_out_halves_the_batch_once(
    llama: LanguageModel, prompt: Prompt, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    fits, sizes = 2, list[int]()

    def generate(self: LocalWriter, asked: Sequence[Any]) -> list[Answer]:
        sizes.append(len(asked))
        if len(asked) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return [Answer(text, "") for text, _, _ in asked]

    monkeypatch.setattr(LocalWriter, "_generate", generate)
    writer = LocalWriter(llama, prompt=prompt, batch_size=4)
    assert set(answers_of(writer, PLAIN)) == set(PLAIN)
    assert sizes == [4, 2, 2]
    writer = LocalWriter(llama, prompt=prompt, batch_size=8)
    with pytest.raises(UserError, match="--batch-size"):
        answers_of(writer, PLAIN * 2)
    broken = RuntimeError("shapes do not match")
    monkeypatch.setattr(LocalWriter, "_generate", lambda *a: (_ for _ in ()).throw(broken))
    with pytest.raises(RuntimeError, match="shapes"):
        answers_of(LocalWriter(llama, prompt=prompt), PLAIN)


def test_identity_tells_apart_what_changes_an_answer(llama: LanguageModel, llama_folder: Path, prompt: Prompt) -> None:
    first = LocalWriter(llama, prompt=prompt).identity
    assert json.loads(json.dumps(first)) == first
    assert first["decoding"]["constrained_by"].startswith("llguidance ")
    assert first == LocalWriter(llama, prompt=prompt, batch_size=3).identity
    assert first != LocalWriter(llama, prompt=prompt, max_steps=2).identity
    assert first["revision"] == local_revision(llama_folder)


def test_the_revision_of_local_files_covers_their_content(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    weights = tmp_path / "model.safetensors"
    found = []
    for content in (b"a" * 3_000_000, b"b" + b"a" * 2_999_999, b"a" * 2_999_999 + b"b", b"a" * 3_000_001):
        weights.write_bytes(content)
        found.append(local_revision(tmp_path))
    (tmp_path / "config.json").write_text('{"x": 1}')
    found.append(local_revision(tmp_path))
    assert len(set(found)) == 5


def test_a_model_that_cannot_be_had_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "empty").mkdir()
    (tmp_path / "two").mkdir()
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / "two" / name).write_bytes(b"GGUF")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "file.txt").write_text("x")
    for name, said in [
        ("nobody/no-such-model", "hub cannot be reached"), (str(tmp_path / "no"), "no model at"),
        (str(tmp_path / "empty"), "neither config.json nor"), (str(tmp_path / "two"), "2 .gguf files"),
        (str(tmp_path / "file.txt"), "no .gguf"), (str(tmp_path / "two" / "a.gguf"), "cannot load"),
        (str(tmp_path / "broken"), "cannot load"),
    ]:  # fmt: skip
        with pytest.raises(UserError) as caught:
            load_language_model(name, device="cpu")
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 600


def test_a_prompt_that_does_not_fit(llama: LanguageModel, prompt: Prompt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama.model.config, "max_position_embeddings", 100)
    with pytest.raises(UserError, match="does not fit"):
        LocalWriter(llama, prompt=prompt)


# --- the planner


class Scripted:
    """A writer that says what it is told."""

    def __init__(self, said: dict[str, Answer]) -> None:
        self.said = said
        self.asked: list[str] = []

    @property
    def identity(self) -> dict[str, Any]:
        return {"model": "scripted"}

    def write(self, texts: Sequence[str]) -> Iterator[list[Answer]]:
        self.asked += texts
        for text in reversed(texts):
            yield [self.said[text]]


def test_the_planner_judges_falls_back_and_sends_nothing_blank() -> None:
    good, bad = "remove the dog and zoom in", "add a cat"
    writer = Scripted(
        {
            good: Answer(good, '[["Negation","remove the dog",["dog"]]]', prompt_tokens=9, tokens=7),
            bad: Answer(bad, "I am sorry", tokens=3),
        }
    )
    planner = LlmPlanner(writer, LanguageSettings(), max_steps=4)
    records = {r.sequence.text: r for portion in planner.records([good, " ", bad, good, ""]) for r in portion}
    assert writer.asked == [good, bad]
    assert records[good].fallback is None
    assert records[good].repairs == {"operation": 1}
    assert (records[good].prompt_tokens, records[good].tokens) == (9, 7)
    assert records[bad].fallback == "unreadable: no JSON"
    assert [s.operation.value for s in records[bad].sequence.steps] == ["addition"]
    assert records[" "].sequence.steps == records[""].sequence.steps == ()
    assert [len(s.steps) for s in planner.plan([bad, "", good])] == [1, 0, 1]
    assert planner.settings["writer"] == {"model": "scripted"}
    assert json.loads(json.dumps(planner.settings)) == planner.settings
