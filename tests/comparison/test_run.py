"""A comparison from the command to its files, stopped and gone on with, as one call and as the tasks of an array."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest

from neucore_xl import terminal
from neucore_xl.ablation import run as carrying
from neucore_xl.ablation.plan import planned_runs
from neucore_xl.cli import main
from neucore_xl.comparison.entries import Asked
from neucore_xl.comparison.run import collect, run_comparison, run_task
from neucore_xl.comparison.systems import planned_systems
from neucore_xl.errors import UserError


def call(*words: str) -> int | str | None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    return ended.value.code


@pytest.mark.slow
def test_two_systems_with_two_seeds(
    tiny_data: Path,
    tiny_overrides: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Slow: about 15 seconds of real runs: a task, two whole calls and one of other features."""
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    words = ["--seeds", "2", "--out", str(out), *tiny_overrides, "train.steps=2", "train.log_every=1"]
    compare = ["compare", str(tiny_data / "recipe.yaml"), "--systems", "concat,tirg"]

    assert call(*compare, *words, "--commands") == 0
    assert capsys.readouterr().out.count("--task") == 4
    assert call(*compare, *words, "--task", "1") == 0
    assert (out / "tirg" / "seed-0" / "evaluation" / "metrics.json").exists()
    assert not (out / "results.json").exists()
    assert call(*compare, *words, "--collect") == 0
    assert [e["system"] for e in json.loads((out / "results.json").read_text())] == ["tirg"]
    capsys.readouterr()

    assert call(*compare, *words, "--resume") == 0
    said = capsys.readouterr().out
    assert "1/4 concat, seed 0" in said
    assert "4/4 tirg, seed 1 (about" in said
    entries = json.loads((out / "results.json").read_text())
    assert [(e["system"], e["seed"]) for e in entries] == [("concat", 0), ("tirg", 0), ("concat", 1), ("tirg", 1)]
    for entry in entries:
        assert entry["metrics"]["mean"] == pytest.approx((entry["metrics"]["R@5"] + entry["metrics"]["R_subset@1"]) / 2)
        assert entry["protocol"]["dataset"] == entry["dataset"] == "cirr"
        assert entry["parameters"]["heads"] >= entry["parameters"]["trained"] > 0
        assert min(entry[k] for k in ("seconds_per_epoch", "train_seconds", "ms_per_query")) > 0
        assert (out / entry["checkpoint"]).is_dir()
        assert entry["command"].startswith("neucore-xl compare ")
        assert f"--systems {entry['system']} --seeds 1 --first-seed {entry['seed']} " in entry["command"]
        assert entry["environment"]["packages"]["torch"]
        assert entry["over_seeds"]["seeds"] == [0, 1]
        assert str(tmp_path) not in json.dumps(entry)
    behind = {e["system"] for e in entries if e["over_seeds"]["against"]}
    assert len(behind) == 1
    for name in ("results.md", "results.tex", "results.svg"):
        assert (out / name).stat().st_size > 500

    # What is there is taken: nothing is built for a finished run, and only what is missing is made again.
    trained: list[Path] = []
    monkeypatch.setattr(
        carrying, "train", lambda s, path, train=carrying.train, **k: trained.append(path) or train(s, path, **k)
    )
    shutil.rmtree(out / "concat" / "seed-1")
    assert call(*compare, *words, "--published") == 0
    assert trained == [out / "concat" / "seed-1"]
    again = json.loads((out / "results.json").read_text())
    assert [e["metrics"] for e in again] == [e["metrics"] for e in entries]
    assert [e["over_seeds"] for e in again] == [e["over_seeds"] for e in entries]

    # Another call adds to the table; one on other features does not.
    capsys.readouterr()
    assert call(*compare[:2], "--systems", "text-only", *words, "--seeds", "1") == 0
    five = [e["system"] for e in json.loads((out / "results.json").read_text())]
    assert five == ["text-only", "concat", "tirg", "concat", "tirg"]
    before = (out / "results.json").read_bytes()
    capsys.readouterr()
    assert call(*compare[:2], "--systems", "film", *words, "backbone.image_size=64") == 2
    assert "results.json holds text-only, seed 0, of other features (image_size: None against 64)" in (
        capsys.readouterr().err
    )
    assert not (out / "film").exists()
    assert (out / "results.json").read_bytes() == before


def test_wrong_calls_end_before_any_run(tiny_data: Path, tiny_overrides: list[str], tmp_path: Path) -> None:
    recipe, out = str(tiny_data / "recipe.yaml"), tmp_path / "out"
    variants, _ = planned_systems("tirg,concat", recipe, tiny_overrides)
    runs = planned_runs(recipe, tiny_overrides, variants, 1, out)
    asked, console = Asked(recipe, tiny_overrides, out), terminal.console(file=io.StringIO())
    with pytest.raises(UserError, match="--task 2: the plan has 2 runs, tasks 0 to 1"):
        run_task(runs, 2)
    with pytest.raises(UserError, match=r"no run in .* is finished: leave --collect out"):
        collect(runs, asked, console)
    assert not out.exists()
    out.mkdir()
    (out / "results.json").write_text("{}")
    with pytest.raises(UserError, match="holds an object where a list is expected"):
        run_comparison(runs, asked, console)
    assert [path.name for path in out.iterdir()] == ["results.json"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--systems", "tigr"], "did you mean tirg"),
        (["model.name=tirg"], "model.name is set by --systems"),
        (["nonsense=1"], "nonsense"),
    ],
)
def test_the_command_says_what_is_wrong(
    words: list[str], said: str, tiny_data: Path, tiny_overrides: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("compare", str(tiny_data / "recipe.yaml"), *tiny_overrides, *words) == 2
    assert said in capsys.readouterr().err
