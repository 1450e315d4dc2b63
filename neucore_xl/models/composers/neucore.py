"""NEUCORE as published (system `neucore`): equations 1 to 9 on any backbone, without the faults of the released code.

Everything is learned at width d from the tower's tokens and words; nothing starts in the pretrained space (that is
NEUCORE-XL). The fusion sequence is drawn from the sentence (equation 7) whatever `fusion.sequence` says, with
`fusion.learned_steps` steps. Concept embeddings come from the text tower applied to the concept's name, so that
unseen words differ from each other.

Legend: U images, B queries, N image tokens, M concepts of a query, C vocabulary, d head width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from neucore_xl.config.schema import Settings
from neucore_xl.data.batches import ImageFeatures
from neucore_xl.models.alignment import AttentionPool, ConceptScores, Exchange
from neucore_xl.models.backbone import Backbone
from neucore_xl.models.features import FeatureSet, QueryFeatures, TargetFeatures
from neucore_xl.models.fusion import LearnedSequence, MixedFusion
from neucore_xl.models.head import Head, Text
from neucore_xl.models.layers import l2, mlp, token_projection, unit_variance
from neucore_xl.models.matching import ExplicitMatching


class Neucore(Head):
    """``docs/model.md``, NEUCORE. ``vocabulary [C, D]``: pooled text features of the training concepts' names."""

    aligns_concepts = True
    reads_sequence = True

    def __init__(self, settings: Settings, backbone: Backbone, vocabulary: Tensor) -> None:
        super().__init__(settings, backbone)
        model, joint, d = settings.model, backbone.embed_dim, settings.model.width
        self.vocabulary: Tensor
        self.register_buffer("vocabulary", unit_variance(vocabulary), persistent=False)
        self.image_tokens = token_projection(backbone.token_width, d)
        self.words = token_projection(backbone.word_width, d)
        self.sentence = nn.Linear(joint, d)
        self.concept = nn.Linear(joint, d)
        self.exchange = Exchange(d, model.heads, model.exchange_layers, backbone.n_tokens, model.dropout)
        self.foreground, self.background = AttentionPool(d), AttentionPool(d)
        self.concept_scores = ConceptScores(d, prior=None)
        self.sequence = LearnedSequence(d, settings.fusion.learned_steps)
        self.fusion = MixedFusion(d, model.heads, model.dropout, settings.fusion.learned_steps)
        self.fused = mlp(d, d, d, dropout=model.dropout)
        if model.score == "full":
            self.explicit = ExplicitMatching(d, d, d, aligned=False, form="whole")

    def look(self, images: ImageFeatures) -> FeatureSet:
        """``tokens [U, N, d]``, ``foreground`` and ``background [U, d]`` (equations 1, 3 and 4)."""
        tokens = self.image_tokens(images.tokens)
        exchanged = self.exchange(tokens)
        return FeatureSet(
            {"tokens": tokens, "foreground": self.foreground(exchanged), "background": self.background(exchanged)}
        )

    def targets(self, images: FeatureSet) -> TargetFeatures:
        """``vector [U, d]``: t^fg; for the full score ``background [U, d]``: t^bg; both of unit length."""
        features = {"vector": l2(images["foreground"])}
        if self.score_mode == "full":
            features["background"] = l2(images["background"])
        return FeatureSet(features)

    def queries(self, references: FeatureSet, text: Text) -> QueryFeatures:
        """f̂ ``[B, d]`` of equation 8 and the query's side of equation 9."""
        tokens = references["tokens"]
        sentence = self.sentence(unit_variance(text.sentence.pooled))
        steps = self.sequence(sentence, self.words(text.sentence.words), text.sentence.mask)
        concepts = self.concept(text.short_rows(text.sequence.concept))
        x = torch.cat([references["foreground"][:, None], tokens, concepts], 1)
        n_image = 1 + tokens.shape[1]
        mask = torch.cat([text.sequence.concept_mask.new_ones(len(x), n_image), text.sequence.concept_mask], 1)
        x = self.fusion(x, mask, steps, sentence)
        features = {"vector": l2(self.fused(x[:, 1:n_image].mean(1)))}
        if self.score_mode == "full":
            features |= self.explicit(sentence)
            features["background"] = l2(references["background"])
        return FeatureSet(features)

    def concept_logits(self, references: FeatureSet, targets: FeatureSet) -> Tensor | None:
        """Equation 5 on the pair's exchanged tokens ``[B, 2N, d]``; None without a vocabulary."""
        if not len(self.vocabulary):
            return None
        exchanged = self.exchange(references["tokens"], targets["tokens"])
        return self.concept_scores(self.foreground(exchanged), self.concept(self.vocabulary))
