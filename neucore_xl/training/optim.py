"""AdamW with one group of parameters per rate and decay, and warm-up followed by a cosine or a straight line."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from neucore_xl.config.schema import TrainSettings
from neucore_xl.errors import UserError
from neucore_xl.models.composer import Composer

BETAS = (0.9, 0.98)  # the second moment of contrastive training jumps: CLIP (2021), table 19, and after it open_clip
EPS = 1e-6


def parameter_groups(composer: Composer, backbone: nn.Module, settings: TrainSettings) -> list[dict[str, Any]]:
    """Trainable parameters of ``composer`` by rate and decay; frozen ones are in no group, each other one in one.

    | group | who | rate | decay |
    | heads | everything else | ``train.lr`` | matrices only |
    | backbone | those of ``backbone``, ``composer.pretrained_parameters()`` | ``train.lr_backbone`` | matrices only |
    | correction | ``composer.slow_parameters()`` | ``train.lr`` × ``lr_correction_scale`` | all |
    | scalars | single numbers of the heads (θ, gates, weights of terms) | ``train.lr_scalars`` | none |

    Adam moves a number by at most its rate a step, whatever its size: one that has far to go needs a rate of its own.
    A correction is added to a pretrained feature and pulled towards zero as a whole, biases included. Groups are
    named ``heads``, ``heads-vectors`` and so on, in a fixed order, and hold their parameters in the composer's order:
    stored optimiser states are read by it. Raises ``UserError`` where nothing is trainable.
    """
    of_backbone = {id(p) for p in (*backbone.parameters(), *composer.pretrained_parameters())}
    slow = {id(p) for p in composer.slow_parameters()}
    rates = {
        "heads": settings.lr,
        "backbone": settings.lr_backbone,
        "correction": settings.lr * settings.lr_correction_scale,
        "scalars": settings.lr_scalars or settings.lr,
    }
    members: dict[str, list[nn.Parameter]] = {}
    for parameter in composer.parameters():
        if not parameter.requires_grad:
            continue
        own = parameter.numel() == 1 and settings.lr_scalars is not None
        kind = "correction" if id(parameter) in slow else "scalars" if own else "heads"
        if id(parameter) in of_backbone:
            kind = "backbone"
        vector = kind in ("heads", "backbone") and parameter.squeeze().ndim < 2
        members.setdefault(f"{kind}-vectors" if vector else kind, []).append(parameter)
    if not members:
        raise UserError("nothing to train: the model has no heads and backbone.freeze is `all`; set another freeze")
    return [
        {
            "name": name,
            "params": members[name],
            "lr": rates[name.removesuffix("-vectors")],
            "weight_decay": 0.0 if name.endswith("-vectors") or name == "scalars" else settings.weight_decay,
        }
        for name in sorted(members, key=_group_order)
    ]


def _group_order(name: str) -> tuple[int, bool]:
    kind = name.removesuffix("-vectors")
    return ("heads", "backbone", "correction", "scalars").index(kind), name != kind


def build_optimizer(composer: Composer, backbone: nn.Module, settings: TrainSettings) -> Optimizer:
    """AdamW over ``parameter_groups``."""
    return AdamW(parameter_groups(composer, backbone, settings), betas=BETAS, eps=EPS)


@dataclass(frozen=True)
class WarmupCosine:
    """Factor on the peak rate at optimiser step ``step`` = 0, 1, …: linear from 1/warmup to 1, then a cosine to 0.

    The last of ``steps`` steps still has a rate above zero. A run that is shorter than its warm-up never peaks.
    """

    warmup: int
    steps: int

    def __call__(self, step: int) -> float:
        if step < self.warmup:
            return (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


@dataclass(frozen=True)
class WarmupLinear:
    """As ``WarmupCosine``, but a straight line from 1 to 0 after the warm-up."""

    warmup: int
    steps: int

    def __call__(self, step: int) -> float:
        if step < self.warmup:
            return (step + 1) / self.warmup
        return max(0.0, 1 - (step - self.warmup) / max(1, self.steps - self.warmup))


def build_scheduler(optimizer: Optimizer, settings: TrainSettings) -> LambdaLR:
    """``train.schedule`` on every group; step it once after each optimiser step."""
    kind = WarmupLinear if settings.schedule == "linear" else WarmupCosine
    return LambdaLR(optimizer, kind(settings.warmup_steps, settings.steps))


def trainable(model: nn.Module) -> Iterable[nn.Parameter]:
    """The parameters that receive gradients."""
    return (p for p in model.parameters() if p.requires_grad)
