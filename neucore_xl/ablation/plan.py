"""The runs of an ablation: every combination of the varied values, with every seed. Imports no torch."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from neucore_xl.config.schema import Settings
from neucore_xl.data.settings import job_settings
from neucore_xl.errors import UserError

_PLAIN = re.compile(r"[^A-Za-z0-9._+-]+")


@dataclass(frozen=True)
class Variant:
    """One combination of values: its name in tables, its folder's name, and the overrides that make it."""

    name: str
    folder: str
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class PlannedRun:
    """One training of the ablation."""

    variant: Variant
    seed: int
    settings: Settings
    path: Path
    overrides: tuple[str, ...]

    def command(self, recipe: str) -> str:
        """The same training as a command of its own, for a cluster: its run folder is then found finished."""
        return shlex.join(["neucore-xl", "train", recipe, *self.overrides, "--run-dir", str(self.path)])


def variants(vary: Sequence[str]) -> list[Variant]:
    """All combinations of ``KEY=VALUE,VALUE,…`` arguments, in their order; the first is what others are compared with.

    Raises ``UserError`` for an argument without ``=``, a value that comes twice and fewer than two combinations.
    """
    axes: list[list[str]] = []
    for argument in vary:
        key, equals, values = argument.partition("=")
        found = [v.strip() for v in values.split(",") if v.strip()]
        if not equals or not key or not found:
            raise UserError(f"--vary {argument}: give a setting and values, such as fusion.sequence=learned,clauses")
        if len(set(found)) != len(found):
            raise UserError(f"--vary {argument}: a value comes twice")
        axes.append([f"{key}={v}" for v in found])
    combinations = list(itertools.product(*axes))
    if len(combinations) < 2:
        raise UserError("--vary gives one combination only: name at least two values to compare")
    out = []
    for chosen in combinations:
        name = ", ".join(c.partition("=")[2] for c in chosen)
        out.append(Variant(name, _PLAIN.sub("-", "+".join(c.partition("=")[2] for c in chosen)), chosen))
    if len({v.folder for v in out}) != len(out):
        raise UserError("--vary: two combinations would share a folder; give values that differ in letters or digits")
    return out


def planned_runs(
    recipe: str, overrides: Sequence[str], vary: Sequence[str], seeds: int, out: Path, *, first_seed: int = 0
) -> list[PlannedRun]:
    """All runs, seed by seed, so that a comparison of all values stands as early as possible.

    Every tree of settings is checked here. Raises ``UserError`` as ``job_settings`` and ``variants`` do, and for
    settings that an ablation sets itself.
    """
    if seeds < 1:
        raise UserError(f"--seeds {seeds}: at least one")
    for argument in (*overrides, *vary):
        if argument.partition("=")[0] == "train.seed":
            raise UserError("train.seed is set by --seeds and --first-seed: leave it out")
    runs = []
    chosen = variants(vary)
    for seed in range(first_seed, first_seed + seeds):
        for variant in chosen:
            own = (*overrides, *variant.overrides, f"train.seed={seed}")
            runs.append(
                PlannedRun(variant, seed, job_settings(recipe, own), out / variant.folder / f"seed-{seed}", own)
            )
    return runs
