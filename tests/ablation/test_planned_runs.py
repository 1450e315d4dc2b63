"""Planned runs: variants of one seed, time left, what a log says of the time that training took, run folders."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

from neucore_xl import terminal
from neucore_xl.ablation import run as carrying
from neucore_xl.ablation.plan import Variant, planned_runs
from neucore_xl.ablation.run import Failed, TimeLeft, carry_out, check, wall_seconds
from neucore_xl.ablation.timing import parameter_counts, seconds_per_query, training_seconds
from neucore_xl.config.load import dump_yaml
from neucore_xl.config.schema import Settings
from neucore_xl.errors import UserError
from neucore_xl.evaluation.result import Result
from neucore_xl.files import write_json
from neucore_xl.progress import duration
from neucore_xl.training.loop import TrainingStopped

TWO = [Variant("a", "a", ("model.width=64",)), Variant("b", "b", ("model.width=128",), one_seed="fixed")]


def test_a_variant_that_no_seed_changes_runs_once(tmp_path: Path) -> None:
    runs = planned_runs("demo", ["train.steps=7"], TWO, 3, tmp_path, first_seed=5)
    assert [(r.variant.name, r.seed) for r in runs] == [("a", 5), ("b", 5), ("a", 6), ("a", 7)]
    assert runs[-1].path == tmp_path / "a" / "seed-7"
    assert runs[-1].settings.train.seed == 7
    assert runs[1].overrides == ("train.steps=7", "model.width=128", "train.seed=5")


def test_time_left_is_that_of_the_same_variant_where_it_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = planned_runs("demo", [], [TWO[0], replace(TWO[1], one_seed="")], 3, tmp_path)
    done = {runs[0].path}  # a, seed 0, was finished by an earlier call
    runs[0].path.mkdir(parents=True)
    write_json(runs[0].path / "seconds.json", {"wall_seconds": 100.0})
    monkeypatch.setattr(carrying, "trained", lambda run: run.path in done)
    left = TimeLeft(runs)
    assert left.seconds() == pytest.approx(5 * 100)  # nothing is known of b
    left.done(runs[0], 3.0)  # finished before: the seconds are those of looking
    assert left.seconds() == pytest.approx(5 * 100)
    left.done(runs[1], 10.0)
    assert left.seconds() == pytest.approx(2 * 100 + 2 * 10)
    assert left.words() == " (about 4 min left)"
    for run in runs[2:]:
        left.done(run, 1.0)
    assert left.words() == ""


def test_nothing_is_said_of_the_time_before_anything_is_known(tmp_path: Path) -> None:
    assert TimeLeft(planned_runs("demo", [], TWO, 1, tmp_path)).words() == ""


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (3599, "1 h 00 min"), (11100, "3 h 05 min")]
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_seconds_of_a_log() -> None:
    records = [
        {"step": 10, "samples_per_second": 1.0},  # compiles
        {"step": 20, "samples_per_second": 10.0},
        {"step": 25, "validation": {"mean": 1.0}, "samples_per_second": 20.0},
    ]
    assert seconds_per_query(records) == pytest.approx((10 / 10 + 5 / 20) / 15)
    assert training_seconds(records, 8) == pytest.approx(8 * (10 / 1 + 10 / 10 + 5 / 20))
    assert seconds_per_query(records[:1]) == pytest.approx(1.0)
    assert seconds_per_query([]) is None
    assert training_seconds([{"step": 1, "stopped": "the loss is not finite"}], 8) is None


def test_parameters_of_heads_and_of_what_is_trained() -> None:
    tower = nn.Linear(3, 3).requires_grad_(False)
    composer = nn.Module()
    composer.backbone, composer.head = tower, nn.Linear(3, 2, bias=False)
    assert parameter_counts(composer, tower) == {"trained": 6, "heads": 6}
    tower.bias.requires_grad_(True)
    composer.head.requires_grad_(False)
    composer.extra = nn.Parameter(torch.zeros(5))
    assert parameter_counts(composer, tower) == {"trained": 3 + 5, "heads": 6 + 5}


def test_a_folder_of_other_runs_is_refused_before_the_first_is_trained(tmp_path: Path) -> None:
    runs = planned_runs("demo", [], TWO, 1, tmp_path)
    runs[1].path.mkdir(parents=True)
    (runs[1].path / "config.yaml").write_text(
        dump_yaml(planned_runs("demo", ["train.lr=1"], TWO, 1, tmp_path)[1].settings)
    )
    with pytest.raises(UserError, match=r"of another config \(train\.lr was 1.*give another --out") as error:
        check(runs[1:])
    assert "--run-dir" not in str(error.value)
    (runs[0].path).mkdir(parents=True)
    (runs[0].path / "thesis.tex").touch()
    with pytest.raises(UserError, match=r"holds thesis\.tex.*--out"):
        check(runs)


def test_a_run_that_diverges_is_left_out_where_others_may_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = planned_runs("demo", [], TWO, 1, tmp_path)
    result = Result({}, {"mean": 1.0}, ("q",), {"mean": np.ones(1)})

    def train(settings: Settings, path: Path, *, console: Console) -> None:
        if settings.model.width == 64:
            raise TrainingStopped("the loss is not finite", 3, ("x",), None)
        path.mkdir(parents=True)

    monkeypatch.setattr(carrying, "train", train)
    monkeypatch.setattr(carrying, "evaluate_run", lambda path, settings: result)
    said = io.StringIO()
    failed: list[Failed] = []
    finished = list(carry_out(runs, terminal.console(file=said), failed))
    assert [f.run for f in finished] == [runs[1]]
    assert [f.run for f in failed] == [runs[0]]
    assert "left out: the loss is not finite at step 3" in said.getvalue()
    assert (wall_seconds(runs[1].path) or -1) >= 0
    with pytest.raises(TrainingStopped):
        list(carry_out(runs, terminal.console(file=said)))
