"""A composer of two matrices, for what concerns the loop and not the model."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from neucore_xl.data.batches import Batch, ImageFeatures, ImageInput, SequenceBatch, TextFeatures, TextInput
from neucore_xl.models.composer import Composer
from neucore_xl.models.features import ComposerOutput, FeatureSet

WIDTH = 6


class ToyComposer(Composer):
    """query = dropout(reference + W text), target = V image; concepts from the query."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.backbone = nn.Linear(1, 1).requires_grad_(False)
        self.text = nn.Linear(WIDTH, WIDTH)
        self.image = nn.Linear(WIDTH, WIDTH)
        self.concepts = nn.Linear(WIDTH, 3)
        self.dropout = nn.Dropout(dropout)
        self.log_scale = nn.Parameter(torch.ones(1))

    def encode_targets(self, images: ImageInput) -> FeatureSet:
        assert isinstance(images, ImageFeatures)
        return FeatureSet({"f": self.image(images.pooled)})

    def compose(self, reference: ImageInput, text: TextInput, sequence: SequenceBatch) -> FeatureSet:
        assert isinstance(reference, ImageFeatures)
        assert isinstance(text, TextFeatures)
        return FeatureSet({"f": self.dropout(reference.pooled + self.text(text.pooled))})

    def train_outputs(self, batch: Batch) -> ComposerOutput:
        assert isinstance(batch.images, ImageFeatures)
        images = batch.images
        reference = ImageFeatures(images.tokens[batch.reference], images.pooled[batch.reference])
        queries = self.compose(reference, batch.texts, batch.sequence)
        targets = self.encode_targets(images).select(batch.gallery)
        return ComposerOutput(queries, targets, self.log_scale, self.concepts(queries["f"]))

    def score(self, queries: FeatureSet, targets: FeatureSet) -> Tensor:
        return queries["f"].float() @ targets["f"].float().T


def toy_batch(seed: int, size: int = 4) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    pooled = torch.randn(2 * size, WIDTH, generator=draw)
    none = torch.zeros(size, 0, dtype=torch.long)
    words = TextFeatures(torch.zeros(size, 1, 1), torch.randn(size, WIDTH, generator=draw), torch.ones(size, 1).bool())
    return Batch(
        ids=tuple(f"{seed}-{i}" for i in range(size)),
        images=ImageFeatures(pooled.unsqueeze(1), pooled),
        reference=torch.arange(size),
        texts=words,
        sequence=SequenceBatch(words, none, none, none.bool(), none, none.bool()),
        gallery=torch.arange(size, 2 * size),
        positive=torch.arange(size),
        exclude=torch.zeros(size, size, dtype=torch.bool),
        concept_labels=(torch.rand(size, 3, generator=draw) < 0.5).float(),
    )


@pytest.fixture
def toy() -> Callable[..., ToyComposer]:
    """A seeded toy composer; keyword ``dropout``."""

    def make(dropout: float = 0.0) -> ToyComposer:
        torch.manual_seed(0)
        return ToyComposer(dropout)

    return make


@pytest.fixture
def batch_of() -> Callable[..., Batch]:
    """``batch_of(seed, size=4)``."""
    return toy_batch
