"""The share of one training step that is spent in the towers: ``python benchmarks/step.py RECIPE [key=value …]``.

Example, trained towers on the data of the demo:
``python benchmarks/step.py demo data.root=runs/demo/data backbone.name=ViT-B-16 backbone.freeze=none``.
Towers that are frozen and cached do not run in a step; ``train.cache_features=false`` shows what they would cost.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table
from step_profile import StepProfile, profile_steps

from neucore_xl.config.load import load_settings
from neucore_xl.data.datasets import open_from_settings
from neucore_xl.errors import UserError
from neucore_xl.parallel.device import resolve_device
from neucore_xl.runs.system import assemble
from neucore_xl.training.engines.engine import PlainEngine
from neucore_xl.training.stream import batch_order, training_stream, workers_for


def measure(recipe: str, overrides: list[str], steps: int) -> StepProfile:
    """The profile of ``steps`` training steps of the recipe, after two that do not count; nothing is saved."""
    settings = load_settings(recipe, [*overrides, f"train.steps={steps + 2}"])
    split = open_from_settings(settings.data, settings.data.train_split)
    system = assemble(settings)
    device = resolve_device(settings.train.device, settings.train.precision)
    engine = PlainEngine(system.composer, system.backbone, settings.train, device=device)
    scorer = system.prepare([split], device=device)
    engine.composer.to(engine.device)
    order = batch_order(split, settings)
    stream = training_stream(split, order, scorer.collator(split), settings, 0, workers_for(scorer.inputs, settings))
    return profile_steps(engine, system.backbone, stream, settings, steps=steps)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--steps", type=int, default=10, help="steps that are timed")
    parser.add_argument("--json", type=Path, help="write the shares to this file")
    options = parser.parse_intermixed_args()
    try:
        profile = measure(options.recipe, options.overrides, options.steps)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    table = Table("part", "ms a step", "share", title=f"one training step, mean of {profile.steps}")
    for part, share in profile.shares().items():
        table.add_row(part, f"{1000 * profile.seconds[part] / profile.steps:.1f}", f"{share:.1%}")
    console = Console()
    console.print(table)
    console.print(f"towers: {profile.tower_share:.1%} of the time that is not waiting for data")
    if options.json:
        options.json.write_text(
            json.dumps({"shares": profile.shares(), "towers": profile.tower_share}, indent=2) + "\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
