"""Every packaged recipe is run dry: settings, strategy, shapes and plan, without weights or data."""

from __future__ import annotations

import io

import pytest

from neucore_xl import terminal
from neucore_xl.config.load import RECIPES, load_settings, recipe_names
from neucore_xl.sizing.dry_run import dry_run
from neucore_xl.sizing.plan import Cluster

# the demo makes its tower on the way, and features of captions are made before a recipe is run
RECIPE_NAMES = [name for name in recipe_names() if name != "demo" and not name.endswith("-captions")]
LARGE = [name for name in RECIPE_NAMES if any(part in name for part in ("h14", "bigg14", "siglip", "full", "zero2"))]
LARGE.sort(
    key=lambda name: name.partition("-")[2]
)  # the datasets of a model one after the other: they share its shapes


def cluster(name: str) -> Cluster:
    return Cluster(1, 8) if name in LARGE else Cluster(1, 1)


def dry(name: str) -> str:
    shown = io.StringIO()
    plan = dry_run(load_settings(name), cluster(name), terminal.console(file=shown, width=250), recipe=name)
    best = plan.recommended
    assert best is not None, plan.rows
    own = plan.own
    if own is not None:  # the strategy that a recipe sets fits where it says it does
        assert next(row for row in plan.rows if row.file == own).fits
    return shown.getvalue()


MEDIUM = [pytest.param(n, marks=pytest.mark.slow) if "l14" in n else n for n in RECIPE_NAMES if n not in LARGE]


@pytest.mark.parametrize("name", MEDIUM)
def test_a_recipe_runs_dry(name: str) -> None:
    """Slow for L/14: seven seconds; its own size, strategy and micro-batch are what is asked."""
    assert "recommended: plain" in dry(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_a_recipe_that_trains_towers_runs_dry_on_eight_gpus(name: str) -> None:
    """Slow: up to half a minute of rehearsing a step of billions of parameters, once for each model of the recipes."""
    said = dry(name)
    assert "pixels" in said
    assert "recommended: " in said


@pytest.mark.parametrize("model", ["vit-b16", "vit-l14", "vit-h14", "vit-bigg14", "siglip"])
@pytest.mark.parametrize("data", ["cirr", "fashioniq"])
def test_every_model_has_a_recipe_on_every_dataset(model: str, data: str) -> None:
    assert any(name.startswith(f"{data}-{model}") for name in recipe_names())


@pytest.mark.parametrize("name", LARGE)
def test_a_recipe_that_trains_towers_says_what_it_takes_and_that_it_is_unmeasured(name: str) -> None:
    head = [line for line in (RECIPES / f"{name}.yaml").read_text(encoding="utf-8").splitlines() if line[:1] == "#"]
    text = " ".join(head)
    assert "Not measured" in text
    assert f"neucore-xl plan {name} --nodes 1 --gpus-per-node 8" in text
    assert "GB per GPU with" in text
