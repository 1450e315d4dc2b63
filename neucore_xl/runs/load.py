"""A run folder becomes a model at work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neucore_xl.config.schema import Settings
from neucore_xl.data.batches import Inputs
from neucore_xl.data.triplets import Split
from neucore_xl.errors import UserError
from neucore_xl.models.composer import Composer
from neucore_xl.parallel.together import ALONE
from neucore_xl.parallel.world import World
from neucore_xl.runs import checkpoints
from neucore_xl.runs.assemble import Assembled, assemble
from neucore_xl.runs.checkpoints import Checkpoint
from neucore_xl.runs.collate import Collator
from neucore_xl.runs.export import ExportedRun
from neucore_xl.runs.folder import RunFolder
from neucore_xl.runs.texts import SentenceFacts


@dataclass(frozen=True)
class Run:
    """A trained system: its parts, in evaluation mode on the CPU, and the checkpoint they came from."""

    path: Path
    settings: Settings
    assembled: Assembled
    checkpoint: Checkpoint

    @property
    def composer(self) -> Composer:
        return self.assembled.composer

    def facts(self, splits: Sequence[Split]) -> SentenceFacts:
        """Planned edits and concepts of the sentences of ``splits``."""
        return self.assembled.facts(splits)

    @property
    def preprocessing(self) -> dict[str, Any]:
        """How pictures become pixels, a part of every protocol: side in pixels, padding, normalisation."""
        transform = self.assembled.backbone.transform(self.settings.data.target_pad)
        return {
            "size": transform.size,
            "target_pad": transform.target_pad,
            "resize": "bicubic",
            "mean": list(transform.mean),
            "std": list(transform.std),
        }

    def inputs_for(self, splits: Sequence[Split], facts: SentenceFacts | None = None) -> Inputs:
        """Inputs over ``splits``, from the feature cache where the run's towers are frozen."""
        return self.assembled.inputs_for(splits, facts)

    def collator(self, inputs: Inputs, facts: SentenceFacts, split: Split) -> Collator:
        """The collator whose ``queries`` encode ``split``."""
        return self.assembled.collator(inputs, facts, split)


def load_run(
    path: Path | str, *, checkpoint: str = "best", settings: Settings | None = None, world: World = ALONE
) -> Run:
    """The run at ``path`` with its ``best`` (else last), ``last`` or step-numbered checkpoint.

    ``path`` may also be a file of ``neucore-xl checkpoint export``, which holds one checkpoint (``checkpoint`` is
    then unused). The weights of a sharded run are put together here: one process and one CPU are enough.
    ``settings`` replaces those of the folder, e.g. to point ``data.root`` or the cache elsewhere. Raises
    ``UserError`` when there is no run or no checkpoint, when a file is damaged, and when weights, vocabulary or
    frozen backbone are not those the checkpoint was made with; on every rank of ``world`` if on one.
    """
    exported = Path(path).is_file()
    with world.agreed():
        folder = ExportedRun(path) if exported else RunFolder(path)
        own = folder.settings()
        vocabulary = folder.vocabulary()
        if vocabulary is None:
            raise UserError(
                f"run {folder.path} has no vocabulary.json: it was stopped before training; train it again."
            )
        found = folder.checkpoint() if isinstance(folder, ExportedRun) else find_checkpoint(folder, checkpoint)
    assembled = assemble(settings or own, vocabulary, world=world)
    with world.agreed():
        checkpoints.check_identity(found, assembled.identity)
        checkpoints.load_state(assembled.composer, assembled.backbone, found.weights(), found.path)
    assembled.composer.eval()
    return Run(folder.path, settings or own, assembled, found)


def find_checkpoint(folder: RunFolder, which: str) -> Checkpoint:
    """``best`` (the last one if no validation has chosen yet), ``last``, or a step number as text."""
    if which.isdigit():
        return checkpoints.at_step(folder.checkpoints, int(which))
    if which not in ("best", "last"):
        raise UserError(f"unknown checkpoint {which!r}: best, last or a step number.")
    found = checkpoints.best(folder.checkpoints) if which == "best" else None
    found = found or checkpoints.latest(folder.checkpoints)
    if found is None:
        raise UserError(f"run {folder.path} has no usable checkpoint yet: train it until its first checkpoint.")
    return found
