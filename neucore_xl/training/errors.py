"""Why a training run ends before its last step."""

from __future__ import annotations

from pathlib import Path

from neucore_xl.errors import UserError


class TrainingPaused(Exception):
    """The run was asked to stop, has saved and can go on; ``exit_code`` says whether it wants to be started again."""

    def __init__(self, why: str, exit_code: int, step: int, steps: int) -> None:
        self.exit_code, self.step = exit_code, step
        super().__init__(f"stopped after step {step} of {steps}, saved: {why}; the same command goes on from there")


class TrainingStopped(UserError):
    """The loss or a gradient is not finite: nothing was updated by the step that is named.

    ``step`` counts optimiser steps from 1, ``ids`` are the triplets of its micro-batches, ``checkpoint`` is the
    newest checkpoint saved before it, if any.
    """

    exit_code = 1
    everybodys = True

    def __init__(self, what: str, step: int, ids: tuple[str, ...], checkpoint: Path | None) -> None:
        self.step, self.ids, self.checkpoint = step, ids, checkpoint
        shown = ", ".join(ids[:8]) + (f" and {len(ids) - 8} more" if len(ids) > 8 else "")
        where = f"the last good checkpoint is {checkpoint}" if checkpoint else "no checkpoint was saved before it"
        super().__init__(
            f"{what} at step {step}: the batch held {shown}; {where}; lower train.lr or look at these rows"
        )
