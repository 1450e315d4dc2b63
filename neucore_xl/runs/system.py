"""Settings become parts that fit: backbone, vocabulary and composer, with the same weights every time."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from neucore_xl.config.schema import Settings
from neucore_xl.data.batches import Inputs
from neucore_xl.data.datasets import open_from_settings
from neucore_xl.data.triplets import Split
from neucore_xl.encoding.cache import cache_root
from neucore_xl.encoding.collate import Collator
from neucore_xl.encoding.inputs import make_inputs
from neucore_xl.encoding.sentences import SentenceFacts, sentence_facts
from neucore_xl.errors import UserError
from neucore_xl.language.concepts import ConceptTagger
from neucore_xl.language.vocabulary import Vocabulary
from neucore_xl.models.backbone import Backbone, build_backbone
from neucore_xl.models.composer import Composer
from neucore_xl.models.lora import is_adapter
from neucore_xl.models.registry import build_composer
from neucore_xl.models.towers import parameters_hash
from neucore_xl.parallel.world import ALONE, World
from neucore_xl.runs.checkpoints import find
from neucore_xl.runs.checkpoints.checkpoint import Checkpoint, Identity
from neucore_xl.runs.checkpoints.export import ExportedRun
from neucore_xl.runs.checkpoints.find import find_checkpoint
from neucore_xl.runs.checkpoints.weights import load_state
from neucore_xl.runs.folder import RunFolder


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
        find.check_identity(found, assembled.identity)
        load_state(assembled.composer, assembled.backbone, found.weights(), found.path)
    assembled.composer.eval()
    return Run(folder.path, settings or own, assembled, found)
