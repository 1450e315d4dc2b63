"""The training objective: a matching loss (equation 10, or a triplet loss), the focal concept loss, and their sum.

Everything here is computed in fp32, whatever the precision of the forward pass.
Legend: B queries, G gallery columns of the batch, C concepts of the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from neucore_xl.config.schema import LossSettings
from neucore_xl.data.batches import Batch
from neucore_xl.models.composer import Composer
from neucore_xl.models.features import ComposerOutput
from neucore_xl.parallel.collectives import gather_rows
from neucore_xl.parallel.world import World
from neucore_xl.training.triplet_losses import hardest_hinge, soft_triplet


def batch_classification(scores: Tensor, positive: Tensor, exclude: Tensor, log_scale: Tensor) -> Tensor:
    """Cross-entropy of every query over the batch's gallery (NEUCORE, equation 10); a scalar in fp32, in nats.

    ``scores [B, G]`` are matching scores, multiplied here by exp(``log_scale [1]``); ``positive [B]`` int64 is the
    column of each query's target; ``exclude [B, G]`` bool is true where a column must not count as a negative. A
    query's own positive always counts, whatever ``exclude`` says there. Raises ``ValueError`` on other shapes.
    """
    if scores.ndim != 2 or exclude.shape != scores.shape or positive.shape != scores.shape[:1]:
        raise ValueError(
            f"scores [B, G], positive [B] and exclude [B, G] do not agree: "
            f"{tuple(scores.shape)}, {tuple(positive.shape)}, {tuple(exclude.shape)}"
        )
    with torch.autocast(device_type=scores.device.type, enabled=False):
        logits = scores.float() * log_scale.float().exp()
        barred = exclude.scatter(1, positive.unsqueeze(1), False)
        return F.cross_entropy(logits.masked_fill(barred, float("-inf")), positive)


def focal_concept_loss(logits: Tensor, labels: Tensor, alpha: float, gamma: float) -> Tensor:
    """Focal loss of image-level concept labels (NEUCORE, equation 6, without its λ); a scalar in fp32, in nats.

    −mean over B of Σ_C [y·α·(1−p)^γ·log p + (1−y)·(1−α)·p^γ·log(1−p)] / max(1, Σ_C y) with p = σ(``logits [B, C]``)
    and ``labels [B, C]`` = y in [0, 1]. The paper takes the mean over C as well, under which a concept weighs less the
    larger the vocabulary is. Powers and logarithms are taken of log-sigmoids, so that no logit, however large, gives
    log 0.
    """
    with torch.autocast(device_type=logits.device.type, enabled=False):
        x, y = logits.float(), labels.float()
        log_p, log_not_p = F.logsigmoid(x), F.logsigmoid(-x)
        named = y * alpha * torch.exp(gamma * log_not_p) * log_p
        unnamed = (1 - y) * (1 - alpha) * torch.exp(gamma * log_p) * log_not_p
        return -((named + unnamed).sum(1) / y.sum(1).clamp_min(1)).mean()


@dataclass(frozen=True)
class LossTerms:
    """The scalars of one forward: ``total`` = ``match`` + λ · ``concept`` + the sum of ``penalties``."""

    total: Tensor
    match: Tensor
    concept: Tensor
    penalties: dict[str, Tensor]

    def values(self) -> dict[str, Tensor]:
        """Detached, by their names in the log."""
        named = {"loss": self.total, "loss_match": self.match, "loss_concept": self.concept}
        named.update({f"loss_{name}": value for name, value in self.penalties.items()})
        return {name: value.detach() for name, value in named.items()}


def objective(
    composer: Composer, output: ComposerOutput, batch: Batch, settings: LossSettings, world: World | None = None
) -> LossTerms:
    """Total loss (equation 11) of one training forward; with several processes, this one's share of it.

    Queries stay where they are, targets are gathered from all processes. The mean of the shares is the loss of the
    whole batch, and with gradients averaged over processes its gradient is exact.
    A system without concept logits, a batch without labels, or λ = 0 gives a concept term of exactly zero.
    """
    match = match_term(composer, output, batch.positive, batch.exclude, world or World(), settings)
    return with_row_terms(match, output, batch, settings)


def match_term(
    composer: Composer,
    output: ComposerOutput,
    positive: Tensor,
    exclude: Tensor,
    world: World,
    settings: LossSettings,
) -> Tensor:
    """The loss ``loss.kind`` of this process's queries ``[B]`` over the targets of all processes ``[G]``; a scalar."""
    with torch.autocast(device_type=output.log_scale.device.type, enabled=False):
        targets = output.targets.map(lambda t: gather_rows(_fp32(t), world))
        scores = composer.score(output.queries.map(_fp32), targets)
        if settings.kind == "classification":
            return batch_classification(scores, positive, exclude, output.log_scale)
        if settings.kind == "soft-triplet":
            match = soft_triplet(scores, positive, exclude)
        else:
            match = hardest_hinge(scores, positive, exclude, settings.margin)
        return match + 0.0 * output.log_scale.float().sum()  # a gradient of 0: DDP waits for one of every parameter


def with_row_terms(match: Tensor, output: ComposerOutput, batch: Batch, settings: LossSettings) -> LossTerms:
    """``match`` and the terms that are means over rows, each row's own: concepts and penalties."""
    with torch.autocast(device_type=output.log_scale.device.type, enabled=False):
        concept = torch.zeros_like(match)
        total = match
        if settings.concept_weight > 0 and output.concept_logits is not None and batch.concept_labels is not None:
            concept = focal_concept_loss(
                output.concept_logits, batch.concept_labels, settings.focal_alpha, settings.focal_gamma
            )
            total = total + settings.concept_weight * concept
        penalties = {name: value.float() for name, value in (output.penalties or {}).items()}
        for value in penalties.values():
            total = total + value
    return LossTerms(total, match, concept, penalties)


def _fp32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
