from __future__ import annotations

import errno
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from neucore_xl import files
from neucore_xl.errors import UserError
from neucore_xl.runs.checkpoints.checkpoint import Checkpoint, Identity
from neucore_xl.runs.checkpoints.find import at_step, best, check_identity, latest
from neucore_xl.runs.checkpoints.save import mark_best
from neucore_xl.runs.checkpoints.weights import load_state, stored_state
from tests.support.saving import save_weights

FileLimit = Callable[[int], AbstractContextManager[None]]
IDENTITY = Identity("neucore-xl", "b" * 64, "v" * 64)


def put(folder: Path, step: int, **more: Any) -> Checkpoint:
    weights = {"head.weight": torch.full((2, 3), float(step))}
    extra = {"step": step, "random": {"torch": torch.get_rng_state(), "python": [3, [1, 2], None]}}
    return save_weights(folder, step, weights, IDENTITY, extra=extra, **more)


def steps(folder: Path) -> list[int]:
    return sorted(int(p.name[5:]) for p in folder.glob("step-*"))


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    saved = put(tmp_path / "checkpoints", 500, metrics={"mean": 12.5}, best=True)
    assert saved.path.name == "step-00000500"
    assert sorted(p.name for p in saved.path.iterdir()) == ["manifest.json", "model.safetensors", "training.pt"]
    for found in (latest(saved.path.parent), best(saved.path.parent), at_step(saved.path.parent, 500)):
        assert found is not None
        assert (found.step, found.identity, found.metrics) == (500, IDENTITY, {"mean": 12.5})
        assert torch.equal(found.weights()["head.weight"], torch.full((2, 3), 500.0))
        extra = found.extra()
        assert extra["step"] == 500
        assert torch.equal(extra["random"]["torch"], torch.get_rng_state())
    pointer = json.loads((saved.path.parent / "latest.json").read_text())
    assert pointer == {"step": 500, "path": "step-00000500"}


def test_an_empty_or_absent_folder_has_no_checkpoint(tmp_path: Path) -> None:
    assert latest(tmp_path) is None
    assert best(tmp_path / "none") is None
    with pytest.raises(UserError, match="there are: none"):
        at_step(tmp_path, 3)


def test_rotation_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4, 5):
        put(tmp_path, step, keep=2, best=step == 2)
    assert steps(tmp_path) == [2, 4, 5]
    put(tmp_path, 6, keep=2, best=True)
    assert steps(tmp_path) == [5, 6]
    mark_best(tmp_path, 5, {"mean": 1.0})
    assert best(tmp_path).step == 5  # type: ignore[union-attr]


def test_steps_sort_by_number_beyond_eight_digits(tmp_path: Path) -> None:
    for step in (99_999_999, 100_000_000):
        put(tmp_path, step)
    assert latest(tmp_path).step == 100_000_000  # type: ignore[union-attr]


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    put(tmp_path, 3, metrics={"mean": 1.0})
    put(tmp_path, 3, metrics={"mean": 2.0})
    assert latest(tmp_path).metrics == {"mean": 2.0}  # type: ignore[union-attr]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latest.json", "step-00000003"]


@pytest.mark.parametrize("file", ["model.safetensors", "training.pt", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(
    tmp_path: Path, file: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path, 1)
    path = put(tmp_path, 2, best=True).path / file
    content = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        content[0 if file == "manifest.json" else -5] ^= 255
        path.write_bytes(content)
    found = latest(tmp_path)
    assert found is not None
    assert found.step == 1
    assert "step-00000002 is damaged" in caplog.text
    if file != "manifest.json":
        assert file in caplog.text
    with pytest.raises(UserError, match="step-00000002 is damaged"):
        best(tmp_path)
    with pytest.raises(UserError, match="step-00000002 is damaged"):
        at_step(tmp_path, 2)


def test_a_crash_while_saving_keeps_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, 1)

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    for where, name in ((safetensors.torch, "save_file"), (torch, "save"), (Path, "replace")):
        with monkeypatch.context() as patch:
            patch.setattr(where, name, crash)
            with pytest.raises(KeyboardInterrupt):
                put(tmp_path, 2)
        assert latest(tmp_path).step == 1  # type: ignore[union-attr]
        assert sorted(p.name for p in tmp_path.iterdir()) == ["latest.json", "step-00000001"]


def test_what_a_killed_save_left_is_swept_by_the_next(tmp_path: Path) -> None:
    (tmp_path / ".tmp-dead").mkdir()
    (tmp_path / ".tmp-dead" / "model.safetensors").write_bytes(b"half")
    put(tmp_path, 1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latest.json", "step-00000001"]


def test_a_kill_before_the_pointer_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder was renamed, the pointer was not replaced: the newer checkpoint is whole and is taken."""
    put(tmp_path, 1)
    with monkeypatch.context() as patch:
        patch.setattr(files, "write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            put(tmp_path, 2)
    assert json.loads((tmp_path / "latest.json").read_text())["step"] == 1
    assert latest(tmp_path).step == 2  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        safetensors.SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_one_sentence_and_old_checkpoints_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    put(tmp_path, 1)

    def full(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(safetensors.torch, "save_file", full)
        with pytest.raises(UserError, match=r"disk full .* while saving a checkpoint") as caught:
            put(tmp_path, 2)
    assert "\n" not in str(caught.value)
    assert latest(tmp_path).step == 1  # type: ignore[union-attr]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latest.json", "step-00000001"]


@pytest.mark.parametrize("big", ["weights", "extra"])
def test_writes_that_the_kernel_refuses_are_one_sentence(tmp_path: Path, big: str, file_limit: FileLimit) -> None:
    put(tmp_path, 1)
    content = {"weights": {"w": torch.zeros(4)}, "extra": {"e": torch.zeros(4)}}
    content[big] = {"x": torch.zeros(200_000)}
    with file_limit(100_000), pytest.raises(UserError, match=r"disk full .* while saving a checkpoint") as caught:
        save_weights(tmp_path, 2, identity=IDENTITY, **content)
    assert "\n" not in str(caught.value)
    assert latest(tmp_path).step == 1  # type: ignore[union-attr]
    assert not list(tmp_path.glob(".tmp-*"))


def test_identity_is_compared_and_both_sides_are_named(tmp_path: Path) -> None:
    found = put(tmp_path, 1)
    check_identity(found, IDENTITY)
    for other, words in (
        (Identity("concat", IDENTITY.backbone, IDENTITY.vocabulary), ["neucore-xl", "concat"]),
        (Identity("neucore-xl", "c" * 64, IDENTITY.vocabulary), ["backbone differs", "b" * 12, "c" * 12]),
        (Identity("neucore-xl", IDENTITY.backbone, "w" * 64), ["another vocabulary", "v" * 12, "w" * 12]),
    ):
        with pytest.raises(UserError) as caught:
            check_identity(found, other)
        assert all(word in str(caught.value) for word in words)


class Tower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(2, 2)
        self.norm = nn.BatchNorm1d(2)
        self.top = nn.Linear(2, 2)


class Head(nn.Module):
    def __init__(self, tower: Tower, width: int = 3) -> None:
        super().__init__()
        self.tower = tower
        self.out = nn.Linear(2, width)
        self.register_buffer("names", torch.zeros(4), persistent=False)


def test_frozen_towers_are_not_stored() -> None:
    tower = Tower().requires_grad_(False)
    assert sorted(stored_state(Head(tower), tower)) == ["out.bias", "out.weight"]
    tower.top.requires_grad_(True)
    stored = stored_state(Head(tower), tower)
    assert {"tower.top.weight", "tower.norm.running_mean", "out.bias"} <= stored.keys()
    assert "tower.stem.weight" not in stored
    assert "tower.norm.weight" not in stored
    assert "names" not in stored


def test_state_round_trip_leaves_frozen_weights_alone(tmp_path: Path) -> None:
    tower, other = Tower().requires_grad_(False), Tower().requires_grad_(False)
    source, target = Head(tower), Head(other)
    before = other.stem.weight.clone()
    load_state(target, other, stored_state(source, tower), tmp_path)
    assert torch.equal(target.out.weight, source.out.weight)
    assert torch.equal(other.stem.weight, before)


def test_weights_of_another_shape_or_name_are_refused(tmp_path: Path) -> None:
    tower = Tower().requires_grad_(False)
    head = Head(tower)
    before = {k: v.clone() for k, v in head.state_dict().items()}
    for weights, words in (
        (stored_state(Head(tower, 5), tower), r"out\.bias is \[5\] there and \[3\] here"),
        ({"out.weight": head.out.weight}, r"it lacks out\.bias"),
        ({**stored_state(head, tower), "gate": torch.zeros(1)}, "it has gate"),
    ):
        with pytest.raises(UserError, match=words):
            load_state(head, tower, weights, tmp_path)
    assert all(torch.equal(v, before[k]) for k, v in head.state_dict().items())


def test_tied_weights_are_saved(tmp_path: Path) -> None:
    shared = torch.arange(6.0)
    save_weights(tmp_path, 1, {"a": shared, "b": shared[2:4]}, IDENTITY)
    found = at_step(tmp_path, 1).weights()
    assert torch.equal(found["a"], shared)
    assert torch.equal(found["b"], torch.tensor([2.0, 3.0]))
