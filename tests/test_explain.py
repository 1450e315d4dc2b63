"""``neucore-xl explain sequence``: what a person sees, and the sentences for wrong calls."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from neucore_xl.cli.explain import app
from neucore_xl.errors import UserError
from neucore_xl.language.llm.answers import Record
from neucore_xl.language.sequence import FusionSequence, Operation, Step
from neucore_xl.language.sequence_file import write_sequences

SENTENCE = "Remove the dogs and zoom in"


def explain(*arguments: str) -> str:
    result = CliRunner(env={"COLUMNS": "120"}).invoke(app, ["sequence", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(*arguments: str) -> str:
    with pytest.raises(UserError) as info:
        CliRunner().invoke(app, ["sequence", *arguments], catch_exceptions=False)
    assert "\n" not in str(info.value)
    return str(info.value)


def stored(tmp_path: Path, sequence: FusionSequence, **notes: object) -> str:
    path = tmp_path / "plans.jsonl"
    write_sequences(path, [(sequence, notes)], planner="llm", settings={})
    return str(path)


def rows(table: str) -> list[list[str]]:
    """The cells of every line that begins with a number."""
    lines = [[cell for cell in line.strip().split("  ") if cell.strip()] for line in table.splitlines()]
    return [[cell.strip() for cell in cells] for cells in lines if cells and cells[0].strip().isdigit()]


def test_a_sentence_becomes_a_table() -> None:
    out = explain(SENTENCE)
    assert rows(out) == [
        ["1", "negation", "Remove the dogs", "remove, dog"],
        ["2", "viewpoint", "zoom in", "zoom"],
    ]
    assert out.rstrip().endswith("Planned by clauses.")


def test_json_is_one_object() -> None:
    report = json.loads(explain(SENTENCE, "--json"))
    assert report["text"] == SENTENCE
    assert report["planner"] == "clauses"
    assert report["steps"][1] == {"operation": "viewpoint", "concepts": ["zoom"], "phrase": "zoom in"}


def test_a_tiny_encoder_names_the_steps(bert_folder: Path) -> None:
    out = explain(SENTENCE, "--planner", "clauses-encoder", "--model", str(bert_folder))
    assert [row[2] for row in rows(out)] == ["Remove the dogs", "zoom in"]
    assert "Planned by clauses-encoder." in out


def test_a_file_says_how_its_sequence_came_about(tmp_path: Path) -> None:
    step = Step(Operation.COMPARATIVE, ("long",), "longer", implied=("sleeve",))
    fallback = stored(tmp_path, FusionSequence("longer ", (step,)), fallback="cut short", repairs={"phrase": 2})
    out = explain("longer", "--file", fallback)
    assert rows(out) == [["1", "comparative", "longer", "long", "sleeve"]]
    assert "Planned by clauses: the answer of llm was not taken (cut short). Put right: phrase (2)." in out
    report = json.loads(explain("longer", "--file", fallback, "--json"))
    assert (report["planner"], report["fallback"], report["repairs"]) == ("llm", "cut short", {"phrase": 2})


def test_a_language_model_tells_of_repairs(monkeypatch: pytest.MonkeyPatch) -> None:
    prepare_llm = pytest.importorskip("neucore_xl.prepare.llm")
    asked = []

    class Scripted:
        def records(self, texts: Sequence[str]) -> Iterator[list[Record]]:
            steps = (Step(Operation.KEEP, (), texts[0]),)
            yield [Record(FusionSequence(texts[0], steps), repairs={"order": 1}, tokens=9)]

    monkeypatch.setattr(prepare_llm, "build_llm_planner", lambda options: asked.append(options) or Scripted())
    out = explain("keep it", "--planner", "llm", "--model", "some/model")
    assert rows(out) == [["1", "keep", "keep it"]]
    assert "Planned by llm. Put right: order (1)." in out
    assert json.loads(explain("keep it", "--planner", "llm", "--model", "some/model", "--json"))["tokens"] == 9
    assert asked[0].model == "some/model"


def test_markup_and_control_characters_are_text(tmp_path: Path) -> None:
    text = "[red]no[/red] \x1b[31m\ud800 dog"
    out = explain(text, "--file", stored(tmp_path, FusionSequence(text, (Step(Operation.NEGATION, (), text),))))
    assert "[red]no[/red]" in out
    assert "\x1b[31m" not in out


def test_wrong_calls_are_one_sentence(tmp_path: Path) -> None:
    path = stored(tmp_path, FusionSequence("a dog", (Step(Operation.KEEP, (), "a dog"),)))
    assert refused("  ").startswith("The sentence is blank")
    assert "plans.jsonl holds 1 sentences, but not 'a cat'" in refused("a cat", "--file", path)
    assert "cannot read the sequence file" in refused("a cat", "--file", str(tmp_path / "none.jsonl"))
    assert "one or the other" in refused("a dog", "--file", path, "--planner", "clauses")
    assert "unknown planner 'rules'; known are clauses" in refused("a dog", "--planner", "rules")
    assert "needs --model" in refused("a dog", "--planner", "llm")
    assert "clauses has none" in refused("a dog", "--model", "x")
    assert "there is no folder /no/where" in refused("a", "--planner", "clauses-encoder", "--model", "/no/where")
