"""``benchmarks/planners.py``: the planner table, its figures and its examples."""

from __future__ import annotations

import importlib.util
import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neucore_xl.language.sequence import FusionSequence, Operation, Step
from neucore_xl.language.sequence_file import read_sequences, write_sequences

ROOT = Path(__file__).resolve().parents[2]
REAL = ROOT / "tests" / "language" / "data" / "real_sentences.jsonl"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("planner_table", ROOT / "benchmarks" / "planners.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


table = load()
Run = Callable[..., int]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    def call(*arguments: str | Path) -> int:
        monkeypatch.setattr(sys, "argv", ["planners.py", *map(str, arguments)])
        return int(table.main())

    return call


def test_a_file_scores_as_its_sequences_and_notes_say(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = read_sequences(REAL).by_text
    notes = [{"fallback": "cut short"} if i < 7 else {"repairs": {"order": 1}} if i < 21 else {} for i in range(70)]
    write_sequences(tmp_path / "p.jsonl", zip(truth.values(), notes, strict=True), planner="llm", settings={})
    out = tmp_path / "out.json"
    assert run("--truth", REAL, "--file", f"mine={tmp_path / 'p.jsonl'}", "--json", out) == 0
    score = json.loads(out.read_text())["planners"]["mine"]
    assert score["operation_accuracy"]["value"] == score["exact_match"]["value"] == score["kendall_tau"]["value"] == 1
    assert score["rates"]["validity"]["value"] == pytest.approx(0.9)
    assert score["rates"]["repaired"]["value"] == pytest.approx(0.2)
    printed = capsys.readouterr().out
    assert score["of_answers_taken"]["sentences"] == 63
    assert "cut short 10.0 %" in printed
    assert "real_sentences.jsonl: 70 sentences" in printed


def test_rules_are_planned_timed_and_limited(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    assert run("clauses", "single", "--truth", REAL, "--limit", "10", "--json", out) == 0
    report = json.loads(out.read_text())
    assert report["sentences"] == report["planners"]["clauses"]["sentences"] == 10
    assert report["planners"]["single"]["predicted_steps"] == 10
    printed = capsys.readouterr().out
    assert "100.0 % [100.0, 100.0]" in printed  # rules are always sound
    assert "seconds a sentence" in printed


def test_examples_are_a_table_that_a_caption_cannot_break(run: Run, tmp_path: Path) -> None:
    root = tmp_path / "cirr"
    (root / "captions").mkdir(parents=True)
    nasty = "remove | the <b>dog</b>\nand add *two* cats"
    rows = [
        {
            "pairid": i, "reference": f"dev-{i}-0-img0", "target_hard": f"dev-{i}-1-img0", "target_soft": {},
            "caption": c,
            "img_set": {
                "id": i, "members": [f"dev-{i}-{k}-img0" for k in range(6)], "reference_rank": 0, "target_rank": 1,
            },
        }
        for i, c in enumerate([nasty, "zoom in", "a red dog"])
    ]  # fmt: skip
    (root / "captions" / "cap.rc2.val.json").write_text(json.dumps(rows))
    names = {name: f"./dev/{name}.png" for row in rows for name in row["img_set"]["members"]}
    (root / "image_splits").mkdir()
    (root / "image_splits" / "split.rc2.val.json").write_text(json.dumps(names))
    page, out = tmp_path / "page.md", tmp_path / "out.json"
    assert run("clauses", "--real", root, "--examples", "3", "--write", page, "--json", out) == 0
    lines = [line for line in page.read_text().splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 3
    assert {line.count("|") for line in lines} == {4}
    assert "<b>" not in page.read_text()
    assert "**viewpoint** zoom in" in page.read_text()
    figures = json.loads(out.read_text())["planners"]["clauses"]
    assert figures["operations"]["viewpoint"]["value"] == pytest.approx(1 / 3)
    assert figures["validity"]["value"] == 1.0


def test_wrong_calls_are_one_sentence(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lone = FusionSequence("a dog", (Step(Operation.KEEP, (), "a dog"),))
    write_sequences(tmp_path / "p.jsonl", [lone], planner="hand", settings={})
    for arguments, said in [
        (("--truth", REAL), "Name at least one planner"),
        (("rules", "--truth", REAL), "unknown planner 'rules'"),
        (("llm", "--truth", REAL), "llm needs --model"),
        (("--truth", REAL, "--file", f"p={tmp_path / 'p.jsonl'}"), "lacks 70 of 70 sentences"),
        (("--truth", REAL, "--file", "p.jsonl"), "--file takes NAME=PATH"),
        (("clauses", "--truth", REAL, "--limit", "0"), "at least one sentence"),
        (("clauses", "--truth", REAL, "--examples", "3"), "belong together"),
        (("clauses", "--real", tmp_path / "none"), "does not exist"),
    ]:
        assert run(*arguments) == 2, arguments
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1


@given(st.integers(1, 300), st.integers(1, 400), st.none() | st.integers(0, 99))
def test_evenly_takes_distinct_texts_in_order(length: int, n: int, seed: int | None) -> None:
    texts = [str(i) for i in range(length)]
    taken = [int(t) for t in table.evenly(texts, n, seed)]
    assert len(taken) == min(n, length)
    assert taken == sorted(set(taken))
    gaps = [b - a for a, b in itertools.pairwise(taken)]
    assert not gaps or max(gaps) - min(gaps) <= 1
