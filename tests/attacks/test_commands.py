"""Commands that are printed for a person to paste: every word of theirs arrives as one word, whatever it holds."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest

from neucore_xl.ablation.plan import PlannedRun, Variant
from neucore_xl.config.schema import Settings
from neucore_xl.errors import UserError
from neucore_xl.language.spacy_pipeline import load_pipeline
from neucore_xl.sizing.plan import Cluster, Plan

HOSTILE = [
    "a b", "a;touch owned", "$(touch owned)", "`touch owned`", "a&&b", "a|b", "a>b", "it's", 'say "x"', "*", "~", "#x",
    "a\\b", "a\nb", "${HOME}", "!!", "{image: 6, text: 0}", "[a]", "größe", "a\tb", "--run-dir", "",
]  # fmt: skip


@dataclass(frozen=True)
class Fits:
    """A strategy that fits, as much of it as the command asks for."""

    file: str | None = None
    fits: bool = True
    strategy: str = "ddp"


@pytest.mark.parametrize("word", HOSTILE, ids=ascii)
def test_the_command_that_submits_a_plan(word: str) -> None:
    recipe, override = f"my {word}/recipe.yaml", f"data.root=/data/{word}"
    plan = Plan(recipe, (override,), Cluster(2, 8, 80.0), 1, 1, 1, 1, (Fits(),), None, ())  # type: ignore[arg-type]
    assert plan.command is not None
    assert shlex.split(plan.command) == [
        "sbatch", "--nodes=2", "--gpus-per-node=8", "slurm/train.sbatch", recipe, "--run-dir", "runs/recipe", override,
    ]  # fmt: skip


@pytest.mark.parametrize("word", HOSTILE, ids=ascii)
def test_the_command_of_an_ablations_run(word: str) -> None:
    override = f"data.root=/data/{word}"
    run = PlannedRun(Variant("a", "a", ()), 0, Settings(), Path("out") / f"x{word}", (override,))
    words = ["neucore-xl", "train", f"{word}.yaml", override, "--run-dir", str(run.path)]
    assert shlex.split(run.command(f"{word}.yaml")) == words


@pytest.mark.parametrize("word", [word for word in HOSTILE if word and "`" not in word], ids=ascii)
def test_the_command_that_fetches_a_pipeline(word: str) -> None:
    with pytest.raises(UserError) as caught:
        load_pipeline(f"no {word}")
    commands = re.findall(r"`(python -m spacy[^`]*)`", str(caught.value))
    assert [shlex.split(command) for command in commands] == [["python", "-m", "spacy", "download", f"no {word}"]]
