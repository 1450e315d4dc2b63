"""Damaged checkpoints and pointers: what is whole is never given up for them, and each is one sentence."""

from __future__ import annotations

import errno
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from neucore_xl.cli import main
from neucore_xl.errors import UserError
from neucore_xl.files import checksum
from neucore_xl.runs.checkpoints.checkpoint import Checkpoint, Identity
from neucore_xl.runs.checkpoints.find import best, find_checkpoint, latest, problems_of
from neucore_xl.runs.checkpoints.universal import FORM, is_whole
from neucore_xl.runs.folder import RunFolder
from tests.support.damage import DAMAGES, MANIFESTS, SPECIAL, as_json, damage
from tests.support.saving import save_weights

pytestmark = pytest.mark.timeout(60)
IDENTITY = Identity("neucore-xl", "b" * 64, "v" * 64)
FILES = ("manifest.json", "model.safetensors", "training.pt")


def put(folder: Path, step: int, **more: Any) -> Checkpoint:
    weights = {"head.weight": torch.full((2, 3), float(step))}
    return save_weights(folder, step, weights, IDENTITY, metrics={"mean": float(step)}, extra={"step": step}, **more)


def whole(folder: Path) -> list[int]:
    """The steps whose checkpoints can be used, under whatever name their folders have."""
    found = []
    for path in sorted(folder.iterdir()):
        if path.is_dir() and (path / "manifest.json").is_file() and not problems_of(path):
            found.append(json.loads((path / "manifest.json").read_text())["step"])
    return found


def one_sentence(error: UserError) -> str:
    text = str(error)
    assert text
    assert "\n" not in text
    assert "Traceback" not in text
    return text


@pytest.mark.parametrize("keep", [1, 2])
@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_newer_checkpoint_does_not_outlive_a_good_one(
    kind: str, file: str, keep: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Step 30 is damaged, the run goes on from 10 and saves 20: before, rotation deleted 20 at once."""
    put(tmp_path, 10)
    damage(kind, put(tmp_path, 30).path / file)
    with caplog.at_level(logging.WARNING):
        put(tmp_path, 20, keep=keep)
    assert (tmp_path / "step-00000020").is_dir(), "the checkpoint that was just saved is deleted"
    found = latest(tmp_path)
    assert found is not None
    assert found.step == 20
    assert json.loads((tmp_path / "latest.json").read_text())["path"] == "step-00000020"
    assert (tmp_path / "step-00000010").is_dir() == (keep == 2)
    aside = [p for p in tmp_path.iterdir() if p.is_dir() and "00000030" in p.name]
    assert len(aside) == 1, "what was damaged is kept"
    assert aside[0].name != "step-00000030"
    assert "step-00000030 is damaged" in caplog.text
    assert aside[0].name in caplog.text
    for step in (40, 50):
        put(tmp_path, step, keep=keep)
    assert latest(tmp_path).step == 50  # type: ignore[union-attr]
    assert aside[0].is_dir()


def test_two_damaged_checkpoints_of_one_step_are_both_kept(tmp_path: Path) -> None:
    for _ in range(2):
        damage("empty", put(tmp_path, 30).path / "model.safetensors")
        put(tmp_path, 20)
    assert len([p for p in tmp_path.iterdir() if "00000030" in p.name]) == 2


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("kind", DAMAGES)
def test_no_usable_checkpoint_is_refused_and_nothing_is_touched(kind: str, file: str, tmp_path: Path) -> None:
    for step in (10, 20):
        damage(kind, put(tmp_path, step).path / file)
    before = sorted(p.name for p in tmp_path.rglob("*"))
    with pytest.raises(UserError) as caught:
        latest(tmp_path)
    text = one_sentence(caught.value)
    assert "step-00000010" in text
    assert "step-00000020" in text
    assert file in text
    assert "run folder" in text  # what to do
    assert sorted(p.name for p in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("change", MANIFESTS)
def test_a_manifest_of_another_form_is_damage(change: str, tmp_path: Path) -> None:
    """Before, a manifest without files was "whole"."""
    put(tmp_path, 10)
    path = put(tmp_path, 20).path
    content = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(as_json(MANIFESTS[change](content)))
    problems = problems_of(path)
    assert problems
    assert all("\n" not in problem for problem in problems)
    found = latest(tmp_path)
    assert found is not None
    assert found.step == 10
    assert whole(tmp_path) == [10]


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ESTALE])
@pytest.mark.parametrize("file", FILES)
def test_a_file_that_the_system_refuses_is_no_damage(
    file: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Falling back, or beginning again, would give up what is whole."""
    put(tmp_path, 10)
    put(tmp_path, 20)
    real = open

    def refuse(opened: Any) -> None:
        if isinstance(opened, str | os.PathLike) and os.fspath(opened).endswith(f"step-00000020/{file}"):
            raise OSError(number, os.strerror(number), str(opened))

    def opening(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *args: Any, **words: Any) -> Any:
            refuse(path)
            return real(path, *args, **words)

        return call

    monkeypatch.setattr("io.open", opening(real))
    with pytest.raises(UserError) as caught:
        latest(tmp_path)
    text = one_sentence(caught.value)
    assert file in text
    assert os.strerror(number) in text
    put(tmp_path, 15, keep=1)
    assert (tmp_path / "step-00000020").is_dir()
    monkeypatch.undo()
    assert latest(tmp_path).step == 20  # type: ignore[union-attr]


def test_a_folder_that_may_not_be_listed_is_not_an_empty_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, 10)

    def closed(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any = ".", *args: Any) -> Any:
            if os.fspath(path) == str(tmp_path):
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return real(path, *args)

        return call

    for name in ("listdir", "scandir"):
        monkeypatch.setattr(os, name, closed(getattr(os, name)))
    with pytest.raises(UserError, match="Permission denied"):
        latest(tmp_path)


@pytest.mark.parametrize("kind", ["file", "loop", "dangling", "fifo"])
def test_something_else_in_the_place_of_the_checkpoints_is_not_a_run_without_them(kind: str, tmp_path: Path) -> None:
    damage(kind, tmp_path / "checkpoints")
    with pytest.raises(UserError) as caught:
        latest(tmp_path / "checkpoints")
    assert "checkpoints" in one_sentence(caught.value)


@pytest.mark.parametrize("pointer", ["best.json", "latest.json"])
@pytest.mark.parametrize("kind", [*DAMAGES, "dangling pointer", "pointer out of the folder", "pointer of numbers"])
def test_a_damaged_pointer_does_not_stop_a_save(
    kind: str, pointer: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path, 10, best=True)
    damage(kind, tmp_path / pointer)
    put(tmp_path, 20)
    put(tmp_path, 30, keep=3)
    assert whole(tmp_path) == [10, 20, 30]
    assert json.loads((tmp_path / "latest.json").read_text())["step"] == 30
    put(tmp_path, 40, best=True)
    assert best(tmp_path).step == 40  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", [*DAMAGES, "pointer out of the folder", "pointer of numbers"])
def test_evaluation_names_a_damaged_pointer(kind: str, tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    put(run.checkpoints, 10, best=True)
    damage(kind, run.checkpoints / "best.json")
    if kind == "gone":
        assert find_checkpoint(run, "best").step == 10
        return
    with pytest.raises(UserError) as caught:
        find_checkpoint(run, "best")
    assert "best.json" in one_sentence(caught.value)
    assert find_checkpoint(run, "last").step == find_checkpoint(run, "10").step == 10


@pytest.mark.parametrize(
    "which",
    ["²", "1" * 5000, "9" * 300, "-1", "1.0", "best.json", "../10", ""],
    ids=["a power", "5000 digits", "300 digits", "negative", "a fraction", "a pointer", "a path", "nothing"],
)
def test_a_checkpoint_that_cannot_be_is_one_sentence(which: str, tmp_path: Path) -> None:
    put(tmp_path / "checkpoints", 10)
    with pytest.raises(UserError) as caught:
        find_checkpoint(RunFolder(tmp_path), which)
    assert "checkpoint" in one_sentence(caught.value)


def test_a_shard_that_the_manifest_does_not_list_is_damage(tmp_path: Path) -> None:
    """DeepSpeed reads whatever files it finds beside its own."""
    put(tmp_path, 10)
    state = put(tmp_path, 20).path / "zero" / "state"
    state.mkdir(parents=True)
    (state / "zero_pp_rank_1_mp_rank_00_optim_states.pt").write_bytes(b"x")
    (problem,) = problems_of(tmp_path / "step-00000020")
    assert "zero_pp_rank_1_mp_rank_00_optim_states.pt is not listed" in problem
    assert latest(tmp_path).step == 10  # type: ignore[union-attr]


def test_verify_goes_on_after_a_file_that_the_system_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "checkpoints"
    for step in (10, 20, 30):
        put(folder, step, keep=3)
    damage("cut", folder / "step-00000030" / "training.pt")
    real = Checkpoint.verify

    def verify(self: Checkpoint, names: Any = None) -> list[str]:
        if self.step == 10:
            raise UserError("step 10 cannot be read (Input/output error)")
        return real(self, names)

    monkeypatch.setattr(Checkpoint, "verify", verify)
    with pytest.raises(SystemExit) as caught:
        main(["checkpoint", "verify", str(tmp_path)])
    assert caught.value.code == 2
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "not compared: step 10 cannot be read (Input/output error)"
    assert said[1].endswith("step-00000020: whole")
    assert said[2].startswith("damaged: ")
    assert len(said) == 3


@pytest.mark.parametrize("kind", [*SPECIAL, "out of the folder"])
def test_a_universal_form_with_something_else_in_the_place_of_a_file_is_not_whole(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "universal"
    folder.mkdir()
    name = "../a" if kind == "out of the folder" else "a"
    (folder / name).write_bytes(b"")
    manifest = {"form": FORM, "files": {name: 0}, "checksums": {name: checksum(folder / name)}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert is_whole(folder) == (name == "a")
    if name == "a":
        damage(kind, folder / name)
        assert not is_whole(folder)
