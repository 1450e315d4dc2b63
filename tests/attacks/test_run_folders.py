"""Damaged run folders: going on and looking in work or say one sentence, and no good checkpoint and no log is lost.

Slow: half a minute; each folder is asked by every command that reads one, and a training goes on from it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from neucore_xl import cli
from neucore_xl.config.load import load_settings
from neucore_xl.config.schema import Settings
from neucore_xl.errors import UserError
from neucore_xl.runs.checkpoints.find import best, latest, problems_of
from neucore_xl.runs.system import load_run
from neucore_xl.training import restart
from neucore_xl.training.journal import read_log
from neucore_xl.training.run import train
from tests.support.damage import SPECIAL, damage
from tests.support.tiny_runs import tiny_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]
LAST = "checkpoints/step-00000004"
TEXTS = ("config.yaml", "environment.json", "vocabulary.json", "log.jsonl")
POINTERS = ("checkpoints/latest.json", "checkpoints/best.json")
BINARY = (f"{LAST}/model.safetensors", f"{LAST}/training.pt", f"{LAST}/rank-00000.pt")
FOLDERS = ("checkpoints", LAST, "tensorboard", ".lock", ".owner.json")
KINDS = ("empty", "cut", "a list", "an empty object", "another object", "deep", "huge number", *SPECIAL[:3], "gone")
ATTACKS = [
    *((file, kind) for file in (*TEXTS, *POINTERS, f"{LAST}/manifest.json") for kind in KINDS),
    *((file, kind) for file in BINARY for kind in ("cut", "folder", "fifo", "loop", "gone")),
    *((name, kind) for name in FOLDERS for kind in ("file", "folder", *SPECIAL[1:])),
]
# With these lost a run goes on; the others may be refused, in one sentence.
HARMLESS = ("environment.json", *POINTERS, f"{LAST}/manifest.json", *BINARY)
LOOKED_AT = ("config.yaml", "environment.json", "vocabulary.json", "checkpoints/best.json", "checkpoints", LAST)


def parametrized(attacks: list[tuple[str, str]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("file", "kind"), attacks, ids=[f"{file} {kind}" for file, kind in attacks])


@dataclass(frozen=True)
class Runs:
    settings: Settings
    broken: Path  # broken off after its checkpoint of step 4, with one of step 2 before it
    losses: dict[int, float]  # of an unbroken run


@pytest.fixture(scope="module")
def runs(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("runs")
    more = ["model.name=text-only", "train.steps=6", "train.validate_every=2", "train.checkpoint_every=2"]
    overrides = [*tiny_run(tiny_data, folder / "cache"), *more, "train.keep_checkpoints=3"]
    settings = load_settings(str(tiny_data / "recipe.yaml"), overrides)
    train(settings, folder / "whole")
    real = restart.save_together

    def save_then_die(*args: Any, **words: Any) -> Any:
        saved = real(*args, **words)
        if saved.step == 4:
            raise KeyboardInterrupt
        return saved

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(restart, "save_together", save_then_die)
        with pytest.raises(KeyboardInterrupt):
            train(settings, folder / "broken")
    return Runs(settings, folder / "broken", losses(folder / "whole"))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes most of the time of a start and of a save on a busy disk, and has no part in this."""
    monkeypatch.setattr("neucore_xl.runs.environment.git_revision", lambda: None)
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def losses(run: Path) -> dict[int, float]:
    return {record["step"]: record["loss"] for record in read_log(run / "log.jsonl")}


def contents(run: Path, *but: str) -> dict[str, bytes]:
    """All regular files below ``run`` that a refused start must not touch."""
    found = [p for p in run.rglob("*") if p.is_file() and not p.is_symlink()]
    named = {p.relative_to(run).as_posix(): p for p in found}
    passing = (".lock", ".owner.json", "environment.json", *but)
    return {name: p.read_bytes() for name, p in named.items() if not name.startswith(passing)}


def one_sentence(text: str) -> None:
    assert text.strip()
    assert "\n" not in text.strip()
    assert "Traceback" not in text


@parametrized(ATTACKS)
def test_going_on_works_or_is_refused_and_loses_nothing(file: str, kind: str, runs: Runs, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs.broken, run)
    damage(kind, run / file)
    before = contents(run, file)
    summary = refused = None
    try:
        summary = train(runs.settings, run)
    except UserError as error:
        refused = str(error)
    if summary is None:
        one_sentence(str(refused))
        assert file not in HARMLESS, refused
        assert contents(run, file) == before
        return
    assert summary.steps == 6
    known = losses(run)
    assert known.items() <= runs.losses.items()
    assert known.keys() >= {5, 6}
    if file != "log.jsonl":
        assert known == runs.losses
    assert latest(run / "checkpoints").step == 6  # type: ignore[union-attr]
    assert best(run / "checkpoints").step == summary.best_step  # type: ignore[union-attr]
    assert not problems_of(run / "checkpoints/step-00000002")
    assert summary.metrics["mean"] == summary.best_value


def commands(run: Path, out: Path) -> dict[str, Callable[[], object]]:
    def cli_call(*words: str) -> Callable[[], object]:
        return lambda: cli.main(["checkpoint", *words])

    return {
        "inspect": cli_call("inspect", str(run)),
        "verify": cli_call("verify", str(run)),
        "export": cli_call("export", str(run), "--out", str(out / "model.safetensors"), "--checkpoint", "last"),
        "reshard": cli_call("reshard", str(run)),
        "evaluate the best": lambda: load_run(run),
        "evaluate the last": lambda: load_run(run, checkpoint="last"),
    }


@parametrized([attack for attack in ATTACKS if attack[0] in LOOKED_AT or attack[0].startswith(f"{LAST}/")])
def test_looking_into_it_works_or_says_one_sentence(
    file: str, kind: str, runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs.broken, run)
    damage(kind, run / file)
    before = contents(run, file)
    for name, call in commands(run, tmp_path).items():
        capsys.readouterr()
        code = 0
        try:
            call()
        except UserError as error:
            one_sentence(str(error))
        except SystemExit as done:
            assert done.code in (0, 1, 2)  # noqa: PT017 (the call may also end without one)
            code = int(done.code or 0)
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        if code == 2:
            one_sentence(said.err)
        if name == "verify" and file.startswith(f"{LAST}/"):
            assert code == 1
            assert "step-00000002: whole" in said.out
            assert file.rpartition("/")[2] in said.out
    assert contents(run, file) == before


@pytest.mark.parametrize("kind", ["gone", "cut", "folder", "fifo", "another object"])
def test_lost_surroundings_are_said_and_recorded_anew(
    kind: str, runs: Runs, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Before, a run without its environment.json was refused, and the sentence blamed the annotations."""
    run = tmp_path / "run"
    shutil.copytree(runs.broken, run)
    damage(kind, run / "environment.json")
    assert train(runs.settings, run).steps == 6
    assert "environment.json" in caplog.text
    assert "annotations" in caplog.text
    if kind != "gone":
        assert [p for p in run.iterdir() if p.name.endswith("environment.json") and p.name != "environment.json"]
    caplog.clear()
    assert train(runs.settings, run).steps == 6
    assert not caplog.text


POSITIONS: dict[str, object] = {
    "a list": [1],
    "an empty object": {},
    "no position": {"engine": {}},
    "a position as text": {"state": "step 4"},
    "an empty position": {"state": {}},
    "another step": {"state": {"step": 3, "best_step": None, "best_value": None}},
    "a step as text": {"state": {"step": "4"}},
    "an unknown key": {"state": {"step": 4, "epoch": 1}},
}


@pytest.mark.parametrize("kind", POSITIONS)
def test_another_training_state_with_right_checksums_is_one_sentence(kind: str, runs: Runs, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs.broken, run)
    folder = run / LAST
    torch.save(POSITIONS[kind], folder / "training.pt")
    manifest = json.loads((folder / "manifest.json").read_text())
    raw = (folder / "training.pt").read_bytes()
    manifest["files"]["training.pt"] = {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    before = contents(run)
    with pytest.raises(UserError, match="step-00000004") as caught:
        train(runs.settings, run)
    one_sentence(str(caught.value))
    assert contents(run) == before


def test_all_checkpoints_damaged_is_refused_and_the_log_stays(runs: Runs, tmp_path: Path) -> None:
    """Before, the run began again at step 0 and emptied its log."""
    run = tmp_path / "run"
    shutil.copytree(runs.broken, run)
    for path in (run / "checkpoints").glob("step-*/model.safetensors"):
        damage("cut", path)
    before = contents(run)
    with pytest.raises(UserError, match=r"step-00000004.*step-00000002") as caught:
        train(runs.settings, run)
    one_sentence(str(caught.value))
    assert contents(run) == before
    assert before["log.jsonl"]
