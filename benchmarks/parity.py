"""Do all strategies train alike? Plain, DDP and ZeRO 0 to 3, from the same weights on the same batches, in fp32.

For every system: the largest difference of the global loss over ten AdamW steps from plain training in one process on
the whole batch, and that of any parameter afterwards. Generated data and tiny towers, made in a temporary folder;
processes on this machine, over gloo. Dropout is off and the Gumbel noise of `neucore` is left out, since every
process draws its own. ZeRO-3 runs with its thresholds at 0, so that every parameter is sharded and gathered.

    python benchmarks/parity.py [--ranks 2] [--precision fp32] [--models neucore-xl,neucore] [--markdown FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from neucore_xl.config.load import load_settings
from neucore_xl.data.datasets import open_from_settings
from neucore_xl.models import fusion
from neucore_xl.parallel.device import resolve_device
from neucore_xl.parallel.world import World
from neucore_xl.runs.system import assemble
from neucore_xl.training.engines import strategy as strategies
from neucore_xl.training.loop import gradient
from neucore_xl.training.randomness import seed_everything
from neucore_xl.training.stream import Share, batch_order, training_stream

TOWERS = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}
FREEZE = {"frozen": "all", "partly": "{image: 1, text: 1}", "trained": "none"}
STRATEGIES = ("ddp", "zero0", "zero1", "zero2", "zero3")


@dataclass
class Job:
    """``overrides`` of a recipe, run for its ``train.steps``."""

    recipe: str
    overrides: list[str]
    thresholds: bool = True  # ZeRO-3 shards everything, however small


@dataclass
class Trained:
    """What rank 0 saw: global losses by step, gradient norms, temperatures, times, the trained parameters."""

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    temperatures: list[float] = field(default_factory=list)
    parameters: dict[str, Tensor] = field(default_factory=dict)
    held: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def tiny_settings(folder: Path) -> list[str]:
    """Overrides of a run of ten steps on a small generated data set, made in ``folder`` unless it is there."""
    from neucore_xl.shapes.generate import generate

    if not (folder / "towers.json").is_file():
        generate(folder / "data", layout="cirr", train=60, val=18, test=18, seed=0, size=32, workers=1, progress=False)
        (folder / "towers.json").write_text(json.dumps(TOWERS))
        (folder / "recipe.yaml").write_text("{}\n")
    return [
        "data.name=cirr",
        f"data.root={folder / 'data'}",
        "data.workers=0",
        f"backbone.config={folder / 'towers.json'}",
        "backbone.name=towers",
        "backbone.pretrained=null",
        "model.width=32",
        "model.heads=4",
        "model.dropout=0.0",
        "model.correction_dropout=0.0",
        "fusion.max_steps=3",
        "loss.reference_negatives=true",
        "loss.subset_negatives=1",
        "train.steps=10",
        "train.batch_size=16",
        "train.device=cpu",
        "train.warmup_steps=2",
        "train.lr=1e-3",
        "train.lr_backbone=1e-3",
        f"train.cache_dir={folder / 'cache'}",
    ]


def strategy_settings(name: str) -> list[str]:
    """Overrides of ``plain``, ``ddp`` or ``zero0`` … ``zero3``."""
    return [f"train.deepspeed=ds_configs/{name}.json"] if name.startswith("zero") else [f"train.strategy={name}"]


def run_jobs(jobs: Sequence[Job], ranks: int, folder: Path) -> list[Trained]:
    """Run ``jobs`` one after the other in ``ranks`` processes; what rank 0 saw of each."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    mp.start_processes(work, (list(jobs), ranks, str(folder), port), nprocs=ranks, start_method="spawn")
    return [torch.load(folder / f"{i}.pt", weights_only=False) for i in range(len(jobs))]


def work(rank: int, jobs: Sequence[Job], ranks: int, folder: str, port: int) -> None:
    """Do ``jobs`` as ``rank`` of ``ranks`` processes that meet at ``port``; rank 0 writes ``folder/<number>.pt``."""
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(ranks), LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    dist.init_process_group("gloo", rank=rank, world_size=ranks)
    world = World(rank, ranks, rank)
    for number, job in enumerate(jobs):
        trained = train(job, world)
        if rank == 0:
            torch.save(trained, Path(folder) / f"{number}.pt")
    dist.barrier()
    dist.destroy_process_group()


def train(job: Job, world: World) -> Trained:
    """The steps of ``job``, without run folder, log or validation."""
    fusion.F.gumbel_softmax = _softmax  # type: ignore[attr-defined]
    settings = load_settings(job.recipe, job.overrides)
    chosen = strategies.choose_strategy(settings.train, world.world_size, {})
    if job.thresholds and chosen.stage == 3:
        zero: dict[str, Any] = chosen.config["zero_optimization"]  # type: ignore[index]
        for key in ("param_persistence_threshold", "max_live_parameters", "max_reuse_distance", "prefetch_bucket_size"):
            zero[f"stage3_{key}"] = 0
    split = open_from_settings(settings.data, settings.data.train_split)
    system = assemble(settings)
    collator = system.prepare([split]).collator(split)
    device = resolve_device(settings.train.device, settings.train.precision)
    engine = strategies.build_engine(chosen, system.composer, system.backbone, settings.train, world, device)
    order = batch_order(split, settings)
    stream = training_stream(split, order, collator, settings, 0, 0, Share.of(settings.train, world))
    seed_everything(settings.train.seed + world.rank)
    trained = Trained(held=world.gather(engine.shard_sizes()))
    engine.composer.train()
    for _ in range(settings.train.steps):
        began = time.perf_counter()
        loss = 0.0
        parts_a_step = settings.train.accumulate
        for number in range(parts_a_step):
            parts = next(stream)
            assert isinstance(parts, list)
            terms, log_scale = gradient(engine, parts, settings, 1 / parts_a_step, last=number == parts_a_step - 1)
            loss += world.mean([terms["loss"].item()])[0] / parts_a_step
            trained.temperatures.append(log_scale.item())
        trained.losses.append(loss)
        trained.norms.append(engine.update())
        trained.seconds.append(time.perf_counter() - began)
    trained.parameters = _parameters(engine, chosen.stage)
    return trained


def _parameters(engine: Any, stage: int) -> dict[str, Tensor]:
    named = dict(engine.composer.named_parameters())
    if stage < 3:
        return {n: p.detach().float().clone() for n, p in named.items()}
    import deepspeed

    with deepspeed.zero.GatheredParameters(list(named.values())):
        return {n: p.detach().float().clone() for n, p in named.items()}


def _softmax(logits: Tensor, tau: float) -> Tensor:
    return (logits / tau).softmax(-1)


def difference(one: Trained, other: Trained) -> tuple[float, float]:
    """Largest differences of a loss and of a parameter."""
    loss = max(abs(a - b) for a, b in zip(one.losses, other.losses, strict=True))
    return loss, max((p - other.parameters[n]).abs().max().item() for n, p in one.parameters.items())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--models", default="neucore-xl,neucore")
    parser.add_argument("--freeze", default=",".join(FREEZE))
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--micro-batch", type=int, help="also cut every share into forward passes of this many queries")
    parser.add_argument("--markdown", type=Path, help="write the table to this file too")
    options = parser.parse_args()
    lines = [
        "| system | towers | strategy | ranks | loss | parameters | held by a rank |",
        "|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = [*tiny_settings(folder), f"train.precision={options.precision}"]
        rows = [(m, f) for m in options.models.split(",") for f in options.freeze.split(",")]
        common = {row: [*base, f"model.name={row[0]}", f"backbone.freeze={FREEZE[row[1]]}"] for row in rows}
        cut = [f"train.micro_batch={options.micro_batch}"] if options.micro_batch else []
        recipe = str(folder / "recipe.yaml")
        plain = [Job(recipe, [*common[row], "train.strategy=plain"]) for row in rows]
        many = [Job(recipe, [*common[row], *cut, *strategy_settings(s)]) for row in rows for s in STRATEGIES]
        references = dict(zip(rows, run_jobs(plain, 1, folder / "plain"), strict=True))
        found = iter(run_jobs(many, options.ranks, folder / "many"))
        for row in rows:
            for strategy in STRATEGIES:
                trained = next(found)
                loss, parameters = difference(references[row], trained)
                held, whole = max(trained.held), sum(p.numel() for p in trained.parameters.values())
                lines.append(
                    f"| {row[0]} | {row[1]} | {strategy} | {options.ranks} | {loss:.1e} | {parameters:.1e} | "
                    f"{held / whole:.0%} |"
                )
    text = "\n".join(lines)
    print(text)
    if options.markdown:
        options.markdown.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
