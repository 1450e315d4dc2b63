"""Validation: the split's own protocol on the weights as they are now, by the dataset's headline measure."""

from __future__ import annotations

from collections.abc import Mapping

from neucore_xl.data.switches import Switches
from neucore_xl.data.triplets import Split
from neucore_xl.encoding.scores import Scorer
from neucore_xl.errors import UserError
from neucore_xl.evaluation import protocols
from neucore_xl.evaluation.result import Result
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


def evaluate_split(scorer: Scorer, split: Split) -> Result:
    """Metrics of ``split`` in percent, in ``evaluation.precision``, by the protocol of its dataset
    (``evaluation.protocols``). The random state is left as it was.

    All ranks encode; rank 0 ranks, and every rank gets its result.
    """
    settings = scorer.settings

    def ranked() -> Result:
        return protocols.evaluate(split, chunks, Switches.of(settings.data))

    with kept_random_state(settings.train.seed):
        chunks = scorer.scores(split)
        return scorer.encoder.world.on_main(ranked)


def headline(result: Result) -> Validation:
    """The measure that decides, ``mean``, and the rest."""
    metrics: Mapping[str, float] = result.metrics
    return Validation(metrics[result.headline], metrics)
