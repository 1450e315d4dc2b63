"""What every head on a backbone has in common: one pass of the image tower, selection of rows, the temperature.

Legend: U distinct images of a batch, B queries, G gallery columns, D joint width, Dv/Dt tower widths, d head width.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor

from neucore_xl.config.schema import Settings
from neucore_xl.data.batches import Batch, ImageFeatures, ImageInput, SequenceBatch, TextFeatures, TextInput
from neucore_xl.models import matching
from neucore_xl.models.backbone import Backbone
from neucore_xl.models.composer import Composer
from neucore_xl.models.features import ComposerOutput, FeatureSet, QueryFeatures, TargetFeatures
from neucore_xl.models.layers import Temperature, l2, unit_variance
from neucore_xl.models.starts.start import Start


@dataclass(frozen=True)
class Text:
    """The text of B queries: the sentence, the planned sequence, and the pooled short texts ``[P, D]`` it indexes.

    ``short`` is None for heads that set ``reads_sequence`` to false: their short texts are never encoded.
    """

    sentence: TextFeatures
    sequence: SequenceBatch
    short: Tensor | None

    @property
    def language_ids(self) -> Tensor:
        """Ids ``[B, L]`` of the sentences for a system with a ``language_tokenizer``."""
        assert self.sequence.language_ids is not None, "the batch was made without the composer's language_tokenizer"
        return self.sequence.language_ids

    def short_rows(self, index: Tensor) -> Tensor:
        """``index [B, K]`` into the short texts to their directions ``[B, K, D]``, of length √D."""
        assert self.short is not None
        short = self.short if len(self.short) else self.short.new_zeros(1, self.short.shape[1])  # all masked
        return unit_variance(short)[index]


class Head(Composer):
    """A composer on a backbone, written as three functions of features.

    ``look``: what the head computes of each image once, whatever its part; ``targets`` and ``queries`` go on from
    there. In training every distinct image passes the tower and ``look`` once, reference and target alike.
    """

    reads_sequence = False
    start: Start

    def __init__(self, settings: Settings, backbone: Backbone, start: Start | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        self.start = start or Start(backbone.embed_dim)
        self.temperature = Temperature(settings.loss.temperature_init, settings.loss.temperature_max)
        self.score_mode: matching.ScoreMode = settings.model.score

    def look(self, images: ImageFeatures) -> FeatureSet:
        """Features of U images to named tensors ``[U, ...]``; here ``pooled [U, D]``, unit length."""
        return FeatureSet({"pooled": l2(images.pooled)})

    def targets(self, images: FeatureSet) -> TargetFeatures:
        """What ``look`` gave to target features; here ``vector [U, D]``, the pretrained pooled feature."""
        return FeatureSet({"vector": self.start.image(images["pooled"])})

    def base(self, references: FeatureSet, text: Text) -> Tensor:
        """Where the queries start ``[B, D]``, unit length, fp32: the best closed form, or the references."""
        return self.start(references["pooled"], l2(text.sentence.pooled), text.sequence.words)

    @abstractmethod
    def queries(self, references: FeatureSet, text: Text) -> QueryFeatures:
        """What ``look`` gave of B references, and their texts, to query features (``vector [B, D]``, unit length)."""

    def concept_logits(self, references: FeatureSet, targets: FeatureSet) -> Tensor | None:
        """Alignment scores ``[B, C]`` of B pairs of images with the vocabulary, or None (equation 5)."""
        return None

    def penalties(self, images: FeatureSet, batch: Batch, text: Text, queries: QueryFeatures) -> dict[str, Tensor]:
        """Further losses of a training batch by name, each a mean over its queries; ``images``: all of ``look``."""
        return {}

    def encode_targets(self, images: ImageInput) -> TargetFeatures:
        return self.targets(self.look(self.backbone.images(images)))

    def compose(self, reference: ImageInput, text: TextInput, sequence: SequenceBatch) -> QueryFeatures:
        return self.queries(self.look(self.backbone.images(reference)), self.as_text(text, sequence))

    def train_outputs(self, batch: Batch) -> ComposerOutput:
        images = self.look(self.backbone.images(batch.images))
        references = images.select(batch.reference)
        logits = None
        if batch.concept_labels is not None:
            logits = self.concept_logits(references, images.select(batch.target_images))
        text = self.as_text(batch.texts, batch.sequence)
        queries = self.queries(references, text)
        return ComposerOutput(
            queries=queries,
            targets=self.targets(images).select(batch.gallery),
            log_scale=self.temperature(),
            concept_logits=logits,
            penalties=self.penalties(images, batch, text, queries) or None,
        )

    def score(self, queries: QueryFeatures, targets: TargetFeatures) -> Tensor:
        return matching.score(queries, targets, self.score_mode)

    def fitted(self) -> Start | None:
        return self.start if self.start.parts else None

    def parts(self, text: Text) -> dict[str, Tensor]:
        """What a start is fitted on beside images and words, of B sentences: ``text [B, D]``, unit length."""
        return {"text": l2(text.sentence.pooled)}

    def as_text(self, text: TextInput, sequence: SequenceBatch) -> Text:
        """The text of B queries as ``queries`` takes it."""
        short = self.backbone.texts(sequence.short_texts).pooled if self.reads_sequence else None
        return Text(self.backbone.texts(text), sequence, short)
