"""Settings become parts that fit: backbone, vocabulary and composer, with the same weights every time."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import torch

from neucore_xl.config.schema import Settings
from neucore_xl.data.batches import Inputs
from neucore_xl.data.datasets import open_from_settings
from neucore_xl.data.triplets import Split
from neucore_xl.language.concepts import ConceptTagger
from neucore_xl.language.vocabulary import Vocabulary
from neucore_xl.models.backbone import Backbone, build_backbone
from neucore_xl.models.composer import Composer
from neucore_xl.models.lora import is_adapter
from neucore_xl.models.registry import build_composer
from neucore_xl.models.towers import parameters_hash
from neucore_xl.parallel.together import ALONE
from neucore_xl.parallel.world import World
from neucore_xl.runs.cache import cache_root
from neucore_xl.runs.checkpoints import Identity
from neucore_xl.runs.collate import Collator
from neucore_xl.runs.inputs import make_inputs
from neucore_xl.runs.texts import SentenceFacts, sentence_facts


@dataclass(frozen=True)
class Assembled:
    """One system, on the CPU, the same on every rank of ``world``.

    ``backbone_fingerprint`` names its frozen weights, whatever becomes of the others.
    """

    settings: Settings
    backbone: Backbone
    composer: Composer
    vocabulary: Vocabulary
    tagger: ConceptTagger
    backbone_fingerprint: str
    world: World = field(default_factory=World)

    @property
    def identity(self) -> Identity:
        """What its checkpoints belong to."""
        return Identity(self.settings.model.name, self.backbone_fingerprint, self.vocabulary.fingerprint())

    def facts(self, splits: Sequence[Split]) -> SentenceFacts:
        """Planned edits and concepts of the sentences of ``splits``; rank 0 finds them out, for all."""
        cache_dir = cache_root(self.settings.train)
        return self.world.on_main(lambda: sentence_facts(self.settings, self.tagger, splits, cache_dir))

    def inputs_for(
        self, splits: Sequence[Split], facts: SentenceFacts | None = None, *, without_gallery: Collection[str] = ()
    ) -> Inputs:
        """Inputs over ``splits``; frozen towers are computed now, by all ranks, as far as the cache lacks them.

        Of splits named in ``without_gallery`` (the training split) only the images of triplets are.
        """
        facts = facts or self.facts(splits)
        texts = facts.short_texts()
        return make_inputs(
            self.settings, self.backbone, splits, texts, without_gallery=without_gallery, world=self.world
        )

    def collator(self, inputs: Inputs, facts: SentenceFacts, split: Split) -> Collator:
        """The collator of ``split``."""
        s = self.settings
        return Collator(
            inputs, facts.sequences, facts.concepts, self.vocabulary, s.fusion, s.loss, split, seed=s.train.seed
        )


def assemble(settings: Settings, vocabulary: Vocabulary | None = None, *, world: World = ALONE) -> Assembled:
    """Build every part of ``settings``; without ``vocabulary`` it is made from the training split's sentences.

    Initial weights are a function of ``train.seed`` (and of the pretrained file); torch's own random state is left
    as it was. Raises ``UserError`` for an unknown backbone, row or data folder, on every rank of ``world``.
    """
    with world.agreed():
        tagger = ConceptTagger(settings.language, cache_root(settings.train))
    if vocabulary is None:
        vocabulary = world.on_main(lambda: build_vocabulary(settings, tagger))
    with world.agreed(), torch.random.fork_rng():
        torch.manual_seed(settings.train.seed)
        backbone = build_backbone(settings.backbone)
        fingerprint = frozen_fingerprint(backbone)
        torch.manual_seed(settings.train.seed)  # heads do not depend on how many numbers the towers drew
        composer = build_composer(settings, backbone, vocabulary)
    return Assembled(settings, backbone, composer, vocabulary, tagger, fingerprint, world)


def build_vocabulary(settings: Settings, tagger: ConceptTagger) -> Vocabulary:
    """The concepts of the training split (equation 2's M), each named by ``language.min_count`` sentences or more."""
    split = open_from_settings(settings.data, settings.data.train_split)
    return Vocabulary.build(tagger.concepts([t.text for t in split.triplets]), settings.language.min_count)


def frozen_fingerprint(backbone: Backbone) -> str:
    """SHA-256 (hex) of the weights that checkpoints leave out, and of the backbone's names and shapes.

    Trained parts do not enter, so it is the same before and after training; adapters on frozen towers leave it as it
    is without them.
    """
    own = [(name, p) for name, p in backbone.named_parameters() if not is_adapter(name)]
    if not any(p.requires_grad for _, p in own):
        return backbone.fingerprint()
    shapes = sorted((name, tuple(p.shape), p.requires_grad) for name, p in own)
    return parameters_hash({name: p for name, p in own if not p.requires_grad}, repr(shapes))
