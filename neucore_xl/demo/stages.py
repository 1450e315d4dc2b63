"""The stages of the demo, each skipped when its result is there already."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from neucore_xl import terminal
from neucore_xl.config.load import load_settings
from neucore_xl.config.schema import Settings
from neucore_xl.data.datasets import open_split
from neucore_xl.data.triplets import Split
from neucore_xl.demo.clip import NAME, train_clip
from neucore_xl.estimates import Estimate
from neucore_xl.evaluation import cirr
from neucore_xl.evaluation.report import SystemRow, evenly, rows_from_scores, write_page
from neucore_xl.evaluation.result import Result
from neucore_xl.evaluation.significance import paired_bootstrap
from neucore_xl.files import write_json
from neucore_xl.runs.system import load_run
from neucore_xl.shapes.generate import generate
from neucore_xl.training.run import train

IMAGE_SIZE = 96
SEED = 0
SYSTEM = "neucore-xl"
# `residual` is the simplest head on the pretrained space; the other three are the floor of every results table.
FLOORS = ("residual", "concat", "text-only", "image-only")
SHOWN = 24  # queries on the page


@dataclass(frozen=True)
class Size:
    """How much the demo does: pictures of each split, training of the small CLIP, more settings of every system."""

    train: int = 4000
    val: int = 1200
    test: int = 60
    clip_epochs: int = 6
    clip_batch: int = 128
    overrides: tuple[str, ...] = ()


FULL = Size()


@dataclass(frozen=True)
class Evaluated:
    """One system of the table and the scores ``[Q, G]`` behind it."""

    settings: Settings
    result: Result
    scores: Any


def run_demo(out: Path, console: Console | None = None, size: Size = FULL) -> dict[str, Any]:
    """All stages; returns what ``out/metrics.json`` holds."""
    console = console or terminal.console()
    begin = time.monotonic()

    def stage(text: str) -> None:
        console.print(Text.assemble((text, "bold"), (f" ({time.monotonic() - begin:.0f} s)", "dim")))

    data = out / "data"
    stage(f"1/5 generated data: {size.train} training and {size.val} validation pictures")
    generate(
        data,
        layout="cirr",
        train=size.train,
        val=size.val,
        test=size.test,
        seed=SEED,
        size=IMAGE_SIZE,
    )
    stage("2/5 a small CLIP, trained by open_clip on the training pictures and their descriptions")
    config, weights = train_clip(
        out / "clip",
        data / "descriptions" / "descriptions.train.csv",
        image_size=IMAGE_SIZE,
        epochs=size.clip_epochs,
        batch_size=size.clip_batch,
        seed=SEED,
    )
    paths = [
        f"data.root={data}",
        f"backbone.name={NAME}",
        f"backbone.config={config}",
        f"backbone.pretrained={weights}",
        f"train.cache_dir={out / 'cache'}",
    ]
    split = open_split("cirr", data, "val")
    rows: dict[str, Evaluated] = {}
    for row in (SYSTEM, *FLOORS):
        stage(f"3/5 training {row}")
        settings = load_settings("demo", [*paths, f"model.name={row}", *size.overrides])
        train(settings, out / row, console=console)
        rows[row] = _evaluate(out / row, settings, split)
    stage("4/5 evaluation by the CIRR protocol, last checkpoint of every system")
    content = _summary(rows)
    _print(content, console)
    write_json(out / "metrics.json", content)
    stage("5/5 the page")
    page = _page(out / "index.html", rows, split, content)
    console.print(f"{out / 'metrics.json'}\n{page}", soft_wrap=True)
    stage("finished")
    return content


def _evaluate(run_folder: Path, settings: Settings, split: Split) -> Evaluated:
    """Scores and metrics of a run's last checkpoint: its number of steps was fixed before, so nothing is chosen
    on the split that is reported."""
    import numpy as np

    system = load_run(run_folder, checkpoint="last", settings=settings)
    chunks = list(system.scores(split)[""])
    result = cirr.evaluate(split, chunks).with_context(protocol=system.protocol)
    return Evaluated(settings, result, np.concatenate([scores for _, scores in chunks]))


def _summary(rows: dict[str, Evaluated]) -> dict[str, Any]:
    """metrics.json of the system, with every system's metrics and the paired differences beside it."""
    from neucore_xl.runs.environment import describe

    system = rows[SYSTEM]
    ahead = {row: _difference(system.result, rows[row].result) for row in FLOORS}
    return {
        **system.result.to_json(),
        "rows": {row: dict(evaluated.result.metrics) for row, evaluated in rows.items()},
        "ahead_of": {
            row: {"estimate": i.value, "low": i.low, "high": i.high, "confidence": i.confidence}
            for row, i in ahead.items()
        },
        "environment": describe(system.settings, ["demo"]),
    }


def _difference(a: Result, b: Result) -> Estimate:
    return paired_bootstrap(a.per_query["mean"], b.per_query["mean"], seed=SEED)


PRINTED = ("R@1", "R@5", "R_subset@1", "mean")  # what fits 80 columns; the page and metrics.json hold all
MEASURES = ("R@1", "R@5", "R@10", "R@50", "R_subset@1", "R_subset@2", "R_subset@3", "mean")


def _print(content: dict[str, Any], console: Console) -> None:
    from rich import box
    from rich.table import Table

    title = f"CIRR protocol on generated data, {content['n_queries']} queries, percent"
    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("system", no_wrap=True)
    for measure in (*PRINTED, f"{SYSTEM} ahead by"):
        table.add_column(measure, justify="right", no_wrap=True)
    for row, metrics in content["rows"].items():
        i = content["ahead_of"].get(row)
        ahead = f"{i['estimate']:+.2f} [{i['low']:+.2f}, {i['high']:+.2f}]" if i else ""
        table.add_row(row, *(f"{metrics[m]:.2f}" for m in PRINTED), ahead)
    console.print(table)
    console.print(json.dumps(content["protocol"]), soft_wrap=True)
    behind = [row for row, i in content["ahead_of"].items() if i["low"] <= 0]
    if behind:
        console.print(f"{SYSTEM} is not ahead of {', '.join(behind)} by more than the 95 % interval", style="red")
    else:
        console.print(f"{SYSTEM} is ahead of every floor system by more than the 95 % paired bootstrap interval")


def _page(path: Path, rows: dict[str, Evaluated], split: Split, content: dict[str, Any]) -> Path:
    from neucore_xl.encoding.sentences import fusion_of
    from neucore_xl.language.planning import sequences_for

    settings = rows[SYSTEM].settings
    shown = evenly(len(split.triplets), SHOWN)
    sequences = sequences_for([split.triplets[i].text for i in shown], fusion_of(settings), settings.language, None)
    report = rows_from_scores(
        split,
        shown,
        {row: rows[row].scores[shown] for row in (SYSTEM, "concat")},
        sequences=sequences,
    )
    systems = [
        SystemRow(
            row, evaluated.result.metrics, _difference(rows[SYSTEM].result, evaluated.result) if row != SYSTEM else None
        )
        for row, evaluated in rows.items()
    ]
    return write_page(
        path,
        report,
        title="neucore-xl demo",
        image_path=split.image_path,
        systems=systems,
        protocol=content["protocol"],
        measures=MEASURES,
        difference_label=f"{SYSTEM} ahead by",
        introduction="NEUCORE-XL and the systems that it must beat, trained on generated pictures, with one budget.",
    )
