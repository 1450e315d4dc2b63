"""NEUCORE-XL: concept alignment and progressive fusion that start in the pretrained space of a CLIP backbone.

The query is l2(s + Δ), a target l2(p + correction); Δ and the correction are exactly zero at the start, and so are the
weight of IS and what EM adds: its change since the start (`model.explicit=change`), or its weight. s is the best closed
form of image, text and words, found on the training pairs before the first step (`model.start=auto`,
`models/starts/start.py`), p the pooled feature, centred where the search found that this helps; with
`model.start=image`, and before anything is fitted, s is l2(i) and an untrained head ranks by the cosine of reference
and target.

Δ has four parts, each zero at the start:

- fusion: Linear(LN(mean of the N reference tokens of X_K)), X_K after one step per planned edit (equation 8);
- edits: Σ_k MLP([i ; e_k]), what each edit moves on its own. A sentence of three edits is three moves that were each
  seen in other sentences; without this sum the head learned sentences as wholes and did no better with a true
  sequence than with one of another sentence (docs/ablation.md);
- direct: MLP([i ; t̂]). This is the system `residual`, so NEUCORE-XL contains it; a query without steps has this path
  alone beside an unchanged X;
- gate · t̂, one number (`model.text_gate` at the start): the sum of image and text of an aligned space. It is learned
  where no fitted start holds the text.

The parameters of the correction move the pretrained targets: they are trained at a small rate, with decay.

What reads tokens or steps (fusion, edits, IS) learns training pairs by heart before the rest has learned anything: its
inputs have the dropout of the pooled ones, and `model.part_dropout` of the queries train without one of these parts.

Legend: U images, B queries, N image tokens, M concepts of a query, K steps, L words, C vocabulary, D joint width,
d head width.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from neucore_xl.config.schema import Settings
from neucore_xl.data.batches import ImageFeatures
from neucore_xl.language.sequence import OPERATIONS
from neucore_xl.models.alignment import AttentionPool, ConceptScores, Exchange
from neucore_xl.models.backbone import Backbone
from neucore_xl.models.features import FeatureSet, QueryFeatures, TargetFeatures
from neucore_xl.models.fusion import LearnedSequence, PlannedSequence, ProgressiveFusion
from neucore_xl.models.head import Head, Text
from neucore_xl.models.layers import ChannelDropout, l2, mlp, token_projection, unit_variance, zeros
from neucore_xl.models.matching import ExplicitMatching
from neucore_xl.models.starts.start import Start

CONCEPT_PRIOR = 0.01  # share of the vocabulary that a sentence is expected to name, at the start


class TargetCorrection(nn.Module):
    """What is added to a target's pretrained feature: MLP([pooled ; t^fg]), zero at the start, with dropout."""

    def __init__(self, d_joint: int, width: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.mlp = mlp(d_joint + width, width, d_joint, dropout=dropout, zero=True)

    def forward(self, pooled: Tensor, foreground: Tensor) -> Tensor:
        """``pooled [U, D]`` (unit length) and ``foreground [U, d]`` to ``[U, D]``."""
        return self.mlp(self.dropout(torch.cat([unit_variance(pooled), foreground], -1)))


class NeucoreXL(Head):
    """``docs/model.md``, NEUCORE-XL. ``vocabulary [C, D]``: pooled text features of the training concepts' names."""

    aligns_concepts = True
    reads_sequence = True

    def __init__(self, settings: Settings, backbone: Backbone, vocabulary: Tensor) -> None:
        super().__init__(settings, backbone, Start.of(settings.model, backbone.embed_dim))
        model, joint, d = settings.model, backbone.embed_dim, settings.model.width
        self.vocabulary: Tensor
        self.register_buffer("vocabulary", unit_variance(vocabulary), persistent=False)
        self.image_tokens = token_projection(backbone.token_width, d)
        self.words = token_projection(backbone.word_width, d)
        self.concept = nn.Linear(joint, d)
        self.exchange = Exchange(d, model.heads, model.exchange_layers, backbone.n_tokens, model.dropout)
        self.foreground, self.background = AttentionPool(d), AttentionPool(d)
        self.concept_scores = ConceptScores(d, CONCEPT_PRIOR)

        self.learned_sequence: LearnedSequence | None = None
        self.planned_sequence: PlannedSequence | None = None
        self.phrase = nn.Linear(joint, d)
        if settings.fusion.sequence == "learned":
            self.learned_sequence = LearnedSequence(d, settings.fusion.learned_steps)
        else:
            self.planned_sequence = PlannedSequence(d, model.heads, len(OPERATIONS), model.dropout)
        self.fusion = ProgressiveFusion(d, model.heads, model.dropout)

        self.dropout = nn.Dropout(model.dropout)  # on features: they are learned by heart where pairs are few
        self.channel_dropout = ChannelDropout(model.dropout)
        self.part_dropout = StochasticDepth(model.part_dropout, "row")
        self.fused = nn.Sequential(nn.LayerNorm(d), zeros(nn.Linear(d, joint)))
        self.step_norm = nn.LayerNorm(d)
        self.direct = mlp(2 * joint, d, joint, dropout=model.dropout, zero=True)
        self.edit = mlp(joint + d, d, joint, dropout=model.dropout, zero=True)
        # A fitted start holds as much of the text as helps, and a gate learned beside it took it off again; runs from
        # when EM was weighted learned it all the same, and may be gone on from.
        self.text_gate: Tensor
        if model.start == "image" or model.explicit == "weighted":
            self.text_gate = nn.Parameter(torch.tensor([model.text_gate]))
        else:
            self.register_buffer("text_gate", torch.tensor([model.text_gate]))
        self.correction = TargetCorrection(joint, d, model.correction_dropout)
        if model.score == "full":
            self.explicit = ExplicitMatching(joint, joint, d, aligned=True, form=model.explicit)
            self.background_weight = nn.Parameter(torch.zeros(1))

    def look(self, images: ImageFeatures) -> FeatureSet:
        """``pooled [U, D]``, ``tokens [U, N, d]``, ``foreground`` and ``background [U, d]`` (equations 3 and 4)."""
        tokens = self.image_tokens(self.channel_dropout(images.tokens))
        exchanged = self.exchange(tokens)
        return FeatureSet(
            {
                "pooled": l2(images.pooled),
                "tokens": tokens,
                "foreground": self.foreground(exchanged),
                "background": self.background(exchanged),
            }
        )

    def targets(self, images: FeatureSet) -> TargetFeatures:
        """``vector [U, D]`` and, for the full score, ``background [U, d]``; both of unit length."""
        correction = self.correction(images["pooled"], images["foreground"])
        features = {"vector": l2(self.start.image(images["pooled"]) + correction.float())}
        if self.score_mode == "full":
            features["background"] = l2(images["background"])
        return FeatureSet(features)

    def queries(self, references: FeatureSet, text: Text) -> QueryFeatures:
        i, t = references["pooled"], l2(text.sentence.pooled)
        steps, step_mask = self._steps(text)
        fused = self.fused(self.dropout(self._fuse(references, text, steps, step_mask))).float()
        direct = self.direct(self.dropout(torch.cat([unit_variance(i), unit_variance(t)], -1))).float()
        edits = self._edits(i, steps, step_mask)
        delta = self.part_dropout(fused) + direct + self.part_dropout(edits) + self.text_gate * t
        features = {"vector": l2(self.base(references, text) + delta)}
        if self.score_mode == "full":
            features |= self.explicit(unit_variance(t))
            features["background"] = self.part_dropout(self.background_weight * l2(references["background"]))
        return FeatureSet(features)

    def concept_logits(self, references: FeatureSet, targets: FeatureSet) -> Tensor | None:
        if not len(self.vocabulary):
            return None
        exchanged = self.exchange(references["tokens"], targets["tokens"])
        return self.concept_scores(self.foreground(exchanged), self.concept(self.vocabulary))

    def slow_parameters(self) -> Iterable[nn.Parameter]:
        return self.correction.parameters()

    def _steps(self, text: Text) -> tuple[Tensor, Tensor]:
        """e_k ``[B, K, d]`` and which of them are real ``[B, K]``: planned, or drawn from the sentence (equation 7)."""
        words = self.words(self.channel_dropout(text.sentence.words))
        if self.learned_sequence is not None:
            sentence = self.phrase(self.dropout(unit_variance(text.sentence.pooled)))
            steps = self.learned_sequence(sentence, words, text.sentence.mask)
            return steps, torch.ones(steps.shape[:2], dtype=torch.bool, device=steps.device)
        assert self.planned_sequence is not None
        sequence = text.sequence
        phrases = self.phrase(self.dropout(text.short_rows(sequence.phrase)))
        return self.planned_sequence(phrases, sequence.operation, words, text.sentence.mask), sequence.step_mask

    def _edits(self, reference: Tensor, steps: Tensor, step_mask: Tensor) -> Tensor:
        """Σ_k MLP([i ; e_k]) over the real steps ``[B, D]``: what each edit moves, on its own."""
        i = unit_variance(reference)[:, None].expand(-1, steps.shape[1], -1)
        moves = self.edit(self.dropout(torch.cat([i, self.step_norm(steps)], -1))).float()
        return (moves * step_mask[..., None]).sum(1)

    def _fuse(self, references: FeatureSet, text: Text, steps: Tensor, step_mask: Tensor) -> Tensor:
        """Mean of the N reference tokens of X_K ``[B, d]``, from X₀ = [r^fg ; f_r ; w_{c∈C(T)}] (equation 8)."""
        tokens = references["tokens"]
        concepts = self.concept(self.dropout(text.short_rows(text.sequence.concept)))
        x = torch.cat([references["foreground"][:, None], tokens, concepts], 1)
        n_image = 1 + tokens.shape[1]
        mask = torch.cat([text.sequence.concept_mask.new_ones(len(x), n_image), text.sequence.concept_mask], 1)
        active = None if self.learned_sequence is not None else text.sequence.active
        x = self.fusion(x, mask, steps, step_mask, active)
        return x[:, 1:n_image].mean(1)
