"""A process of a small training under plain torch or DeepSpeed: ``python zero_worker.py JOBS.json``.

JOBS is a list of runs done one after the other by the same processes; the ranks come from the environment. Each run
trains a toy model to ``until``, from the newest checkpoint in ``folder`` if ``resume`` is set, and saves there if
``save`` is. Rank 0 writes losses, rates and digests to ``out``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from neucore_xl.errors import UserError
from neucore_xl.parallel.world import World
from neucore_xl.runs.checkpoints import find
from neucore_xl.runs.checkpoints.checkpoint import Contents, Identity
from neucore_xl.runs.checkpoints.restore import engine_source, load_engine, whole_state
from neucore_xl.runs.checkpoints.save import save_together, write_shards
from neucore_xl.runs.checkpoints.universal import parameter_names
from neucore_xl.runs.checkpoints.weights import (
    check_names,
    load_state,
    stored_shapes,
    stored_state,
    write_weights,
)

WIDTH, BATCH = 6, 8
IDENTITY = Identity("toy", "b" * 64, "v" * 64)


class Tower(nn.Module):
    """A frozen stem, a trained top, and a buffer that training changes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(WIDTH, WIDTH).requires_grad_(False)
        self.top = nn.Linear(WIDTH, WIDTH)
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen += 1
        return self.top(torch.tanh(self.stem(x))) * (1 + 0.05 * self.seen)


class Toy(nn.Module):
    """Scores by batch classification; ``tied`` is the weight of ``out`` under a second name."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Tower()
        self.out = nn.Linear(WIDTH, WIDTH, bias=False)
        self.tied = nn.Linear(WIDTH, WIDTH)
        self.tied.weight = self.out.weight
        self.correction = nn.Linear(WIDTH, WIDTH)
        self.log_scale = nn.Parameter(torch.ones(1))
        self.register_buffer("scratch", torch.zeros(3), persistent=False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        query = self.tied(torch.tanh(self.out(self.backbone(x))))
        return ((query - y - 0.1 * self.correction(y)) * self.log_scale.exp()).square().mean()


def build() -> tuple[Toy, AdamW, LambdaLR]:
    """The same model everywhere, groups with rates and decays of their own, a rate that changes every step."""
    torch.manual_seed(0)
    model = Toy()
    heads = [model.out.weight, model.tied.bias, model.log_scale]
    groups: list[dict[str, Any]] = [
        {"name": "heads", "params": heads, "lr": 0.05, "weight_decay": 0.1},
        {"name": "backbone", "params": list(model.backbone.top.parameters()), "lr": 0.01, "weight_decay": 0.0},
        {"name": "correction", "params": list(model.correction.parameters()), "lr": 0.02, "weight_decay": 0.5},
    ]
    optimizer = AdamW(groups, betas=(0.9, 0.98), eps=1e-6)
    return model, optimizer, LambdaLR(optimizer, lambda step: 1 / (1 + 0.3 * step))


def batch(step: int, world: World) -> tuple[Tensor, Tensor]:
    """This rank's rows of the global batch of ``step``."""
    draw = torch.Generator().manual_seed(1000 + step)
    x, y = torch.randn(2, BATCH, WIDTH, generator=draw)
    share = BATCH // world.world_size
    rows = slice(world.rank * share, (world.rank + 1) * share)
    return x[rows], y[rows]


def config(stage: int, universal: bool, world: World) -> dict[str, Any]:
    zero: dict[str, Any] = {"stage": stage}
    if stage == 3:
        zero |= {
            "stage3_param_persistence_threshold": 0,
            "stage3_max_live_parameters": 0,
            "stage3_max_reuse_distance": 0,
            "stage3_prefetch_bucket_size": 0,
            "sub_group_size": 40,  # several sub-groups in a parameter group
        }
    return {
        "train_batch_size": BATCH,
        "train_micro_batch_size_per_gpu": BATCH // world.world_size,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.0,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "checkpoint": {"load_universal": universal},
    }


def run(job: dict[str, Any], world: World) -> dict[str, Any]:
    """One training; returns what rank 0 reports."""
    model, optimizer, scheduler = build()
    stage = job["stage"]  # None: plain torch
    names = parameter_names(model, optimizer)
    shapes = stored_shapes(model, model.backbone)
    folder = Path(job["folder"])
    found = find.latest(folder) if job.get("resume") else None
    start = found.step if found else 0
    if found:
        check_names(model, model.backbone, found.manifest.get("tensors", shapes), found.path)
    engine: Any = None
    if stage is None:
        if found:
            load_state(model, model.backbone, found.weights(), found.path)
            state = whole_state(found, world, names)
            optimizer.load_state_dict(state["optimizer"])
            scheduler.load_state_dict(state["scheduler"])
    else:
        import deepspeed

        source = engine_source(found, world, stage, names) if found else None
        if found and source and source.folder is None:
            load_state(model, model.backbone, found.weights(), found.path)
        engine, optimizer, _, scheduler = deepspeed.initialize(
            model=model,
            optimizer=optimizer,
            lr_scheduler=scheduler,
            config=config(stage, bool(source and source.universal), world),
        )
        if source:
            load_engine(engine, source, world, names)
    rates = [group["lr"] for group in optimizer.param_groups]
    decays = [group["weight_decay"] for group in optimizer.param_groups]
    draws = None
    if found and (own := found.rank_extra(world.rank)):
        torch.set_rng_state(own["torch"])
        draws = torch.rand(1).item()
    losses = []
    for step in range(start, job["until"]):
        x, y = batch(step, world)
        if engine is None:
            loss = model(x, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            losses.append(loss.item())
        else:
            loss = engine(x, y)
            engine.backward(loss)
            engine.step()
            losses.append(sum(world.gather(loss.item())) / world.world_size)
    report: dict[str, Any] = {"losses": losses, "rates": rates, "decays": decays, "start": start}
    report["draws"] = world.gather(draws)
    if job.get("save"):
        torch.manual_seed(100 + world.rank)

        def write(path: Path) -> dict[str, Any]:
            if engine is not None:
                write_shards(engine, path)
                return {}
            write_weights(stored_state(model, model.backbone), path)
            return {"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}

        if world.rank == job.get("fails_on"):
            inner = write

            def write(path: Path) -> dict[str, Any]:
                import resource
                import signal

                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
                resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
                try:
                    return inner(path)
                finally:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

        error = None
        try:
            contents = Contents(
                job["until"],
                IDENTITY,
                strategy="plain" if engine is None else "deepspeed",
                zero_stage=stage or 0,
                rank_extra={"torch": torch.get_rng_state()},
                metrics={"mean": 1.0},
                tensors=shapes,
            )
            save_together(folder, world, contents, write, best=True)
        except UserError as caught:
            error = str(caught)
        report["errors"] = world.gather(error)
        report["next_draws"] = world.gather(torch.rand(1).item())
    if stage == 3:
        import deepspeed

        with deepspeed.zero.GatheredParameters(list(model.parameters())):
            report["end"] = {n: v.detach().cpu().tolist() for n, v in model.state_dict().items()}
    else:
        report["end"] = {n: v.detach().cpu().tolist() for n, v in model.state_dict().items()}
    return report


def main() -> None:
    import os

    world = World(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_RANK"]))
    jobs = json.loads(Path(sys.argv[1]).read_text())
    if any(job["stage"] is not None for job in jobs):
        import deepspeed
        import deepspeed.ops

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # else it is compiled
        deepspeed.init_distributed("gloo")
    elif world.many:
        torch.distributed.init_process_group("gloo")
    for job in jobs:
        report = run(job, world)
        if world.is_main:
            Path(job["out"]).write_text(json.dumps(report))


if __name__ == "__main__":
    main()
