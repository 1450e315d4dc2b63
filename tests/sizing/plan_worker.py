"""One rank of small DeepSpeed runs: the bytes of the tensors it really holds between a backward and its update.

``test_plan_states.py`` starts it as ``plan_worker.py RECIPE OUT CASE …``; a case is
``zero2,bf16,backbone.freeze=all``: a file of ``ds_configs``, a precision and settings.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neucore_xl.config.load import load_settings
from neucore_xl.models.backbone import build_backbone
from neucore_xl.models.registry import build_composer
from neucore_xl.parallel.world import World
from neucore_xl.sizing.blank import blank_batch
from neucore_xl.training.engines.deepspeed_file import find_config, read_config, resolve_config
from neucore_xl.training.engines.zero import DeepSpeedEngine

BUCKET = 1000  # elements: a bucket of the shipped size would drown the states of a small model
# Nothing stays whole: a small model would otherwise not be sharded at all.
SHARDED = {
    "stage3_param_persistence_threshold": 0, "stage3_max_live_parameters": 0,
    "stage3_max_reuse_distance": 0, "stage3_prefetch_bucket_size": 0,
}  # fmt: skip


class Names:
    """A vocabulary as the composers read it."""

    names = tuple(f"concept {i}" for i in range(50))


def stored(tensors: Iterable[Tensor]) -> dict[int, int]:
    """Bytes by storage: two views of one buffer count once."""
    found = {}
    for tensor in tensors:
        storage = tensor.untyped_storage()
        found[storage.data_ptr()] = storage.nbytes()
    return found


def live() -> int:
    """Bytes of every tensor that Python can reach."""
    gc.collect()
    return sum(stored(t for t in gc.get_objects() if isinstance(t, Tensor) and t.device.type != "meta").values())


def tensors_of(value: Any) -> list[Tensor]:
    """Every tensor inside dataclasses."""
    if isinstance(value, Tensor):
        return [value]
    if not is_dataclass(value):
        return []
    return [t for field in fields(value) for t in tensors_of(getattr(value, field.name))]


def measure(case: str, rank: int, world: int, recipe: str) -> dict[str, int]:
    """Bytes by kind after the second backward (the first update made the optimizer's states)."""
    file, precision, *overrides = case.split(",")
    source = f"ds_configs/{file}.json"
    settings = load_settings(recipe, [*overrides, f"train.deepspeed={source}", f"train.precision={precision}"])
    before = live()
    torch.manual_seed(0)
    backbone = build_backbone(settings.backbone)
    composer = build_composer(settings, backbone, Names())  # type: ignore[arg-type]
    config = read_config(find_config(Path(source)))
    zero: dict[str, Any] = config["zero_optimization"]
    zero |= {"reduce_bucket_size": BUCKET} | (SHARDED if file.startswith("zero3") else {})
    config = resolve_config(
        config, source=source, global_batch=2 * world, local_batch=2, world_size=world,
        bf16=precision == "bf16", clip_norm=1.0,
    )  # fmt: skip
    cpu = torch.device("cpu")
    engine = DeepSpeedEngine(composer, backbone, settings.train, World(rank, world, rank), cpu, config)
    batch = blank_batch(settings, backbone, 2)

    def forward_and_backward() -> None:
        output, _ = engine.forward(batch)
        features = [t.float().sum() for f in (output.queries, output.targets) for t in f.values()]
        assert output.concept_logits is not None
        engine.backward(torch.stack([*features, output.concept_logits.sum(), output.log_scale.sum()]).sum())

    trained = [p for p in composer.parameters() if p.requires_grad]
    arrived = 0

    def note(_: Tensor) -> None:
        nonlocal arrived
        arrived = max(arrived, sum(p.grad.nbytes for p in trained if p.grad is not None))

    forward_and_backward()
    engine.update()
    for parameter in trained:
        parameter.register_post_accumulate_grad_hook(note)
    forward_and_backward()
    held = {"everything": live() - before - sum(stored(tensors_of(batch)).values())}
    parameters = stored(p.ds_tensor if hasattr(p, "ds_tensor") else p for p in engine.composer.parameters())
    parameters |= stored(engine.composer.buffers())
    zero_optimizer = engine.root.optimizer
    master: list[Tensor] = []
    for name in ("single_partition_of_fp32_groups", "fp32_partitioned_groups_flat"):
        master += getattr(zero_optimizer, name, [])
    states = [t for s in zero_optimizer.optimizer.state.values() for t in s.values() if t.numel() > 1]
    held["arrived"] = arrived  # the most that parameters hold as their ``grad`` on the way
    held["parameters"] = sum(parameters.values())
    held["optimizer"] = sum((stored(master) | stored(states)).values())
    held["gradients"] = held["everything"] - held["parameters"] - held["optimizer"]
    engine.update()
    engine.root.destroy()
    return held


def main(recipe: str, out: Path, cases: list[str]) -> None:
    """Write what this rank held in every case to ``OUT.RANK.json``."""
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    held = {}
    for case in cases:
        held[case] = measure(case, rank, world, recipe)
        Path(f"{out}.{rank}.json").write_text(json.dumps(held), encoding="utf-8")


if __name__ == "__main__":
    recipe, out, *cases = sys.argv[1:]
    main(recipe, Path(out), cases)
