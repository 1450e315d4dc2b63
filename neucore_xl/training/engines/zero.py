"""Training with sharded states: DeepSpeed's ZeRO behind the engine.

DeepSpeed is driven directly, never through accelerate. What it is told: torch's AdamW and the schedule of the
recipe, no accumulation of its own (the loop says which backward is the last of a step), the recipe's clipping.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from neucore_xl.config.schema import TrainSettings
from neucore_xl.data.batches import Batch, move
from neucore_xl.errors import UserError
from neucore_xl.models.composer import Composer
from neucore_xl.models.features import ComposerOutput
from neucore_xl.parallel.world import World
from neucore_xl.runs.checkpoints.checkpoint import Checkpoint
from neucore_xl.runs.checkpoints.restore import engine_source, load_engine
from neucore_xl.runs.checkpoints.save import write_shards
from neucore_xl.runs.checkpoints.universal import parameter_names
from neucore_xl.runs.checkpoints.weights import load_state
from neucore_xl.training.engines.deepspeed_check import stage_of
from neucore_xl.training.engines.deepspeed_file import describe
from neucore_xl.training.engines.engine import Engine
from neucore_xl.training.optim import build_optimizer, build_scheduler


class DeepSpeedEngine(Engine):
    """ZeRO 0 to 3, as ``config`` (from ``deepspeed_file.resolve_config``) says.

    With ``train.precision=bf16`` the parameters are bf16 with an fp32 master copy, in training and in validation
    alike. ``found``: the checkpoint that ``restore`` will be given; DeepSpeed must know its form when it starts, and
    what needs another one is converted now, before the states fill the memory.
    """

    strategy = "deepspeed"

    def __init__(
        self,
        composer: Composer,
        backbone: nn.Module,
        settings: TrainSettings,
        world: World,
        device: torch.device,
        config: Mapping[str, Any],
        found: Checkpoint | None = None,
    ) -> None:
        self.world, self.device = world, device
        deepspeed = import_deepspeed(self.device)
        self._config = dict(config)
        self.stage = stage_of(self._config)
        self._bf16 = settings.precision == "bf16"
        if self._bf16:
            _cast_inside(composer, self.device)
        self.composer, self.backbone = composer, backbone
        self._optimizer = build_optimizer(composer, backbone, settings)
        self._names = parameter_names(composer, self._optimizer)  # DeepSpeed puts its shards into these groups
        source = None if found is None else engine_source(found, world, self.stage, self._names)
        self._universal = source is not None and source.universal
        if self._universal:
            self._config["checkpoint"] = {**self._config.get("checkpoint", {}), "load_universal": True}
        scheduler = build_scheduler(self._optimizer, settings)
        self._engine, *_ = deepspeed.initialize(
            model=composer, optimizer=self._optimizer, lr_scheduler=scheduler, config=self._config
        )
        self.root = self._engine
        if self._bf16 and self.stage == 0:
            _undo_first_step(self._engine.optimizer)
        if self._engine.zero_optimization_stage() != self.stage:
            raise UserError(
                f"ZeRO stage {self.stage} was asked for, but DeepSpeed runs stage "
                f"{self._engine.zero_optimization_stage()}: check the file of train.deepspeed."
            )

    def forward(self, batch: Batch) -> tuple[ComposerOutput, Batch]:
        batch = move(batch, self.device, non_blocking=True)
        return self._engine("train", batch), batch

    def backward(self, loss: Tensor) -> None:
        self._engine.backward(loss, scale_wrt_gas=False)

    @contextmanager
    def accumulating(self, last: bool) -> Iterator[None]:
        self._engine.set_gradient_accumulation_boundary(last)
        yield

    def update(self) -> float:
        norm = None
        if self.stage == 0 and not self._bf16:  # plain gradients, whose norm DeepSpeed does not compute
            gradients = [p.grad for p in self.composer.parameters() if p.grad is not None]
            norm = torch.nn.utils.get_total_norm(gradients).item()
        self._engine.step()
        if norm is None:
            norm = float(self._engine.get_global_grad_norm())
        return norm

    def rates(self) -> dict[str, float]:
        return {group["name"]: group["lr"] for group in self._optimizer.param_groups}

    def save(self, into: Path) -> dict[str, Any]:
        write_shards(self._engine, into)
        return {}  # optimiser and schedule are in DeepSpeed's own files

    def restore(self, checkpoint: Checkpoint) -> None:
        source = engine_source(checkpoint, self.world, self.stage, self._names)
        if source.universal != self._universal:
            raise ValueError(f"the engine was not built for {checkpoint.path}: give it as `found`")
        if source.folder is None:
            with self.world.agreed():
                load_state(self.composer, self.backbone, checkpoint.weights(), checkpoint.path)
        load_engine(self._engine, source, self.world, self._names)

    def shard_sizes(self) -> int:
        return sum(getattr(p, "ds_tensor", p).numel() for p in self.composer.parameters())

    def describe(self) -> str:
        return f"{self.strategy}, {describe(self._config)}"


def import_deepspeed(device: torch.device) -> Any:
    """The module ``deepspeed``, told where it runs; the process group must be there already."""
    quiet_deepspeed(device.type)
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    # Compiled for a minute on the first start on a CPU, for a collective that gloo does too.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    backend = "nccl" if device.type == "cuda" else "gloo"
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)
    return deepspeed


def _undo_first_step(optimizer: Any) -> None:
    """Put back what DeepSpeed 0.19 does at the start of ZeRO 0 in bf16: one optimizer step without gradients, which
    decays the fp32 copies and counts as the first."""
    for parameters, masters in zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True):
        for parameter, master in zip(parameters, masters, strict=True):
            master.data.copy_(parameter.data)
    optimizer.optimizer.state.clear()


def _cast_inside(composer: Composer, device: torch.device) -> None:
    """Run the composer's forward under autocast: its inputs and its norms are fp32, its parameters are not.

    DeepSpeed switches off an autocast that is entered outside its engine.
    """
    forward: Callable[..., Any] = composer.forward

    def cast(mode: Any, *args: Any) -> Any:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            return forward(mode, *args)

    composer.forward = cast  # type: ignore[method-assign]


def quiet_deepspeed(device: str) -> None:
    """Tell DeepSpeed where it runs, and to speak of errors only: it reads both when it is first imported."""
    if device == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "error")
