"""The engine and the loop on a toy model: accumulation, clipping, precision, stopping, and what is logged when."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from neucore_xl.config.schema import LossSettings, Settings, TrainSettings
from neucore_xl.data.batches import Batch
from neucore_xl.errors import UserError
from neucore_xl.parallel.world import World
from neucore_xl.runs.checkpoints.checkpoint import Contents, Identity
from neucore_xl.runs.checkpoints.save import save_together
from neucore_xl.training.engines.engine import PlainEngine
from neucore_xl.training.journal import Journal, RunLog, cut_log, read_log
from neucore_xl.training.loop import Hooks, TrainingStopped, TrainState, Validation, run_loop
from neucore_xl.training.losses import objective
from neucore_xl.training.randomness import kept_random_state, random_state, restore_random_state, seed_everything

Toy = Callable[..., Any]
BatchOf = Callable[..., Batch]


def settings(**train: Any) -> Settings:
    base = {"steps": 6, "warmup_steps": 0, "log_every": 1, "validate_every": 3, "checkpoint_every": 2, "device": "cpu"}
    return Settings(train=TrainSettings(**(base | train)))


class Recorder:
    """Hooks that only note what was asked of them."""

    def __init__(self, values: list[float] | None = None) -> None:
        self.saved: list[int] = []
        self.best: list[int] = []
        self.values = values or [10.0, 20.0, 5.0]

    def hooks(self) -> Hooks:
        def save(state: TrainState, validation: Validation | None, best: bool) -> None:
            self.saved.append(state.step)
            if best:
                assert validation is not None
                self.best.append(state.step)

        def validate() -> Validation:
            value = self.values.pop(0)
            return Validation(value, {"mean": value})

        return Hooks(validate, save, lambda: Path(f"step-{self.saved[-1]}") if self.saved else None)


def run(engine: PlainEngine, batches: list[Batch], tree: Settings, folder: Path, recorder: Recorder) -> TrainState:
    folder.mkdir(exist_ok=True)
    with Journal(RunLog(folder), tree.train.steps) as journal:
        stream = [[b] if isinstance(b, Batch) else b for b in batches]
        return run_loop(engine, stream, tree, TrainState(), journal, recorder.hooks(), batches_per_epoch=4)


def test_every_step_is_logged_once_with_its_keys(toy: Toy, batch_of: BatchOf, tmp_path: Path) -> None:
    model, tree, recorder = toy(), settings(), Recorder([10.0, 5.0])
    engine = PlainEngine(model, model.backbone, tree.train)
    state = run(engine, [batch_of(i) for i in range(6)], tree, tmp_path, recorder)
    log = read_log(tmp_path / "log.jsonl")
    assert [r["step"] for r in log] == [1, 2, 3, 4, 5, 6]
    expected = {"step", "loss", "loss_match", "loss_concept", "lr", "samples_per_second", "data_wait"}
    assert all(expected | {"temperature", "grad_norm", "epoch"} <= set(r) for r in log)
    assert all(r["loss"] == pytest.approx(r["loss_match"] + 0.1 * r["loss_concept"], rel=1e-6) for r in log)
    assert all(0 <= r["data_wait"] <= 1 and r["samples_per_second"] > 0 for r in log)
    assert [r["epoch"] for r in log] == [0.25, 0.5, 0.75, 1.0, 1.25, 1.5]
    assert log[0]["lr"] == pytest.approx(5e-4)
    assert [r["step"] for r in log if "validation" in r] == [3, 6]
    assert recorder.saved == [2, 3, 4, 6]
    assert recorder.best == [3]
    assert (state.step, state.best_step, state.best_value) == (6, 3, 10.0)
    assert list((tmp_path / "tensorboard").iterdir())


def test_log_every_and_validation_steps_are_joined(toy: Toy, batch_of: BatchOf, tmp_path: Path) -> None:
    model, tree = toy(), settings(log_every=4, validate_every=0)
    engine = PlainEngine(model, model.backbone, tree.train)
    run(engine, [batch_of(i) for i in range(6)], tree, tmp_path, Recorder())
    assert [(r["step"], "validation" in r) for r in read_log(tmp_path / "log.jsonl")] == [(4, False), (6, True)]


def gradients(model: torch.nn.Module) -> list[torch.Tensor]:
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def test_accumulated_gradients_are_the_mean_over_micro_batches(toy: Toy, batch_of: BatchOf) -> None:
    parts = [batch_of(1), batch_of(2), batch_of(3)]
    model = toy()
    engine = PlainEngine(model, model.backbone, settings().train)
    for part in parts:
        output, batch = engine.forward(part)
        engine.backward(objective(model, output, batch, LossSettings()).total / 3)
    accumulated = gradients(model)
    single: list[list[torch.Tensor]] = []
    for part in parts:
        other = toy()
        objective(other, other("train", part), part, LossSettings()).total.backward()
        single.append(gradients(other))
    assert len(accumulated) == 7
    for i, gradient in enumerate(accumulated):
        assert torch.allclose(gradient, sum(s[i] for s in single) / 3, atol=1e-6)


def test_the_logged_loss_of_an_accumulated_step_is_the_mean(toy: Toy, batch_of: BatchOf, tmp_path: Path) -> None:
    model, tree = toy(), settings(steps=1, accumulate=2)
    alone = [objective(model, model("train", b), b, tree.loss).total.item() for b in (batch_of(0), batch_of(1))]
    engine = PlainEngine(model, model.backbone, tree.train)
    run(engine, [batch_of(0), batch_of(1)], tree, tmp_path, Recorder())
    assert read_log(tmp_path / "log.jsonl")[0]["loss"] == pytest.approx(sum(alone) / 2, rel=1e-6)


@pytest.mark.parametrize("clip", [0.0, 1e-3])
def test_clipping_bounds_the_gradient_and_zero_leaves_it(clip: float, toy: Toy, batch_of: BatchOf) -> None:
    model = toy()
    engine = PlainEngine(model, model.backbone, settings(clip_norm=clip).train)
    output, batch = engine.forward(batch_of(0))
    engine.backward(objective(model, output, batch, LossSettings()).total)
    before = torch.stack([g.norm() for g in gradients(model)]).norm().item()
    after: list[float] = []
    optimizer = engine._optimizer
    optimizer.register_step_pre_hook(
        lambda *given: after.append(torch.stack([g.norm() for g in gradients(model)]).norm().item())
    )
    assert engine.update() == pytest.approx(before, rel=1e-5)
    assert after == pytest.approx([clip or before], rel=1e-2)
    assert not gradients(model)  # cleared for the next step


def test_a_parameter_that_a_step_does_not_use_is_decayed_like_the_others(toy: Toy, batch_of: BatchOf) -> None:
    model = toy()
    engine = PlainEngine(model, model.backbone, settings(weight_decay=0.5, lr=0.1).train)
    before = model.concepts.weight.detach().clone()
    output, batch = engine.forward(batch_of(0))
    engine.backward(objective(model, output, batch, LossSettings(concept_weight=0)).total)
    assert model.concepts.weight.grad is None
    engine.update()
    assert torch.allclose(
        model.concepts.weight, before * (1 - 0.1 * 0.5)
    )  # as under ZeRO, which has no missing gradient


def test_bf16_forward_runs_in_bf16_and_its_loss_in_fp32(toy: Toy, batch_of: BatchOf) -> None:
    losses = {}
    for precision in ("fp32", "bf16"):
        model = toy()
        engine = PlainEngine(model, model.backbone, settings(precision=precision).train)
        output, batch = engine.forward(batch_of(0))
        assert output.targets["f"].dtype == (torch.bfloat16 if precision == "bf16" else torch.float32)
        total = objective(model, output, batch, LossSettings()).total
        assert total.dtype == torch.float32
        losses[precision] = total.item()
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.05)
    assert losses["bf16"] != losses["fp32"]


def test_a_loss_that_is_not_finite_stops_before_the_update(toy: Toy, batch_of: BatchOf, tmp_path: Path) -> None:
    model, tree, recorder = toy(), settings(), Recorder()
    engine = PlainEngine(model, model.backbone, tree.train)
    bad = batch_of(2)
    bad.texts.pooled[1, 0] = float("nan")  # type: ignore[union-attr]
    with pytest.raises(
        TrainingStopped, match=r"loss is not finite at step 3: .*2-0, 2-1.* checkpoint is step-2"
    ) as stop:
        run(engine, [batch_of(0), batch_of(1), bad], tree, tmp_path, recorder)
    assert (stop.value.step, stop.value.ids, stop.value.checkpoint) == (3, bad.ids, Path("step-2"))
    assert all(torch.isfinite(p).all() for p in model.parameters())
    last = read_log(tmp_path / "log.jsonl")[-1]
    assert (last["step"], last["loss"], last["ids"], last["checkpoint"]) == (3, None, list(bad.ids), "step-2")


def test_a_gradient_that_is_not_finite_stops_before_the_update(toy: Toy, batch_of: BatchOf, tmp_path: Path) -> None:
    model, tree = toy(), settings()
    model.text.weight.register_hook(lambda g: g * float("inf"))
    engine = PlainEngine(model, model.backbone, tree.train)
    with pytest.raises(TrainingStopped, match=r"gradient is not finite at step 1.*no checkpoint"):
        run(engine, [batch_of(0)], tree, tmp_path, Recorder())
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_an_error_of_the_loader_is_raised_as_it_is(toy: Toy, tmp_path: Path) -> None:
    model, tree = toy(), settings()
    engine = PlainEngine(model, model.backbone, tree.train)
    with pytest.raises(UserError, match=r"^image x\.png is truncated$"):
        run(engine, [UserError("image x.png is truncated")], tree, tmp_path, Recorder())  # type: ignore[list-item]


def test_stopping_and_going_on_equals_one_run(toy: Toy, batch_of: BatchOf, tmp_path: Path) -> None:
    """Weights, optimiser, schedule and random state (there is dropout) carry over, bit for bit."""
    tree = settings(steps=6)
    batches = [batch_of(i) for i in range(6)]
    whole = toy(dropout=0.5)
    run(PlainEngine(whole, whole.backbone, tree.train), batches, tree, tmp_path / "whole", Recorder())

    first = toy(dropout=0.5)
    engine = PlainEngine(first, first.backbone, tree.train)
    with pytest.raises(StopIteration):
        run(engine, batches[:2], tree, tmp_path / "part", Recorder())
    contents = Contents(2, Identity("toy", "b", "v"), rank_extra={"random": random_state()})
    saved = save_together(tmp_path / "checkpoints", World(), contents, engine.save)

    seed_everything(99)
    second = toy(dropout=0.5)
    engine = PlainEngine(second, second.backbone, tree.train)
    engine.restore(saved)
    own = saved.rank_extra(0)
    assert own is not None
    restore_random_state(own["random"])
    with Journal(RunLog(tmp_path / "part", 2), 6, 2) as journal:
        run_loop(engine, [[b] for b in batches[2:]], tree, TrainState(2), journal, Recorder().hooks(), 4)

    def losses(name: str) -> list[float]:
        return [r["loss"] for r in read_log(tmp_path / name / "log.jsonl")]

    assert len(losses("whole")) == 6
    assert losses("part") == losses("whole")
    for a, b in zip(whole.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_validation_draws_no_random_number_of_the_run() -> None:
    seed_everything(3)
    with kept_random_state(0):
        inside = torch.rand(3)
    after = torch.rand(3)
    seed_everything(3)
    assert torch.equal(after, torch.rand(3))
    seed_everything(0)
    assert torch.equal(inside, torch.rand(3))


def test_cutting_a_log_drops_later_steps_and_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps({"step": s}) + "\n" for s in range(1, 6)) + '{"step": 6, "lo')
    assert [r["step"] for r in read_log(path)] == [1, 2, 3, 4, 5]
    cut_log(path, 3)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n{"step": 3}\n'
