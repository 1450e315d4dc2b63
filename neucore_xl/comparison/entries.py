"""A finished run as an entry of ``results.json``."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from neucore_xl.ablation.plan import PlannedRun
from neucore_xl.ablation.run import Finished, wall_seconds
from neucore_xl.ablation.timing import seconds_per_query, training_seconds
from neucore_xl.comparison.chance import chance
from neucore_xl.comparison.results import Entry
from neucore_xl.config.schema import Settings
from neucore_xl.data.datasets import open_from_settings
from neucore_xl.models.registry import composer_class
from neucore_xl.runs.folder import RunFolder
from neucore_xl.training.journal import LOG_NAME, read_log
from neucore_xl.training.stream import batch_order


@dataclass(frozen=True)
class Asked:
    """What the user asked for: recipe, overrides, the folder of all runs."""

    recipe: str
    overrides: Sequence[str]
    out: Path

    def command(self, run: PlannedRun) -> str:
        """The command that makes this one cell of the table again, its paths relative to the working folder."""
        words = ["neucore-xl", "compare", self.recipe, "--systems", run.variant.name, "--seeds", "1"]
        words += ["--first-seed", str(run.seed), "--out", _from_here(str(self.out))]
        return shlex.join([*words, *map(_from_here, self.overrides)])

    def task_command(self, number: int, systems: str, seeds: int, first_seed: int) -> str:
        """The command of run ``number`` of the plan alone, for a cluster: a call without a task finds it finished."""
        words = ["neucore-xl", "compare", self.recipe, "--systems", systems, "--seeds", str(seeds)]
        words += ["--first-seed", str(first_seed), "--out", str(self.out), "--task", str(number)]
        return shlex.join([*words, *self.overrides])


class Entries:
    """Makes entries; what is the same for all runs is found out once."""

    def __init__(self, asked: Asked, settings: Settings) -> None:
        self._asked, self._settings = asked, settings

    @cached_property
    def _validation(self) -> Any:
        return open_from_settings(self._settings.data, self._settings.data.val_split)

    @cached_property
    def _training(self) -> Any:
        return open_from_settings(self._settings.data, self._settings.data.train_split)

    def entry(self, finished: Finished) -> Entry:
        """The entry of one run, without what its seeds give together."""
        run, result = finished.run, finished.result
        train = run.settings.train
        records = read_log(run.path / LOG_NAME)
        closed = composer_class(run.variant.name).closed_form
        per_query = None if closed else seconds_per_query(records)
        batches = batch_order(self._training, run.settings).per_epoch
        environment = result.environment
        return Entry(
            system=run.variant.name,
            seed=run.seed,
            metrics={name: float(value) for name, value in result.metrics.items()},
            headline=result.headline,
            n_queries=result.n_queries,
            protocol=dict(result.protocol),
            dataset=str(result.protocol.get("dataset", run.settings.data.name)),
            features=features_of(run.settings, environment.get("backbone")),
            budget={} if closed else {"steps": train.steps, "batch_size": train.batch_size, "lr": train.lr},
            chance=chance(self._validation, result.protocol, list(result.metrics)),
            parameters=environment.get("parameters") or {},
            seconds_per_epoch=None if per_query is None else per_query * batches * train.batch_size / train.accumulate,
            train_seconds=training_seconds(records, train.batch_size),
            wall_seconds=wall_seconds(run.path),
            ms_per_query=environment.get("ms_per_query"),
            device=environment.get("device"),
            one_seed=run.variant.one_seed,
            checkpoint=f"{run.variant.folder}/{run.path.name}/checkpoints/{environment.get('checkpoint')}",
            command=self._asked.command(run),
            environment=trained_with(run.path),
        )


def trained_with(path: Path) -> dict[str, Any]:
    """Versions, revision, machine and annotations of the run at ``path`` when it was begun; no paths, no command."""
    recorded = RunFolder(path).environment()
    kept = {key: recorded.get(key) for key in ("started", "python", "packages", "git", "host")}
    return {**kept, "annotations": (recorded.get("data") or {}).get("fingerprint")}


def features_of(settings: Settings, weights: str | None = None) -> dict[str, Any]:
    """What pictures and sentences were encoded with. ``weights``: the fingerprint of the frozen weights.

    Files and folders are named without their paths, which differ from machine to machine.
    """
    backbone = settings.backbone
    drawn = backbone.pretrained is None and ":" not in backbone.name
    found: dict[str, Any] = {
        "backbone": _last(backbone.name),
        "pretrained": backbone.pretrained and _last(backbone.pretrained),
        "image_size": backbone.image_size,
        "freeze": backbone.model_dump(mode="json")["freeze"],
        "lora": backbone.model_dump(mode="json")["lora"],
    }
    if backbone.features is not None:
        found["folder"] = backbone.features.name
        found["tokens"] = settings.model.tokens
    if weights is not None:
        found["weights"] = "drawn with the seed" if drawn else weights
    return found


def _last(name: str) -> str:
    kind, colon, path = name.rpartition(":")
    return kind + colon + (Path(path).name if "/" in path and kind != "hf-hub" else path)


def _from_here(argument: str) -> str:
    """``argument``, or the value of ``key=value``, as a path from the working folder where it is an absolute one."""
    key, equals, value = argument.rpartition("=")
    return f"{key}{equals}{os.path.relpath(value)}" if value.startswith("/") else argument
