"""Parameter groups, the schedule, and what clipping 0 means."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from neucore_xl.config.schema import Settings, TrainSettings
from neucore_xl.errors import UserError
from neucore_xl.models.composer import Composer
from neucore_xl.models.registry import build_composer, composer_names
from neucore_xl.training.optim import WarmupCosine, WarmupLinear, build_optimizer, build_scheduler, parameter_groups
from tests.support.tiny_runs import ToyComposer


class Toy(ToyComposer):
    """Heads of every shape, and a layer that is slowed because the composer says so, whatever it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 4))
        self.backbone[0].requires_grad_(False)
        self.colour_correction = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.shift = nn.Linear(4, 4)
        self.position = nn.Parameter(torch.zeros(1, 1, 4))

    def slow_parameters(self) -> Iterable[nn.Parameter]:
        return self.shift.parameters()


def build(settings: dict[str, Any], backbone: Any, vocabulary: Any) -> Composer:
    heads = {"width": 16, "heads": 2}
    return build_composer(Settings.model_validate({"model": heads | settings}), backbone, vocabulary)


def test_every_trainable_parameter_is_in_one_group_with_its_rate_and_decay() -> None:
    model = Toy()
    settings = TrainSettings(lr=1e-3, lr_backbone=1e-5, lr_correction_scale=0.1, lr_scalars=3e-3, weight_decay=0.2)
    groups = {g["name"]: g for g in parameter_groups(model, model.backbone, settings)}
    rates = {name: (g["lr"], g["weight_decay"], len(g["params"])) for name, g in groups.items()}
    assert rates == {
        "heads": (1e-3, 0.2, 4),
        "heads-vectors": (1e-3, 0.0, 7),  # four biases, two of the norm, position
        "backbone": (1e-5, 0.2, 1),
        "backbone-vectors": (1e-5, 0.0, 3),
        "correction": (pytest.approx(1e-4), 0.2, 2),
        "scalars": (3e-3, 0.0, 1),  # the temperature
    }
    grouped = [id(p) for g in groups.values() for p in g["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(p) for p in model.parameters() if p.requires_grad}


def test_a_correction_without_gradient_decays_towards_zero() -> None:
    model = Toy()
    optimizer = build_optimizer(model, model.backbone, TrainSettings(lr=1.0, weight_decay=0.5))
    before = model.shift.bias.detach().clone()
    model.shift.bias.grad = torch.zeros(4)
    optimizer.step()
    assert torch.allclose(model.shift.bias, before * (1 - 0.1 * 0.5))


def test_no_system_slows_anything_but_neucore_xl_its_correction(
    make_backbone: Any, vocabulary: Any, bert_folder: Path
) -> None:
    backbone = make_backbone(levels=3)
    for name in composer_names():
        composer = build({"name": name, "language_model": bert_folder}, backbone, vocabulary)
        slow = {id(p) for p in composer.slow_parameters()}
        named = {n for n, p in composer.named_parameters() if id(p) in slow}
        assert named == {n for n, _ in composer.named_parameters() if n.startswith("correction.")}
        assert bool(named) == (name == "neucore-xl")


@pytest.mark.parametrize("freeze", ["all", "none"])
def test_stored_optimiser_states_of_earlier_versions_fit(make_backbone: Any, vocabulary: Any, freeze: str) -> None:
    """Once a parameter was slowed for its name. Groups and the order within them are those of that rule.

    Single numbers had no rate of their own then: a run of that time is opened with `train.lr_scalars=null`.
    """
    composer = build({"name": "neucore-xl"}, make_backbone(freeze=freeze), vocabulary)
    names = {id(p): n for n, p in composer.named_parameters()}

    def group_by_name(name: str, parameter: nn.Parameter) -> str:
        if "correction" in name:
            return "correction"
        kind = "backbone" if name.startswith("backbone.") else "heads"
        return f"{kind}-vectors" if parameter.squeeze().ndim < 2 else kind

    order = ("heads", "heads-vectors", "backbone", "backbone-vectors", "correction")
    trained = [(n, p) for n, p in composer.named_parameters() if p.requires_grad]
    by_name = {group: [n for n, p in trained if group_by_name(n, p) == group] for group in order}
    now = [
        (group["name"], [names[id(p)] for p in group["params"]])
        for group in parameter_groups(composer, composer.backbone, TrainSettings(lr_scalars=None))  # type: ignore[arg-type]
    ]
    assert now == [(group, members) for group, members in by_name.items() if members]
    assert len(now) == (3 if freeze == "all" else 5)


def test_nothing_to_train_is_refused() -> None:
    model = Toy().requires_grad_(False)
    with pytest.raises(UserError, match="nothing to train"):
        parameter_groups(model, model.backbone, TrainSettings())


def test_warm_up_and_cosine_by_hand() -> None:
    factor = WarmupCosine(warmup=4, steps=14)
    assert [factor(s) for s in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert factor(9) == pytest.approx(0.5)
    assert factor(13) == pytest.approx(0.5 * (1 + math.cos(0.9 * math.pi)))
    assert factor(13) > 0
    assert factor(14) == pytest.approx(0.0)


def test_the_straight_line_by_hand() -> None:
    factor = WarmupLinear(warmup=2, steps=12)
    assert [factor(s) for s in (0, 1, 2, 7, 11, 12, 20)] == pytest.approx([0.5, 1.0, 1.0, 0.5, 0.1, 0.0, 0.0])
    assert [WarmupLinear(0, 4)(s) for s in range(4)] == [1.0, 0.75, 0.5, 0.25]


@pytest.mark.parametrize("kind", [WarmupCosine, WarmupLinear])
def test_no_warm_up_starts_at_the_peak_and_a_short_run_never_peaks(kind: Any) -> None:
    assert kind(0, 10)(0) == 1.0
    assert max(kind(100, 10)(s) for s in range(10)) == pytest.approx(0.1)


@pytest.mark.parametrize(("schedule", "kind"), [("cosine", WarmupCosine), ("linear", WarmupLinear)])
def test_the_schedule_moves_every_group_by_the_same_factor(schedule: Any, kind: Any) -> None:
    model = Toy()
    settings = TrainSettings(steps=6, warmup_steps=2, lr=1e-3, lr_backbone=1e-5, schedule=schedule)
    optimizer = build_optimizer(model, model.backbone, settings)
    scheduler = build_scheduler(optimizer, settings)
    factor = kind(2, 6)
    for step in range(6):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-3 * factor(step))
        assert optimizer.param_groups[2]["lr"] == pytest.approx(1e-5 * factor(step))
        optimizer.step()
        scheduler.step()
