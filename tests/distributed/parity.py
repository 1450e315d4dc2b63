"""One training job on any strategy and number of processes: its losses, and its parameters afterwards.

Several jobs share the processes they run in: importing everything takes longer than ten steps.
"""

from __future__ import annotations

import os
import socket
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
from neucore_xl.parallel.world import World
from neucore_xl.runs.assemble import assemble
from neucore_xl.training import strategy as strategies
from neucore_xl.training.data import Share, batch_order, training_stream
from neucore_xl.training.loop import gradient
from neucore_xl.training.randomness import seed_everything


@dataclass
class Job:
    """``overrides`` of a recipe, run for its ``train.steps``."""

    recipe: str
    overrides: list[str]
    thresholds: bool = True  # ZeRO-3 shards everything, however small


@dataclass
class Trained:
    """What rank 0 saw: global losses by step, gradient norms, temperatures, and the trained parameters."""

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    temperatures: list[float] = field(default_factory=list)
    parameters: dict[str, Tensor] = field(default_factory=dict)
    held: list[int] = field(default_factory=list)


def run_jobs(jobs: Sequence[Job], ranks: int, folder: Path) -> list[Trained]:
    """Run ``jobs`` one after the other in ``ranks`` processes; what rank 0 saw of each."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    mp.start_processes(_work, (list(jobs), ranks, str(folder), port), nprocs=ranks, start_method="spawn")
    return [torch.load(folder / f"{i}.pt", weights_only=False) for i in range(len(jobs))]


def _work(rank: int, jobs: Sequence[Job], ranks: int, folder: str, port: int) -> None:
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
    settings = load_settings(job.recipe, job.overrides)
    chosen = strategies.choose_strategy(settings.train, world.world_size, {})
    if job.thresholds and chosen.stage == 3:
        zero: dict[str, Any] = chosen.config["zero_optimization"]  # type: ignore[index]
        for key in ("param_persistence_threshold", "max_live_parameters", "max_reuse_distance", "prefetch_bucket_size"):
            zero[f"stage3_{key}"] = 0
    split = open_from_settings(settings.data, settings.data.train_split)
    assembled = assemble(settings)
    facts = assembled.facts([split])
    inputs = assembled.inputs_for([split], facts)
    collator = assembled.collator(inputs, facts, split)
    engine = strategies.build_engine(chosen, assembled.composer, assembled.backbone, settings.train, world)
    order = batch_order(split, settings)
    stream = training_stream(split, order, collator, settings, 0, 0, Share.of(settings.train, world))
    seed_everything(settings.train.seed + world.rank)
    trained = Trained(held=world.gather(engine.shard_sizes()))
    engine.composer.train()
    for _ in range(settings.train.steps):
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
    trained.parameters = _parameters(engine, chosen.stage)
    return trained


def _parameters(engine: Any, stage: int) -> dict[str, Tensor]:
    named = dict(engine.composer.named_parameters())
    if stage < 3:
        return {n: p.detach().float().clone() for n, p in named.items()}
    import deepspeed

    with deepspeed.zero.GatheredParameters(list(named.values())):
        return {n: p.detach().float().clone() for n, p in named.items()}
