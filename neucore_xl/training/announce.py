"""What a job says before its first step: a table of how it runs, and one line of what it trains."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from neucore_xl.config.schema import Settings
from neucore_xl.data.triplets import Split
from neucore_xl.parallel.launch import Launch
from neucore_xl.parallel.start import backend_name
from neucore_xl.training.engines.engine import Engine
from neucore_xl.training.loop import TrainState
from neucore_xl.training.stream import Share, queries_a_batch

_WIDTH = len("world size")  # so that a log always holds the line `world size  N`


def start_table(lines: Iterable[tuple[str, object]]) -> str:
    """Names and values as plain lines, the same in a terminal and a log."""
    return "\n".join(f"{name:<{_WIDTH}}  {value}" for name, value in lines)


def start_lines(
    settings: Settings, launch: Launch, engine: Engine, share: Share, held: list[int]
) -> list[tuple[str, object]]:
    """The lines of the start table; ``held``: the parameters that each rank holds."""
    train, world = settings.train, engine.world
    gpu = f" ({torch.cuda.get_device_name()})" if engine.device.type == "cuda" else ""
    spread = f"{min(held):,}" if min(held) == max(held) else f"{min(held):,} to {max(held):,}"
    forward = queries_a_batch(train) // share.parts
    return [
        ("launcher", launch.launcher),
        ("world size", world.world_size),
        ("nodes", launch.nodes),
        ("strategy", engine.describe()),
        ("backend", backend_name(engine.device.type, world)),
        ("device", f"{engine.device.type}{gpu}"),
        ("precision", train.precision),
        ("batch", f"{train.batch_size} queries a step, {forward} a forward pass and process"),
        ("parameters", f"{spread} a rank"),
    ]


def announcement(settings: Settings, engine: Engine, split: Split, state: TrainState) -> str:
    """What is trained, on which split, from which step on."""
    sizes = [(getattr(p, "ds_numel", p.numel()), p.requires_grad) for p in engine.composer.parameters()]
    trained, whole = sum(n for n, trained in sizes if trained), sum(n for n, _ in sizes)
    begin = f"going on after step {state.step} of" if state.step else "training"
    return (
        f"{begin} {settings.train.steps} steps: {settings.model.name} on {settings.data.name} {split.name} "
        f"({len(split.triplets)} triplets), batch {settings.train.batch_size}, {engine.device} in "
        f"{settings.train.precision}, {trained / 1e6:.2f} of {whole / 1e6:.2f} M parameters trained"
    )
