"""The command: its help is light, its refusals are one sentence, its exit codes mean something."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

import neucore_xl.train as train_module
from neucore_xl.cli import app, main
from neucore_xl.cli.output import write_report
from neucore_xl.config.load import dump_yaml, load_settings, recipe_names
from neucore_xl.errors import UserError

HEAVY = ("torch", "numpy", "rich.markdown", "spacy", "datasets", "transformers", "open_clip", "scipy", "omegaconf")


def all_commands() -> list[list[str]]:
    found: list[list[str]] = []

    def walk(command, path: list[str]) -> None:
        found.append(path)
        for name, sub in sorted(getattr(command, "commands", {}).items()):
            walk(sub, [*path, name])

    walk(get_command(app), [])
    return found


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    return int(stop.value.code or 0)


def test_the_commands_are_those_that_others_rely_on():
    commands = {" ".join(path) for path in all_commands()}
    assert {
        "train",
        "demo",
        "config show",
        "config list",
        "config reference",
        "data doctor",
        "data subsets",
        "data generate shapes",
        "prepare sequences",
        "submission check",
    } <= commands


def test_no_help_loads_anything_heavy():
    """One fresh interpreter asks for every help in turn: what any of them loads stays visible at the end."""
    script = f"""
import contextlib, io, json, sys
from neucore_xl.cli import main
loaded = {{}}
for path in {all_commands()!r}:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main([*path, "--help"])
    assert "Usage" in out.getvalue(), path
    loaded[" ".join(path)] = [m for m in {HEAVY!r} if m in sys.modules]
print(json.dumps(loaded))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = json.loads(done.stdout)
    assert len(loaded) == len(all_commands())
    assert {path: heavy for path, heavy in loaded.items() if heavy} == {}


def test_a_wrong_call_ends_before_torch_is_loaded(tmp_path: Path):
    script = f"""
import sys
from neucore_xl.cli import main
try:
    main(["train", "demo", "--run", {str(tmp_path / "run")!r}, "train.step=3"])
except SystemExit as stop:
    assert "torch" not in sys.modules
    sys.exit(stop.code)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "error: Unknown setting train.step; did you mean train.steps?\n"
    assert not (tmp_path / "run").exists()


def test_config_show_prints_the_resolved_tree(capsys: pytest.CaptureFixture[str]):
    assert run("config", "show", "demo", "train.seed=3", "backbone.freeze={image: 1}") == 0
    expected = load_settings("demo", ["train.seed=3", "backbone.freeze={image: 1}"])
    assert capsys.readouterr().out == dump_yaml(expected)


def test_config_list_names_every_recipe(capsys: pytest.CaptureFixture[str]):
    assert run("config", "list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(recipe_names())
    assert all(len(line.split()) > 5 for line in lines)


def test_config_reference_writes_only_over_its_own_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    page, other = tmp_path / "settings.md", tmp_path / "notes.md"
    other.write_text("mine")
    assert run("config", "reference", "--write", str(page)) == 0
    assert run("config", "reference", "--write", str(page)) == 0
    assert page.read_text(encoding="utf-8").startswith("# Settings")
    capsys.readouterr()
    assert run("config", "reference", "--write", str(other)) == 2
    assert "notes.md exists" in capsys.readouterr().err
    assert other.read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["notes.md", "settings.md"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "demo"],
        ["train"],
        ["trian", "demo"],
        ["data", "doctor", "flickr", "somewhere"],
        ["data", "generate", "shapes", "out", "--train", "-1"],
        ["submission", "check", "file.json"],
        ["config", "show", "dmo"],
        ["prepare", "sequences"],
        ["prepare", "sequences", "somewhere", "--score", "truth.jsonl"],
        ["prepare", "sequences", "--score", "truth.jsonl", "--force"],
        ["prepare", "sequences", "somewhere", "--json", "score.json"],
    ],
)
def test_a_wrong_call_exits_with_2_and_no_trace(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    assert run(*arguments) == 2
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    assert printed.err


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("neucore_xl.data.settings.job_settings", fail)


def test_a_full_disk_is_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    failing(monkeypatch, OSError(errno.ENOSPC, "No space left on device", "runs/a/log.jsonl"))
    assert run("config", "show", "demo") == 1
    from_the_command = capsys.readouterr().err
    assert from_the_command.startswith("error: No space left on device: runs/a/log.jsonl;")
    assert train_module.main(["demo", "--run", "runs/a"]) == 1
    assert capsys.readouterr().err == from_the_command


@pytest.mark.parametrize("error", [RuntimeError("a bug"), FileNotFoundError(errno.ENOENT, "a bug", "file")])
def test_a_fault_of_the_program_keeps_its_trace(error: Exception, monkeypatch: pytest.MonkeyPatch):
    failing(monkeypatch, error)
    with pytest.raises(type(error), match="a bug"):
        main(["config", "show", "demo"])
    with pytest.raises(type(error), match="a bug"):
        train_module.main(["demo", "--run", "runs/a"])


def test_a_json_report_replaces_a_report_of_its_kind_and_nothing_else(tmp_path: Path):
    report, annotations = tmp_path / "report.json", tmp_path / "cap.json"
    write_report(report, {"trainable": True})
    write_report(report, {"trainable": False})
    assert json.loads(report.read_text()) == {"trainable": False}
    annotations.write_text('[{"pairid": 1}]')
    with pytest.raises(UserError, match="not written by this command"):
        write_report(annotations, {"trainable": True})
    assert annotations.read_text() == '[{"pairid": 1}]'


def test_a_report_into_a_place_that_is_a_file_is_one_sentence(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"writing report\.json is impossible"):
        write_report(tmp_path / "file" / "report.json", {"a": 1})


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shapes") / "data"
    sizes = ["--train", "24", "--val", "12", "--test", "60", "--seed", "3", "--size", "32", "--workers", "1"]
    assert run("data", "generate", "shapes", str(out), "--layout", "cirr", *sizes) == 0
    return out


def test_the_doctor_ends_with_0_for_what_can_be_trained_and_1_for_what_cannot(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    report = tmp_path / "report.json"
    assert run("data", "doctor", "cirr", str(shapes), "--no-images", "--json", str(report)) == 0
    assert json.loads(report.read_text(encoding="utf-8"))["trainable"] is True
    assert run("data", "doctor", "cirr", str(tmp_path), "--no-images", "--json", str(report)) == 1
    assert json.loads(report.read_text(encoding="utf-8"))["trainable"] is False, "a new report replaces the old one"
    assert run("data", "doctor", "cirr", str(tmp_path / "absent"), "--no-images") == 2
    assert "absent does not exist" in capsys.readouterr().err


def test_generated_data_are_trainable_and_never_overwritten(shapes: Path, capsys: pytest.CaptureFixture[str]):
    assert run("data", "doctor", "cirr", str(shapes)) == 0
    before = {path: path.stat().st_mtime_ns for path in shapes.rglob("*") if path.is_file()}
    assert len(list(shapes.rglob("*.png"))) == 24 + 12 + 60
    capsys.readouterr()
    assert run("data", "generate", "shapes", str(shapes), "--train", "30", "--val", "12", "--test", "60") == 2
    assert str(shapes) in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in shapes.rglob("*") if path.is_file()} == before


def test_sequences_are_prepared_beside_the_annotations_and_scored(shapes: Path, tmp_path: Path):
    assert run("prepare", "sequences", str(shapes), "--planner", "clauses", "--split", "val") == 0
    lines = (shapes / "sequences" / "clauses.val.jsonl").read_text(encoding="utf-8").splitlines()
    truth = shapes / "truth" / "sequences.val.jsonl"
    assert len(lines) == len(truth.read_text(encoding="utf-8").splitlines())
    report = tmp_path / "score.json"
    assert run("prepare", "sequences", "--planner", "clauses", "--score", str(truth), "--json", str(report)) == 0
    assert 0.5 < json.loads(report.read_text(encoding="utf-8"))["operation_accuracy"]["value"] <= 1


def test_a_submission_is_checked_query_by_query(shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    queries = json.loads((shapes / "captions" / "cap.rc2.test1.json").read_text(encoding="utf-8"))
    names = list(json.loads((shapes / "image_splits" / "split.rc2.test1.json").read_text(encoding="utf-8")))
    answer: dict[str, object] = {"version": "rc2", "metric": "recall"}
    for query in queries:
        answer[str(query["pairid"])] = [name for name in names if name != query["reference"]][:50]
    file = tmp_path / "test1.recall.json"
    file.write_text(json.dumps(answer), encoding="utf-8")
    assert run("submission", "check", str(file), "--data", str(shapes)) == 0
    assert capsys.readouterr().out.endswith("valid\n")

    first = str(queries[0]["pairid"])
    answer[first] = [queries[0]["reference"], *answer[first][:49]]  # type: ignore[index]
    file.write_text(json.dumps(answer), encoding="utf-8")
    assert run("submission", "check", str(file), "--data", str(shapes)) == 1
    assert first in capsys.readouterr().out


def test_a_missing_truth_file_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run("prepare", "sequences", "--score", str(tmp_path / "truth.jsonl")) == 2
    assert capsys.readouterr().err.startswith("error: cannot read the sequence file")


@pytest.mark.parametrize(
    "command", [["-m", "neucore_xl.train"], ["-c", "from neucore_xl.cli import main; main()", "train"]]
)
def test_both_ways_to_train_refuse_alike(command: list[str], tmp_path: Path):
    arguments = ["demo", "--run", str(tmp_path / "run"), "train.steps=0"]
    done = subprocess.run([sys.executable, *command, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: train.steps must be a whole number from 1 to 1,000,000,000, not 0.\n"
    assert not (tmp_path / "run").exists()
