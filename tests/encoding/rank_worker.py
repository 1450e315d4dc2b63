"""One of several processes that evaluate together: ``rank_worker.py OUT``.

Reads settings by case from ``OUT/<case>.yaml`` and writes what it found to ``OUT/rank-<n>.pt``, by case. The tests run
the same cases in one process by calling ``CASES``.
"""

from __future__ import annotations

import faulthandler
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn
from unittest import mock

import numpy as np
import torch

from neucore_xl.config.load import load_file
from neucore_xl.config.schema import Settings
from neucore_xl.data.datasets import open_from_settings
from neucore_xl.errors import UserError
from neucore_xl.parallel.world import World
from neucore_xl.runs.system import System, assemble
from neucore_xl.training.validate import evaluate_split


def disturbed(settings: Settings, world: World) -> System:
    """A system whose every trainable weight differs from its start, the same on all ranks."""
    system = assemble(settings, world=world)
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in system.composer.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return system


def evaluated(
    settings: Settings, world: World, wrap: Callable[[System], Any] = lambda system: system.composer
) -> dict[str, Any]:
    """Metrics, ranks and features of the validation split; ``wrap`` gives the forward of an engine."""
    system = disturbed(settings, world)
    split = open_from_settings(settings.data, "val")
    scorer = system.prepare([split])
    scorer = scorer.through(wrap(system), torch.device("cpu"))
    system.composer.train()
    collator = scorer.collator(split)
    gallery = scorer.encoder.gallery(scorer.inputs.images, split.galleries[""].names)
    queries = scorer.encoder.queries(collator, split.triplets)
    result = evaluate_split(scorer, split)
    assert system.composer.training
    return {
        "metrics": dict(result.metrics),
        "per_query": {k: np.asarray(v) for k, v in result.per_query.items()},
        "steps": collator.longest(split.triplets),
        "gallery": dict(gallery),
        "queries": dict(queries),
    }


def sharded(settings: Settings, world: World) -> dict[str, Any]:
    """``evaluated`` under ZeRO-3 that keeps no parameter whole."""
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # would be compiled at the first use
    deepspeed.init_distributed("gloo")
    held = []

    def wrap(system: System) -> Any:
        trained = [p for p in system.composer.parameters() if p.requires_grad]
        engine = deepspeed.initialize(
            model=system.composer,
            optimizer=torch.optim.AdamW(trained),
            config={
                "train_micro_batch_size_per_gpu": 1,
                "zero_allow_untested_optimizer": True,
                "zero_optimization": {
                    "stage": 3,
                    "stage3_param_persistence_threshold": 0,
                    "stage3_model_persistence_threshold": 0,
                    "stage3_max_live_parameters": 0,
                    "stage3_max_reuse_distance": 0,
                    "stage3_prefetch_bucket_size": 0,
                },
            },
        )[0]
        held.extend(p.numel() for p in system.composer.parameters())
        return engine

    return evaluated(settings, world, wrap) | {"whole": sum(held)}


def filled(settings: Settings, world: World) -> dict[str, Any]:
    """Every feature that the cache holds after it was filled by all ranks, in the order of names."""
    system = assemble(settings, world=world)
    split = open_from_settings(settings.data, "val")
    counted: list[int] = []
    for tower in ("encode_images", "encode_texts"):
        encode = getattr(system.backbone, tower)
        setattr(system.backbone, tower, lambda x, encode=encode: (counted.append(len(x)), encode(x))[1])
    inputs = system.prepare([split]).inputs
    images = inputs.images(split.image_names)
    texts = inputs.texts([t.text for t in split.triplets])
    return {"tokens": images.tokens, "pooled": images.pooled, "words": texts.words, "counted": sum(counted)}  # type: ignore[union-attr]


def filled_apart(settings: Settings, world: World) -> dict[str, Any]:
    """``filled``, with a cache folder of its own for every rank, as on nodes that share none."""
    own = settings.train.model_copy(update={"cache_dir": settings.train.cache_dir / f"node-{world.rank}"})  # type: ignore[operator]
    return filled(settings.model_copy(update={"train": own}), world)


def one_reads_less(settings: Settings, world: World) -> dict[str, Any]:
    """``filled``, where the last rank finds an empty file in place of one picture."""
    if world.rank < world.world_size - 1:
        return filled(settings, world)
    with mock.patch("neucore_xl.data.images.load_rgb", _broken):
        return filled(settings, world)


def _broken(path: Path) -> NoReturn:
    raise UserError(f"image {path} cannot be decoded.")


CASES: dict[str, Callable[[Settings, World], dict[str, Any]]] = {
    "cached": evaluated,
    "pixels": evaluated,
    "filled": filled,
    "filled-apart": filled_apart,
    "one-reads-less": one_reads_less,
    "zero-3": sharded,
    "unsharded": evaluated,
}


def main(out: str) -> None:
    faulthandler.dump_traceback_later(300, repeat=True)
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    world = World(rank, int(os.environ["WORLD_SIZE"]), rank, host=f"node-{rank}")
    torch.distributed.init_process_group("gloo")
    found = {}
    for case, function in CASES.items():
        if (settings := Path(out) / f"{case}.yaml").is_file():
            try:
                found[case] = function(load_file(settings), world)
            except UserError as error:
                found[case] = {"error": str(error)}
    torch.save(found, Path(out) / f"rank-{rank}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
