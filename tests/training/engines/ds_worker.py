"""One of several processes that step a small model under DeepSpeed files: ``ds_worker.py OUT FILE…``.

Writes ``OUT`` from rank 0: for each file and precision the parameters after two steps, as lists of numbers, and how
many numbers of the parameters this rank kept for itself.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from neucore_xl.training.engines.deepspeed_check import check_config
from neucore_xl.training.engines.deepspeed_file import describe, read_config, resolve_config

WIDTH, ROWS, STEPS, CLIP = 8, 4, 2, 0.5  # ROWS: of one process


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH))


def rows(step: int, world: int) -> Tensor:
    return torch.randn(world * ROWS, WIDTH, generator=torch.Generator().manual_seed(step))


def optimizer(model: nn.Module) -> torch.optim.AdamW:
    return torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.1)


def plain(world: int) -> dict[str, list[float]]:
    """The same steps in one process."""
    model = network()
    steps = optimizer(model)
    for step in range(STEPS):
        steps.zero_grad()
        model(rows(step, world)).pow(2).mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        steps.step()
    return {name: value.flatten().tolist() for name, value in model.named_parameters()}


def step_under(file: Path, bf16: bool, thresholds_zero: bool = True) -> dict[str, object]:
    import deepspeed
    from deepspeed.utils import safe_get_full_fp32_param

    rank, world = dist.get_rank(), dist.get_world_size()
    config = read_config(file)
    zero = config["zero_optimization"]
    if "zero_hpz_partition_size" in zero:
        zero["zero_hpz_partition_size"] = world  # all of them are on this machine
    if thresholds_zero and zero["stage"] == 3:  # nothing small enough to be kept whole
        for key in ("param_persistence_threshold", "max_live_parameters", "max_reuse_distance", "prefetch_bucket_size"):
            zero[f"stage3_{key}"] = 0
    check_config(config, file)
    final = resolve_config(
        config, source=file, global_batch=world * ROWS, local_batch=ROWS, world_size=world, bf16=bf16, clip_norm=CLIP
    )
    model = network()
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer(model), config=final, dist_init_required=False)
    kept = sum(getattr(p, "ds_tensor", p).numel() for p in model.parameters())
    for step in range(STEPS):
        mine = rows(step, world)[rank * ROWS : (rank + 1) * ROWS].to(torch.bfloat16 if bf16 else torch.float32)
        engine.backward(engine(mine).float().pow(2).mean())
        engine.step()
    after = {}
    for name, parameter in model.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter], enabled=hasattr(parameter, "ds_id")):
            low = parameter.detach().float().flatten().tolist()
        full = safe_get_full_fp32_param(parameter) if zero["stage"] > 0 else None
        after[name] = low if full is None else full.flatten().tolist()
    answer = {"kept": kept, "after": after, "stage": engine.zero_optimization_stage(), "phrase": describe(config)}
    engine.destroy()
    return answer


def main() -> None:
    out, *files = sys.argv[1:]
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # else a minute of compiling
    dist.init_process_group("gloo")
    deepspeed.init_distributed("gloo", auto_mpi_discovery=False)
    world = dist.get_world_size()
    found: dict[str, object] = {"plain": plain(world), "world": world}
    for file in files:
        for precision in ("fp32", "bf16"):
            found[f"{Path(file).stem} {precision}"] = step_under(Path(file), precision == "bf16")
    if os.environ["RANK"] == "0":
        Path(out).write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
