"""The exact gradient of a large batch in little memory: features without a graph, then one part after the other.

Gradient caching (Gao, Zhang, Han and Callan, 2021, "Scaling deep contrastive learning batch size under memory limited
setup"): the contrastive loss sees the features of all queries and targets, so it needs all of them at once; their
graphs are needed only one part at a time.

1. every part's forward without a graph, the random state before each kept;
2. the loss on all features (gathered over processes), and its gradient with respect to them;
3. every part's forward again, from the kept random state, with a graph; the product of features and their gradient
   is a scalar whose gradient with respect to the parameters is that of the loss.

Plain accumulation (``train.accumulate``) is something else: its negatives stay within a part. BatchNorm towers that
are trained see parts instead of batches and move their statistics twice.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from neucore_xl.config.schema import LossSettings
from neucore_xl.data.batches import Batch
from neucore_xl.models.features import ComposerOutput, FeatureSet
from neucore_xl.training.engines.engine import Engine
from neucore_xl.training.losses import match_term, with_row_terms


def cached_step(
    engine: Engine, parts: Sequence[Batch], settings: LossSettings, scale: float, *, last: bool
) -> tuple[dict[str, Tensor], Tensor]:
    """Add the gradient of ``scale`` · loss of the batch that ``parts`` make up.

    ``last``: no further backward follows in this optimiser step. Returns the loss terms as ``LossTerms.values``
    gives them, and θ ``[1]``, all detached.
    """
    states, outputs = [], []
    with torch.no_grad():
        for part in parts:
            states.append(_random_state(engine.device))
            outputs.append(engine.forward(part)[0])
    # In fp32: a gradient that is handed on in bf16 would be rounded once more than that of the whole batch.
    queries = _leaves(FeatureSet.cat([o.queries for o in outputs]))
    targets = _leaves(FeatureSet.cat([o.targets for o in outputs]))
    log_scale = outputs[0].log_scale.detach().requires_grad_()
    del outputs
    match = match_term(
        engine.composer,
        ComposerOutput(queries, targets, log_scale),
        torch.cat([p.positive for p in parts]).to(engine.device),
        torch.cat([p.exclude for p in parts]).to(engine.device),
        engine.world,
        settings,
    )
    (match * scale).backward()

    share = 1.0 / len(parts)
    sums: dict[str, Tensor] = {}
    zero = torch.zeros_like(match)
    for number, part in enumerate(parts):
        _restore(states[number], engine.device)
        with engine.accumulating(last and number == len(parts) - 1):
            output, moved = engine.forward(part)
            rows = with_row_terms(zero, output, moved, settings)
            carried = _product(output.queries, queries, number) + _product(output.targets, targets, number)
            carried = carried + share * (output.log_scale.float() * _gradient(log_scale)).sum()
            engine.backward(carried + scale * share * rows.total)
        for name, value in rows.values().items():
            sums[name] = sums.get(name, zero) + share * value
    sums["loss_match"] = match.detach()
    sums["loss"] = sums["loss"] + match.detach()
    return sums, log_scale.detach()


def _leaves(features: FeatureSet) -> FeatureSet:
    return features.map(lambda t: t.detach().float().requires_grad_() if t.is_floating_point() else t.detach())


def _gradient(leaf: Tensor) -> Tensor:
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad


def _product(output: FeatureSet, leaves: FeatureSet, number: int) -> Tensor:
    """Sum over the part's features of feature · cached gradient."""
    rows = slice(number * output.rows, (number + 1) * output.rows)
    terms = [(t.float() * _gradient(leaves[n])[rows]).sum() for n, t in output.items() if t.is_floating_point()]
    return torch.stack(terms).sum()


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _restore(state: tuple[Tensor, Tensor | None], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
