"""The same mathematics on every strategy: losses and parameters of plain training in one process, everywhere.

Slow because each case is a training of its own under each strategy, some 200 of one to four seconds of a core: fewer
would leave a combination of strategy, precision and frozen towers that nothing holds to plain training. The longest
part, both systems with every freeze, takes ten steps; where it is held that something else changes nothing, six do.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

from neucore_xl.models.registry import composer_names
from tests.support.forks import Forks

pytestmark = pytest.mark.slow
WORKER = Path(__file__).with_name("parity_worker.py")
SIX = "train.steps=6"


class Runs:
    """Jobs on the tiny data by name, each run once; those of one number of ranks share their processes."""

    def __init__(self, harness: ModuleType, folder: Path, forks: Forks) -> None:
        self.folder, self.forks = folder, forks
        self.base = harness.tiny_settings(folder)
        self.done = 0

    def run(self, jobs: dict[str, list[str]], ranks: int) -> dict:
        """What rank 0 of ``ranks`` processes saw of each of ``jobs``, done one after the other."""
        out = self.folder / f"out-{self.done}"
        self.done += 1
        out.mkdir()
        asked = [(str(self.folder / "recipe.yaml"), [*self.base, *more]) for more in jobs.values()]
        (out / "jobs.json").write_text(json.dumps(asked))
        self.forks.together([WORKER, out / "jobs.json", out], ranks)
        return {name: torch.load(out / f"{i}.pt", weights_only=False) for i, name in enumerate(jobs)}


@pytest.fixture(scope="module")
def runs(harness: ModuleType, forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(harness, tmp_path_factory.mktemp("parity"), forks)


def under_all(harness: ModuleType, name: str, more: list[str], cut: tuple[str, ...] = ()) -> dict[str, list[str]]:
    return {f"{name} {s}": [*more, *cut, *harness.strategy_settings(s)] for s in harness.STRATEGIES}


@pytest.mark.parametrize("row", ["neucore-xl", "neucore"])
def test_ten_steps_on_two_ranks_are_those_of_one_process(row: str, harness: ModuleType, runs: Runs) -> None:
    settings = {f: [f"model.name={row}", f"backbone.freeze={value}"] for f, value in harness.FREEZE.items()}
    plain = runs.run({f: [*s, "train.strategy=plain"] for f, s in settings.items()}, 1)
    found = runs.run({n: j for f, s in settings.items() for n, j in under_all(harness, f, s).items()}, 2)
    assert len(found) == 15
    for name, trained in found.items():
        reference = plain[name.split()[0]]
        assert reference.losses[0] - reference.losses[-1] > 0.05  # it learns: equal losses are not constant ones
        loss, parameters = harness.difference(reference, trained)
        assert loss < 1e-5, name
        assert parameters < 1e-4, name
        assert trained.norms == pytest.approx(reference.norms, rel=1e-4), name
        if name.endswith("zero3"):
            whole = sum(p.numel() for p in trained.parameters.values())
            assert max(trained.held) < 0.51 * whole, name


def test_one_step_of_every_other_system_is_the_same_under_ddp_and_zero3(
    harness: ModuleType, runs: Runs, bert_folder: Path
) -> None:
    """All of both towers trained: a step that passes through whatever the system reads of them, and its paper's loss.

    The variants of `maaf` are left out: each is parts of `maaf` or of `cirplant-pretrained`.
    """
    full, parts = ("neucore-xl", "neucore"), ("maaf-it", "maaf-rp", "maaf-bert")
    names = [name for name in composer_names() if name not in full + parts]
    towers = harness.TOWERS | {"vision_cfg": harness.TOWERS["vision_cfg"] | {"layers": 3}}
    (runs.folder / "deeper.json").write_text(json.dumps(towers))
    own = {
        "val": [f"backbone.config={runs.folder / 'deeper.json'}", "backbone.name=deeper", "loss.kind=hardest-hinge"],
        "cirplant-pretrained": [f"model.language_model={bert_folder}", "loss.kind=soft-triplet"],
    }
    settings = {
        name: [f"model.name={name}", "backbone.freeze=none", "train.steps=1", *own.get(name, [])] for name in names
    }
    plain = runs.run({name: [*s, "train.strategy=plain"] for name, s in settings.items()}, 1)
    jobs = {n: j for name, s in settings.items() for n, j in under_all(harness, name, s).items()}
    found = runs.run({n: j for n, j in jobs.items() if n.split()[1] in ("ddp", "zero3")}, 2)
    assert len(found) == 2 * len(names)
    for name, trained in found.items():
        reference = plain[name.split()[0]]
        loss, parameters = harness.difference(reference, trained)
        assert loss < 1e-5, name
        assert parameters < 1e-4, name
        assert trained.norms == pytest.approx(reference.norms, rel=1e-4), name


def test_four_ranks_and_micro_batches_and_parts_change_nothing(harness: ModuleType, runs: Runs) -> None:
    trained = ["backbone.freeze=none", SIX]
    plain = runs.run(
        {
            "whole": [*trained, "train.strategy=plain"],
            "cut": [*trained, "train.strategy=plain", "train.micro_batch=4"],
            "parts": [*trained, "train.strategy=plain", "train.accumulate=2"],
        },
        1,
    )
    four = runs.run(under_all(harness, "four", trained), 4)
    two = runs.run(
        under_all(harness, "cut", trained, ("train.micro_batch=4",))
        | under_all(harness, "parts", trained, ("train.accumulate=2",)),
        2,
    )
    assert plain["parts"].losses != pytest.approx(plain["whole"].losses, rel=1e-3)  # other negatives: another loss
    for name, found in {"cut plain": plain["cut"], **four, **two}.items():
        loss, parameters = harness.difference(plain["parts" if name.startswith("parts") else "whole"], found)
        assert loss < 1e-5, name
        assert parameters < 1e-4, name


def test_adapters_on_frozen_towers_train_alike(harness: ModuleType, runs: Runs) -> None:
    """Checkpointed activations and micro-batches among them, which run the adapted layers again."""
    adapters = ["backbone.lora={rank: 4}", SIX]
    again = [*adapters, "backbone.activation_checkpointing=true", "train.micro_batch=4"]
    plain = runs.run({"adapters": [*adapters, "train.strategy=plain"]}, 1)["adapters"]
    trained = {n for n in plain.parameters if ".lora_" in n}
    assert len(trained) == 2 * 2 * 4  # A and B of two layers in each block of each tower
    assert all(plain.parameters[n].abs().sum() > 0 for n in trained)  # B was zero at the start
    jobs = under_all(harness, "adapters", adapters) | under_all(harness, "again", again)
    found = runs.run({name: job for name, job in jobs.items() if name.split()[1] in ("ddp", "zero2", "zero3")}, 2)
    for name, other in found.items():
        loss, parameters = harness.difference(plain, other)
        assert loss < 1e-5, name
        assert parameters < 1e-4, name
        if name.endswith("zero3"):
            assert max(other.held) < 0.51 * sum(p.numel() for p in other.parameters.values()), name


def test_bf16_agrees_within_its_rounding(harness: ModuleType, runs: Runs) -> None:
    trained = ["backbone.freeze=none", SIX]
    more = [*trained, "train.precision=bf16"]
    plain = runs.run({"fp32": [*trained, "train.strategy=plain"], "bf16": [*more, "train.strategy=plain"]}, 1)
    rounding = harness.difference(plain["fp32"], plain["bf16"])[0]
    assert rounding > 1e-5
    for name, found in runs.run(under_all(harness, "bf16", more), 2).items():
        losses = [abs(a - b) for a, b in zip(found.losses, plain["bf16"].losses, strict=True)]
        assert max(losses) < max(0.05, 5 * rounding), name


def test_the_temperature_stays_below_its_bound_under_every_master_copy(harness: ModuleType, runs: Runs) -> None:
    near = ["backbone.freeze=all", "loss.temperature_init=1.0", "loss.temperature_max=1.02", "train.lr_scalars=1e-2"]
    free = ["loss.temperature_max=20"]
    for precision in ("fp32", "bf16"):
        more = [*near, f"train.precision={precision}"]
        found = runs.run(under_all(harness, "near", more) | {"free": [*more, *free, "train.strategy=ddp"]}, 2)
        assert max(found.pop("free").temperatures) > 1.03  # without the bound it would have gone beyond
        for name, trained in found.items():
            assert max(trained.temperatures) <= 1.02 + 1e-6, (precision, name)
