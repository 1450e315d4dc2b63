"""Validation: the split's own protocol on the weights as they are now, by the dataset's headline measure."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from neucore_xl.config.schema import Settings
from neucore_xl.data.batches import Inputs
from neucore_xl.data.switches import Switches
from neucore_xl.data.triplets import Split
from neucore_xl.encoding.collate import Collator
from neucore_xl.encoding.scores import Forward, score_split
from neucore_xl.errors import UserError
from neucore_xl.evaluation import protocols
from neucore_xl.evaluation.result import Result
from neucore_xl.models.composer import Composer
from neucore_xl.parallel.world import ALONE, World
from neucore_xl.training.loop import Validation
from neucore_xl.training.randomness import kept_random_state


def check_labels(split: Split) -> None:
    """Raise ``UserError`` for a split that cannot choose a checkpoint: unlabelled, or of a dataset with no protocol."""
    protocols.protocol_of(split.dataset)
    if not any(t.target for t in split.triplets):
        raise UserError(
            f"split {split.name} of {split.dataset} carries no labels and cannot choose the best checkpoint: "
            "set data.val_split to a labelled one"
        )


def evaluate_split(
    composer: Composer,
    inputs: Inputs,
    collator: Collator,
    split: Split,
    settings: Settings,
    device: torch.device | str,
    *,
    world: World = ALONE,
    forward: Forward | None = None,
) -> Result:
    """Metrics of ``split`` in percent, computed in fp32, by the protocol of its dataset (``evaluation.protocols``).
    ``composer`` is on ``device``; the random state is left as it was.

    All ranks of ``world`` encode, through ``forward`` where an engine wraps the composer; rank 0 ranks, and every
    rank gets its result.
    """

    def ranked() -> Result:
        return protocols.evaluate(split, chunks, Switches.of(settings.data))

    with kept_random_state(settings.train.seed):
        chunks = score_split(
            composer, inputs, collator, split, settings.evaluation, device, world=world, forward=forward
        )
        return world.on_main(ranked)


def headline(result: Result) -> Validation:
    """The measure that decides, ``mean``, and the rest."""
    metrics: Mapping[str, float] = result.metrics
    return Validation(metrics[result.headline], metrics)
