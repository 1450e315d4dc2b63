"""One system: its settings, its parts and its weights, from a run on disk to the scores of a split or a search."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from neucore_xl.config.schema import Settings
from neucore_xl.data.datasets import open_from_settings
from neucore_xl.data.triplets import Split, Triplet
from neucore_xl.encoding.cache import cache_root
from neucore_xl.encoding.encoder import Encoder
from neucore_xl.encoding.gallery import Gallery, check_pictures
from neucore_xl.encoding.inputs import PixelInputs, decoded, device_of, make_inputs
from neucore_xl.encoding.scores import Scorer
from neucore_xl.encoding.sentences import FreeSentences, sentence_facts
from neucore_xl.errors import UserError
from neucore_xl.language.bert import check_folder
from neucore_xl.language.concepts import ConceptTagger
from neucore_xl.language.vocabulary import Vocabulary
from neucore_xl.models.backbone import Backbone, build_backbone
from neucore_xl.models.composer import Composer
from neucore_xl.models.lora import is_adapter
from neucore_xl.models.registry import build_composer, composer_class
from neucore_xl.models.towers import parameters_hash
from neucore_xl.parallel.device import resolve_device
from neucore_xl.parallel.world import ALONE, World
from neucore_xl.runs.checkpoints import find
from neucore_xl.runs.checkpoints.checkpoint import Checkpoint, Identity
from neucore_xl.runs.checkpoints.export import ExportedRun
from neucore_xl.runs.checkpoints.find import find_checkpoint
from neucore_xl.runs.checkpoints.weights import load_state, stored_state
from neucore_xl.runs.folder import RunFolder


class Hit(NamedTuple):
    """One picture of a ranking: its name in the gallery and its matching score (higher is better, no unit)."""

    name: str
    score: float


@dataclass(frozen=True, repr=False, eq=False)
class System:
    """A system of composed image retrieval: ``load_run`` loads a trained one, ``assemble`` builds an untrained one.

    Its parts are on one device (the CPU until ``to``), the same on every rank of ``world``. ``backbone_fingerprint``
    names the frozen weights, whatever becomes of the others. ``path`` and ``checkpoint`` say where the weights came
    from; both are None where they are untrained.
    """

    settings: Settings
    backbone: Backbone
    composer: Composer
    vocabulary: Vocabulary
    tagger: ConceptTagger
    backbone_fingerprint: str
    world: World = field(default_factory=World)
    path: Path | None = None
    checkpoint: Checkpoint | None = None

    def __repr__(self) -> str:
        source = f"{self.path}, step {self.checkpoint.step}" if self.checkpoint else "untrained"
        return f"System({self.settings.model.name}, {source}, on {self.device})"

    @property
    def device(self) -> torch.device:
        """Where its parts are and compute."""
        return device_of(self.composer)

    @property
    def identity(self) -> Identity:
        """What its checkpoints belong to."""
        return Identity(self.settings.model.name, self.backbone_fingerprint, self.vocabulary.fingerprint())

    @cached_property
    def fingerprint(self) -> str:
        """Hexadecimal digest of everything that decides features and scores of a picture: weights, model, pixels.

        A run folder and its exported file have the same. It is computed once: a system that is trained on changes.
        """
        given = self.backbone.given
        pixels = given.folder.digest if given else self.backbone.transform(self.settings.data.target_pad).fingerprint()
        model = self.settings.model.model_dump_json(exclude_none=True)
        salt = "\x1f".join([repr(self.identity), model, pixels])
        return parameters_hash(stored_state(self.composer, self.backbone), salt)

    @property
    def protocol(self) -> dict[str, Any]:
        """What every protocol says of images: how pictures become pixels, or which features were given instead."""
        if (given := self.backbone.given) is not None:
            return {"features": {"origin": given.folder.manifest.origin, "digest": given.folder.digest}}
        return {"preprocessing": self.preprocessing}

    @property
    def preprocessing(self) -> dict[str, Any]:
        """How pictures become pixels: side in pixels, padding, normalisation.

        Raises ``UserError`` where the features of images are given.
        """
        transform = self.backbone.transform(self.settings.data.target_pad)
        return {
            "size": transform.size,
            "target_pad": transform.target_pad,
            "resize": "bicubic",
            "mean": list(transform.mean),
            "std": list(transform.std),
        }

    def to(self, device: torch.device | str) -> System:
        """This system, moved to ``device``: ``cpu``, ``cuda``, ``cuda:1``, or ``auto``, a GPU where there is one.

        Raises ``UserError`` for a device that is not there or whose name is unknown.
        """
        place = resolve_device(device, self.settings.evaluation.precision, precision_key="evaluation.precision")
        self.composer.to(place)
        self.backbone.to(place)
        return self

    def encoder(self) -> Encoder:
        """Its composer at work where it is."""
        return Encoder(self.composer, self.settings.evaluation, self.device, self.world)

    def prepare(
        self, splits: Sequence[Split], *, without_gallery: Collection[str] = (), device: torch.device | None = None
    ) -> Scorer:
        """Everything that training and scoring need of ``splits``; all ranks call it alike and share the work.

        Sentences are planned as ``fusion.sequence`` says, by rank 0 for all. Frozen towers are computed on ``device``
        (None: where they are) as far as the feature cache lacks them; of splits named in ``without_gallery`` (the
        training split) only for the images of triplets. Raises ``UserError`` for a sentence without a sequence and
        an image that cannot be read, on all ranks.
        """
        settings, cache_dir = self.settings, cache_root(self.settings.train)
        facts = self.world.on_main(lambda: sentence_facts(settings, self.tagger, splits, cache_dir))
        inputs = make_inputs(
            settings, self.backbone, splits, facts.short_texts(),
            without_gallery=without_gallery, device=device, world=self.world,
        )  # fmt: skip
        return Scorer(settings, self.vocabulary, self.encoder(), facts, inputs)

    def scores(self, split: Split) -> dict[str, Iterator[tuple[int, np.ndarray]]]:
        """Gallery key (``""`` on CIRR, the category on Fashion-IQ) → scores of its triplets, in chunks.

        A chunk is (first query, scores [q, G] in fp32), its columns in the order of the gallery's names; rank 0 has
        them, the iterators of other ranks are empty. Raises ``UserError`` as ``prepare`` does.
        """
        return self.prepare([split]).scores(split)

    def encode_images(self, paths: Sequence[Path | str]) -> Gallery:
        """The pictures at ``paths``, in their order, ready to be searched; progress is shown if they are many.

        Any format that Pillow reads; ``evaluation.batch_size`` pictures at a time, decoded by ``data.workers``
        processes. Raises ``UserError``, before anything is encoded, for no picture, for files that are not there (all
        are named) or are given twice; and for a file that cannot be decoded.
        """
        names = check_pictures(paths)
        pixels = self._pixels(names)
        batches = decoded(pixels, names, self.settings.evaluation.batch_size, self.settings.data.workers)
        features = self._own_encoder().gallery(lambda chunk: next(batches), names)
        return Gallery(names, features, self.fingerprint)

    def search(self, reference: Path | str, sentence: str, gallery: Gallery, top: int | None = 10) -> list[Hit]:
        """The ``top`` pictures of ``gallery`` that match ``reference`` changed as ``sentence`` says, best first.

        Scores are the full matching score that evaluation uses. Equal scores keep the order of the gallery; ``top``
        of None, or above G, gives all. The reference is ranked like any other picture if the gallery holds it. The
        sentence is planned now by the run's own ``fusion.sequence``; where that reads a file, sentences that the file
        does not hold are planned by the clause planner, which a warning says once.

        Raises ``UserError`` for a picture that cannot be read, an empty sentence, an empty gallery, a ``top`` below 1
        and a gallery that another system encoded.
        """
        if not sentence.strip():
            raise UserError("the sentence is empty: say in words how the reference picture is to be changed.")
        if not len(gallery):
            raise UserError("the gallery is empty: encode at least one picture with encode_images.")
        if top is not None and top < 1:
            raise UserError(f"top is {top}: ask for at least 1 picture, or None for all.")
        if gallery.system != self.fingerprint:
            raise UserError(
                f"the gallery was encoded by another system than {self}: encode its pictures with this one."
            )
        triplet = Triplet("search", str(reference), None, sentence)
        facts = self._free_sentences.facts(sentence)
        scorer = Scorer(self.settings, self.vocabulary, self._own_encoder(), facts, self._pixels([triplet.reference]))
        asked = Split("pictures", "search", Path(), (triplet,), {})
        queries = scorer.encoder.queries(scorer.collator(asked), asked.triplets)
        ((_, scores),) = scorer.encoder.scores(queries, gallery.features)
        order = np.argsort(-scores[0], kind="stable")[:top]
        return [Hit(gallery.names[i], float(scores[0, i])) for i in order]

    @cached_property
    def _free_sentences(self) -> FreeSentences:
        return FreeSentences(self.settings)

    def _own_encoder(self) -> Encoder:
        """The encoder of this process alone, whatever the world: a person at a prompt is one process."""
        return replace(self.encoder(), world=ALONE)

    def _pixels(self, names: Sequence[str]) -> PixelInputs:
        paths = {name: Path(name) for name in names}
        return PixelInputs(paths, self.backbone.transform(self.settings.data.target_pad), self.backbone.tokenizer)


def assemble(settings: Settings, vocabulary: Vocabulary | None = None, *, world: World = ALONE) -> System:
    """Build every part of ``settings``; without ``vocabulary`` it is made from the training split's sentences.

    Initial weights are a function of ``train.seed`` (and of the pretrained file); torch's own random state is left
    as it was. Raises ``UserError`` for an unknown system, backbone or data folder, on every rank of ``world``.
    """
    with world.agreed():
        kind = composer_class(settings.model.name)  # what is wrong is refused before the sentences are read
        if kind.needs_language_model:
            check_folder(settings.model)
        tagger = ConceptTagger(settings.language, cache_root(settings.train))
    if vocabulary is None:
        vocabulary = world.on_main(lambda: build_vocabulary(settings, tagger))
    with world.agreed(), torch.random.fork_rng():
        torch.manual_seed(settings.train.seed)
        backbone = build_backbone(settings.backbone, settings.model.tokens, levels=kind.levels)
        fingerprint = frozen_fingerprint(backbone)
        torch.manual_seed(settings.train.seed)  # heads do not depend on how many numbers the towers drew
        composer = build_composer(settings, backbone, vocabulary)
    return System(settings, backbone, composer, vocabulary, tagger, fingerprint, world)


def build_vocabulary(settings: Settings, tagger: ConceptTagger) -> Vocabulary:
    """The concepts of the training split (equation 2's M), each named by ``language.min_count`` sentences or more."""
    split = open_from_settings(settings.data, settings.data.train_split)
    return Vocabulary.build(tagger.concepts([t.text for t in split.triplets]), settings.language.min_count)


def frozen_fingerprint(backbone: Backbone) -> str:
    """SHA-256 (hex) of the weights that checkpoints leave out, and of the backbone's names and shapes.

    Trained parts do not enter, so it is the same before and after training; adapters on frozen towers leave it as it
    is without them. Given image features enter in the place of the tower that they replace.
    """
    weights = [(name, p) for name, p in backbone.named_parameters() if not is_adapter(name)]
    if not any(p.requires_grad for _, p in weights):
        return backbone.fingerprint()
    shapes = sorted((name, tuple(p.shape), p.requires_grad) for name, p in weights)
    given = f"|features {backbone.given.folder.digest}" if backbone.given else ""
    return parameters_hash({name: p for name, p in weights if not p.requires_grad}, repr(shapes) + given)


def load_run(
    path: Path | str, *, checkpoint: str = "best", settings: Settings | None = None, world: World = ALONE
) -> System:
    """The run at ``path`` with its ``best`` (else last), ``last`` or step-numbered checkpoint, ready for evaluation.

    ``path`` may also be a file of ``neucore-xl checkpoint export``, which holds one checkpoint (``checkpoint`` is
    then unused). The weights of a sharded run are put together here: one process and one CPU are enough.
    ``settings`` replaces those of the folder, e.g. to point ``data.root`` or the cache elsewhere. The system is on
    the CPU (``to`` moves it) and in evaluation mode. Raises ``UserError`` when there is no run or no checkpoint, when
    a setting of the run is unknown to this version, when a file is damaged, and when weights, vocabulary or frozen
    backbone are not those the checkpoint was made with; on every rank of ``world`` if on one.
    """
    with world.agreed():
        run = ExportedRun(path) if Path(path).is_file() else RunFolder(path)
        trained = run.settings()  # also where others are given: it says what is no run
        settings = settings or trained
        vocabulary = run.vocabulary()
        if vocabulary is None:
            raise UserError(f"run {run.path} has no vocabulary.json: it was stopped before training; train it again.")
        stored = run.checkpoint() if isinstance(run, ExportedRun) else find_checkpoint(run, checkpoint)
    system = replace(assemble(settings, vocabulary, world=world), path=run.path, checkpoint=stored)
    with world.agreed():
        find.check_identity(stored, system.identity)
        load_state(system.composer, system.backbone, stored.weights(), stored.path)
    system.composer.eval()
    return system
