"""Settings become parts that fit: backbone, vocabulary and composer, with the same weights every time."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch

from neucore_xl.config.schema import Settings
from neucore_xl.data.batches import Inputs
from neucore_xl.data.datasets import open_from_settings
from neucore_xl.data.triplets import Split
from neucore_xl.language.concepts import ConceptTagger
from neucore_xl.language.vocabulary import Vocabulary
from neucore_xl.models.backbone import Backbone, build_backbone
from neucore_xl.models.composer import Composer
from neucore_xl.models.registry import build_composer
from neucore_xl.models.towers import parameters_hash
from neucore_xl.runs.cache import cache_root
from neucore_xl.runs.checkpoints import Identity
from neucore_xl.runs.collate import Collator
from neucore_xl.runs.inputs import make_inputs
from neucore_xl.runs.texts import SentenceFacts, sentence_facts


@dataclass(frozen=True)
class Assembled:
    """One system, on the CPU. ``backbone_fingerprint`` names its frozen weights, whatever becomes of the others."""

    settings: Settings
    backbone: Backbone
    composer: Composer
    vocabulary: Vocabulary
    tagger: ConceptTagger
    backbone_fingerprint: str

    @property
    def identity(self) -> Identity:
        """What its checkpoints belong to."""
        return Identity(self.settings.model.name, self.backbone_fingerprint, self.vocabulary.fingerprint())

    def facts(self, splits: Sequence[Split]) -> SentenceFacts:
        """Planned edits and concepts of the sentences of ``splits``."""
        return sentence_facts(self.settings, self.tagger, splits, cache_root(self.settings.train))

    def inputs_for(
        self, splits: Sequence[Split], facts: SentenceFacts | None = None, *, without_gallery: Collection[str] = ()
    ) -> Inputs:
        """Inputs over ``splits``; frozen towers are computed now as far as the cache lacks them.

        Of splits named in ``without_gallery`` (the training split) only the images of triplets are.
        """
        facts = facts or self.facts(splits)
        return make_inputs(self.settings, self.backbone, splits, facts.short_texts(), without_gallery=without_gallery)

    def collator(self, inputs: Inputs, facts: SentenceFacts, split: Split) -> Collator:
        """The collator of ``split``."""
        s = self.settings
        return Collator(
            inputs, facts.sequences, facts.concepts, self.vocabulary, s.fusion, s.loss, split, seed=s.train.seed
        )


def assemble(settings: Settings, vocabulary: Vocabulary | None = None) -> Assembled:
    """Build every part of ``settings``; without ``vocabulary`` it is made from the training split's sentences.

    Initial weights are a function of ``train.seed`` (and of the pretrained file); torch's own random state is left
    as it was. Raises ``UserError`` for an unknown backbone, row or data folder.
    """
    tagger = ConceptTagger(settings.language, cache_root(settings.train))
    if vocabulary is None:
        vocabulary = build_vocabulary(settings, tagger)
    with torch.random.fork_rng():
        torch.manual_seed(settings.train.seed)
        backbone = build_backbone(settings.backbone)
        fingerprint = frozen_fingerprint(backbone)
        torch.manual_seed(settings.train.seed)  # heads do not depend on how many numbers the towers drew
        composer = build_composer(settings, backbone, vocabulary)
    return Assembled(settings, backbone, composer, vocabulary, tagger, fingerprint)


def build_vocabulary(settings: Settings, tagger: ConceptTagger) -> Vocabulary:
    """The concepts of the training split (equation 2's M), each named by ``language.min_count`` sentences or more."""
    split = open_from_settings(settings.data, settings.data.train_split)
    return Vocabulary.build(tagger.concepts([t.text for t in split.triplets]), settings.language.min_count)


def frozen_fingerprint(backbone: Backbone) -> str:
    """SHA-256 (hex) of the weights that checkpoints leave out, and of the backbone's names and shapes.

    Trained parts do not enter, so it is the same before and after training.
    """
    if not any(p.requires_grad for p in backbone.parameters()):
        return backbone.fingerprint()
    shapes = sorted((name, tuple(p.shape), p.requires_grad) for name, p in backbone.named_parameters())
    return parameters_hash({n: p for n, p in backbone.named_parameters() if not p.requires_grad}, repr(shapes))
