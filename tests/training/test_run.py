"""Whole runs on tiny data: the run folder, cached and uncached features, resuming, and errors before any work."""

from __future__ import annotations

import io
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from neucore_xl import terminal
from neucore_xl.ablation.run import evaluate_run
from neucore_xl.config.schema import Settings
from neucore_xl.errors import UserError
from neucore_xl.runs.system import load_run
from neucore_xl.training import restart
from neucore_xl.training.journal import read_log
from neucore_xl.training.loop import TrainingStopped
from neucore_xl.training.run import train

Tiny = Callable[..., Settings]


def log_of(run: Path) -> list[dict[str, Any]]:
    return read_log(run / "log.jsonl")


def losses(run: Path) -> list[tuple[int, float, float, float]]:
    return [(r["step"], r["loss"], r["loss_match"], r["loss_concept"]) for r in log_of(run)]


def test_a_run_explains_itself_and_its_best_checkpoint_loads(tiny: Tiny, tmp_path: Path) -> None:
    run = tmp_path / "run"
    summary = train(tiny(), run)
    assert {"config.yaml", "environment.json", "vocabulary.json", "log.jsonl", "tensorboard", "checkpoints"} <= {
        p.name for p in run.iterdir()
    }
    log = log_of(run)
    assert [r["step"] for r in log] == list(range(1, 11))
    assert all(math.isfinite(r["loss"]) and r["loss_concept"] > 0 for r in log)
    validated = {r["step"]: r["validation"]["mean"] for r in log if "validation" in r}
    assert set(validated) == {5, 10}
    assert summary.steps == 10
    assert summary.best_value == max(validated.values())
    assert summary.metrics["mean"] == summary.best_value
    best = load_run(run)
    assert best.checkpoint.step == summary.best_step
    assert load_run(run, checkpoint="last").checkpoint.step == 10

    again = train(tiny(), run)  # finished: nothing is trained
    assert again == summary
    assert [r["step"] for r in log_of(run)] == list(range(1, 11))


def test_all_of_a_run_folder_has_the_permissions_that_the_users_mask_gives(tiny: Tiny, tmp_path: Path) -> None:
    settings, run = tiny("train.steps=2", "model.name=text-only"), tmp_path / "run"
    before = os.umask(0o007)  # a group that works together
    try:
        train(settings, run)
        evaluate_run(run, settings)
    finally:
        os.umask(before)
    entries = [run, *run.rglob("*")]
    assert {"metrics.json", "config.yaml", "manifest.json", "log.jsonl"} <= {p.name for p in entries}
    modes = {p.relative_to(run).as_posix(): p.stat().st_mode & 0o777 for p in entries}
    assert {name: mode for name, mode in modes.items() if mode != (0o770 if (run / name).is_dir() else 0o660)} == {}


def test_cached_features_give_the_losses_of_uncached_ones(tiny: Tiny, tmp_path: Path) -> None:
    train(tiny("train.cache_features=true"), tmp_path / "cached")
    train(tiny("train.cache_features=false", "data.workers=1"), tmp_path / "plain")
    assert any((tmp_path / "cache").iterdir())
    for cached, plain in zip(losses(tmp_path / "cached"), losses(tmp_path / "plain"), strict=True):
        assert cached == pytest.approx(plain, rel=1e-5, abs=1e-5)


def test_a_run_that_is_broken_off_goes_on_with_the_same_losses(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tiny("train.accumulate=2", "backbone.freeze={image: 1, text: 1}")
    train(settings, tmp_path / "whole")

    real, calls = restart.save_together, []

    def save_then_die(*args: Any, **kwargs: Any) -> Any:
        real(*args, **kwargs)
        calls.append(args[2].step)
        if len(calls) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(restart, "save_together", save_then_die)
    with pytest.raises(KeyboardInterrupt):
        train(settings, tmp_path / "broken")
    assert [r["step"] for r in log_of(tmp_path / "broken")] == [1, 2, 3, 4]
    summary = train(settings, tmp_path / "broken")
    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")
    whole, broken = (load_run(tmp_path / n, checkpoint="last").checkpoint.weights() for n in ("whole", "broken"))
    assert all(torch.equal(whole[name], broken[name]) for name in whole)
    assert summary.steps == 10


def test_a_trained_tower_moves_and_a_frozen_one_does_not(tiny: Tiny, tmp_path: Path) -> None:
    train(tiny("backbone.freeze={image: 1, text: 2}", "train.lr_backbone=0.01", "train.steps=2"), tmp_path / "run")
    log = log_of(tmp_path / "run")
    assert log[1]["lr_backbone"] == pytest.approx(0.01)
    run = load_run(tmp_path / "run", checkpoint="last")
    stored = [n for n in run.checkpoint.weights() if "resblocks" in n]
    assert stored
    assert not any("resblocks.0." in n for n in stored)


@pytest.mark.parametrize("name", ["image-only", "text-only", "concat", "residual"])
def test_every_simple_system_trains(name: str, tiny: Tiny, tmp_path: Path) -> None:
    train(tiny(f"model.name={name}", "train.steps=2"), tmp_path / name)
    log = log_of(tmp_path / name)
    assert [r["step"] for r in log] == [1, 2]
    assert all(r["loss"] == pytest.approx(r["loss_match"]) and r["loss_concept"] == 0 for r in log)


def test_bf16_and_hard_negatives_run(tiny: Tiny, tmp_path: Path) -> None:
    negatives = ("loss.reference_negatives=true", "loss.subset_negatives=2", "train.steps=2")
    train(tiny("train.precision=bf16", *negatives), tmp_path / "bf16")
    train(tiny(*negatives), tmp_path / "fp32")
    train(tiny("train.steps=2"), tmp_path / "without")
    first = {name: losses(tmp_path / name)[0][2] for name in ("bf16", "fp32", "without")}
    assert first["bf16"] == pytest.approx(first["fp32"], rel=0.05)
    assert first["fp32"] > first["without"]  # more columns, a larger cross-entropy at the start


def test_a_weight_that_is_not_a_number_stops_the_run_and_names_the_batch(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from neucore_xl.training.engines.engine import PlainEngine

    update, count = PlainEngine.update, []

    def poison(self: PlainEngine) -> float:
        norm = update(self)
        count.append(1)
        if len(count) == 5:
            with torch.no_grad():
                next(p for p in self.composer.parameters() if p.requires_grad and p.ndim == 2).fill_(float("nan"))
        return norm

    monkeypatch.setattr(PlainEngine, "update", poison)
    run = tmp_path / "run"
    with pytest.raises(TrainingStopped) as stop:
        train(tiny("train.validate_every=0"), run)
    assert stop.value.step == 6
    assert len(stop.value.ids) == 8
    assert stop.value.checkpoint == run / "checkpoints" / "step-00000004"
    last = log_of(run)[-1]
    assert (last["step"], last["ids"]) == (6, list(stop.value.ids))
    monkeypatch.undo()
    assert train(tiny("train.validate_every=0"), run).steps == 10  # goes on from step 4
    assert [r["step"] for r in log_of(run)] == list(range(1, 11))


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("data.val_split=test9", "test9"),
        ("data.root=nowhere", "nowhere"),
        ("train.batch_size=500", r"train\.batch_size"),
        ("train.accumulate=3", r"train\.accumulate"),
        ("model.name=neucor", "neucor"),
        ("backbone.pretrained=missing.pt", r"missing\.pt"),
        ("train.device=cuda", r"train\.device"),
    ],
)
def test_wrong_input_is_one_sentence_and_makes_no_folder(
    override: str, sentence: str, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=sentence) as error:
        train(tiny(override), tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_run_folder_of_another_config_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    train(tiny("train.steps=1"), tmp_path / "run")
    with pytest.raises(UserError, match=r"train\.lr was 0\.0005, now 0\.1"):
        train(tiny("train.steps=1", "train.lr=0.1"), tmp_path / "run")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_named(workers: int, tiny: Tiny, tmp_path: Path, tiny_data: Path) -> None:
    root = tmp_path / "data"
    subprocess.run(["cp", "-r", str(tiny_data), str(root)], check=True)
    for image in (root / "img_raw" / "train").iterdir():
        image.write_bytes(b"")
    settings = tiny(f"data.root={root}", "train.cache_features=false", f"data.workers={workers}")
    with pytest.raises(UserError, match=r"img_raw/train/train-\d-\d\.png") as error:
        train(settings, tmp_path / "run")
    assert "Traceback" not in str(error.value)


@pytest.mark.slow
def test_compile_wraps_the_forward_and_changes_no_loss(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With dynamo's ``eager`` backend: code generation takes minutes on a small machine and is torch's to test.

    Slow: dynamo traces the model for seconds.
    """
    from neucore_xl.training.engines import engine

    compiled = []

    def compile_eagerly(module: torch.nn.Module, **options: Any) -> Any:
        compiled.append(module)
        return real(module, backend="eager", **options)

    real = torch.compile
    monkeypatch.setattr(engine.torch, "compile", compile_eagerly)
    options = ("model.name=residual", "train.steps=2", "model.dropout=0", "model.correction_dropout=0")
    train(tiny("train.compile=true", *options), tmp_path / "compiled")
    train(tiny(*options), tmp_path / "plain")
    assert len(compiled) == 1
    for a, b in zip(losses(tmp_path / "compiled"), losses(tmp_path / "plain"), strict=True):
        assert a == pytest.approx(b, rel=1e-5)
    load_run(tmp_path / "compiled")  # its names are those of the bare module


def fashion_iq_of(tiny_data: Path, root: Path) -> Path:
    """The tiny pictures as two Fashion-IQ categories."""
    for split in ("train", "val"):
        rows = json.loads((tiny_data / "captions" / f"cap.rc2.{split}.json").read_text())
        for i, category in enumerate(("dress", "shirt")):
            part = rows[i::2]
            names = sorted({r[k] for r in part for k in ("reference", "target_hard")})
            content = {
                "captions/cap": [
                    {"candidate": r["reference"], "target": r["target_hard"], "captions": [r["caption"], "is bright"]}
                    for r in part
                ],
                "image_splits/split": names,
            }
            for stem, value in content.items():
                path = root / f"{stem}.{category}.{split}.json"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(value))
        (root / "images").mkdir(exist_ok=True)
        for picture in (tiny_data / "img_raw" / split).iterdir():
            (root / "images" / picture.name).write_bytes(picture.read_bytes())
    return root


@pytest.mark.parametrize("captions", ["12", "both"])
def test_fashion_iq_trains_and_validates_by_its_own_measure(
    captions: str, tiny: Tiny, tiny_data: Path, tmp_path: Path
) -> None:
    root = fashion_iq_of(tiny_data, tmp_path / "fiq")
    layout = ("data.name=fashion-iq", f"data.root={root}", "data.categories=[dress,shirt]", f"data.captions={captions}")
    summary = train(tiny(*layout, "data.one_category_per_batch=true", "train.steps=2"), tmp_path / "run")
    assert {"R@10", "R@50", "mean"} <= set(summary.metrics)
    assert summary.best_value == pytest.approx((summary.metrics["R@10"] + summary.metrics["R@50"]) / 2)


def test_a_split_without_labels_cannot_choose_a_checkpoint(tiny: Tiny, tiny_data: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    subprocess.run(["cp", "-r", str(tiny_data), str(root)], check=True)
    path = root / "captions" / "cap.rc2.val.json"
    rows = json.loads(path.read_text())
    path.write_text(json.dumps([{k: v for k, v in r.items() if not k.startswith("target")} for r in rows]))
    with pytest.raises(UserError, match=r"carries no labels .* data\.val_split"):
        train(tiny(f"data.root={root}"), tmp_path / "run")


@pytest.mark.parametrize("tty", [True, False])
def test_the_watcher_sees_a_bar_on_a_terminal_and_lines_elsewhere(tty: bool, tiny: Tiny, tmp_path: Path) -> None:
    seen = io.StringIO()
    console = terminal.console(file=seen, force_terminal=tty, width=300)
    train(tiny("train.steps=3", "train.validate_every=2"), tmp_path / "run", console=console)
    lines = [line for line in seen.getvalue().splitlines() if "step 1 · loss" in line]
    assert len(lines) == (0 if tty else 1)
    assert "3 steps: neucore-xl on cirr train (48 triplets), batch 8, cpu in fp32" in seen.getvalue()
    assert "finished after 3 steps; best mean" in seen.getvalue()
    assert ("3/3" in seen.getvalue()) == tty


def command(tiny_data: Path, overrides: list[str], run: Path) -> list[str]:
    """What follows ``python``."""
    return ["-m", "neucore_xl.train", str(tiny_data / "recipe.yaml"), "--run", str(run), *overrides]


@pytest.mark.slow
def test_the_module_entry_prints_wrong_input_as_one_sentence(
    tiny_data: Path, tiny_overrides: list[str], tmp_path: Path
) -> None:
    """Slow: ``python -m neucore_xl.train`` as a user starts it."""
    done = subprocess.run(
        [sys.executable, *command(tiny_data, [*tiny_overrides, "train.stps=3"], tmp_path / "run")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "train.stps" in done.stderr
    assert "train.steps" in done.stderr
    assert not (tmp_path / "run").exists()
