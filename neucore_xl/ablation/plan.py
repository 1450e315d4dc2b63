"""The runs of a table: every variant of a recipe, with every seed. Imports no torch.

A variant is a combination of varied values (an ablation) or a system (a comparison).
"""

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
    """One row of a table: its name there, its folder's name, and the overrides that make it.

    ``one_seed`` says why one seed is enough, where nothing of it depends on the seed; else it is empty.
    """

    name: str
    folder: str
    overrides: tuple[str, ...]
    one_seed: str = ""


@dataclass(frozen=True)
class PlannedRun:
    """One training."""

    variant: Variant
    seed: int
    settings: Settings
    path: Path
    overrides: tuple[str, ...]

    def command(self, recipe: str) -> str:
        """The same training as a command of its own, for a cluster: its run folder is then found finished."""
        return shlex.join(["neucore-xl", "train", recipe, *self.overrides, "--run-dir", str(self.path)])


def folder_name(text: str) -> str:
    """``text`` as the name of a folder."""
    return _PLAIN.sub("-", text)


def varied(vary: Sequence[str]) -> list[Variant]:
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
        out.append(Variant(name, folder_name("+".join(c.partition("=")[2] for c in chosen)), chosen))
    if len({v.folder for v in out}) != len(out):
        raise UserError("--vary: two combinations would share a folder; give values that differ in letters or digits")
    return out


def planned_runs(
    recipe: str,
    overrides: Sequence[str],
    variants: Sequence[Variant],
    seeds: int,
    out: Path,
    *,
    first_seed: int = 0,
) -> list[PlannedRun]:
    """All runs, seed by seed, so that a comparison of all variants stands as early as possible.

    A variant with ``one_seed`` runs with the first one alone. Every tree of settings is checked here. Raises
    ``UserError`` as ``job_settings`` does, and for settings that the plan sets itself.
    """
    if seeds < 1:
        raise UserError(f"--seeds {seeds}: at least one")
    for argument in (*overrides, *(o for variant in variants for o in variant.overrides)):
        if argument.partition("=")[0] == "train.seed":
            raise UserError("train.seed is set by --seeds and --first-seed: leave it out")
    runs = []
    for seed in range(first_seed, first_seed + seeds):
        for variant in variants:
            if variant.one_seed and seed > first_seed:
                continue
            own = (*overrides, *variant.overrides, f"train.seed={seed}")
            runs.append(
                PlannedRun(variant, seed, job_settings(recipe, own), out / variant.folder / f"seed-{seed}", own)
            )
    return runs
