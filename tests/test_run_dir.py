"""``--run-dir``, the name of the run folder's option that every launcher lets through, and ``--run``, its short one."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from argparse import ArgumentParser
from pathlib import Path

import pytest

from neucore_xl import preflight
from neucore_xl import train as train_module
from neucore_xl.cli import main

TRAINING = ["demo", "--run-dir", "runs/a", "--dry-run", "--local_rank=0", "train.lr=1"]
EVALUATION = [
    "--run-dir",
    "r",
    "--data",
    "d",
    "--out",
    "o",
    "--checkpoint",
    "last",
    "--device",
    "cpu",
    "--batch-size",
    "3",
    "--force",
]


def torchrun() -> ArgumentParser:
    from torch.distributed.run import get_args_parser

    return get_args_parser()


def accelerate() -> ArgumentParser:
    from accelerate.commands.launch import launch_command_parser

    return launch_command_parser()


@pytest.mark.parametrize("launcher", [torchrun, accelerate])
@pytest.mark.parametrize(
    ("script", "words"),
    [
        (["-m", "neucore_xl.train"], TRAINING),
        (["-m", "neucore_xl.preflight"], ["demo", "--run-dir", "runs/a", "--free-gib", "1"]),
        (["eval/cirr.py"], [*EVALUATION, "--split", "val", "--labels", "soft"]),
        (["eval/fashion_iq.py"], EVALUATION),
    ],
)
def test_a_launcher_hands_all_words_on(launcher: object, script: list[str], words: list[str]) -> None:
    assert launcher().parse_args([*script, *words]).training_script_args == words  # type: ignore[operator]


def test_torchrun_takes_the_short_name_for_its_own() -> None:
    with contextlib.redirect_stderr(io.StringIO()) as said, pytest.raises(SystemExit):
        torchrun().parse_args(["-m", "neucore_xl.train", "demo", "--run", "runs/a"])
    assert "--run could match --run-path" in said.getvalue()  # if not, the pages need not prefer the other name


@pytest.mark.parametrize("name", ["--run", "--run-dir"])
def test_both_names_are_one_option(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Path] = []

    def note(settings: object, run: Path, *_: object, **__: object) -> int:
        given.append(run)
        return 0

    monkeypatch.setattr("neucore_xl.training.job.run_job", note)
    monkeypatch.setattr(preflight, "preflight", note)
    words = ["demo", name, str(tmp_path / "run")]
    train_module.main(words)
    preflight.main(words)
    with pytest.raises(SystemExit):
        main(["train", *words])
    assert given == [tmp_path / "run"] * 3


@pytest.mark.slow
def test_the_real_torchrun_lets_it_through(tmp_path: Path) -> None:
    foreign = ("SLURM_", "ACCELERATE_", "TORCHELASTIC_", "MASTER_", "RANK", "WORLD_SIZE", "LOCAL_", "NEUCORE_")
    environ = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
    words = ["dmo", "--run-dir", str(tmp_path / "run"), "train.steps=3"]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node=2",
            "-m",
            "neucore_xl.train",
            *words,
        ],
        capture_output=True,
        text=True,
        env=environ,
        timeout=300,
    )
    assert done.returncode == 1  # torchrun's own
    assert done.stderr.count("error: Unknown recipe 'dmo'; did you mean demo?") == 1, done.stderr
    assert not (tmp_path / "run").exists()
