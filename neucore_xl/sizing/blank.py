"""A training batch as shapes: what a number of queries brings to a forward pass, without any data.

The content of a query was counted on real annotations with the clause planner (``benchmarks/query_content.py``;
docs/plan.md has the figures). Counts are those of the fullest batch, because it is the one that has to fit.
"""

from __future__ import annotations

import numpy as np
import torch

from neucore_xl.config.schema import Settings
from neucore_xl.data.batches import Batch, ImageFeatures, ImageInput, SequenceBatch, TextFeatures, TextInput
from neucore_xl.models.backbone import Backbone

# Distinct phrases and concept names of the fullest batch of so many queries: CIRR, validation split.
_QUERIES = (1, 4, 16, 64, 256, 1024)
_SHORT_TEXTS = (24, 46, 128, 359, 978, 2724)
CONCEPTS = 18  # of the query that names most; all queries of a batch are padded to it
VOCABULARY = 6_000  # concepts of the training sentences: an assumption, for nothing is read


def short_texts(queries: int) -> int:
    """Short texts that a batch of ``queries`` brings, interpolated; beyond the largest batch counted, its rate."""
    if queries > _QUERIES[-1]:
        return -(-queries * _SHORT_TEXTS[-1] // _QUERIES[-1])
    return int(np.ceil(np.interp(queries, _QUERIES, _SHORT_TEXTS)))


def columns_per_query(settings: Settings) -> int:
    """Gallery columns that a query brings: its target, and the hard negatives of the loss."""
    return 1 + int(settings.loss.reference_negatives) + settings.loss.subset_negatives


def blank_batch(settings: Settings, backbone: Backbone, queries: int, language: int = 0) -> Batch:
    """A whole batch of ``queries`` with zeros for data, on the device that tensors are made on by default.

    Two images a query and those of its hard negatives, none shared; every query has ``fusion.max_steps`` steps. A
    frozen tower whose features are cached gives features, as in training, else there are pixels and token ids.
    ``language``: tokens of a sentence for a language model of the system's own, 0 where it has none.
    """
    columns = columns_per_query(settings) * queries
    pictures = (2 + settings.loss.subset_negatives) * queries
    steps = settings.fusion.max_steps
    labels = None
    if settings.loss.concept_weight > 0:
        labels = torch.zeros(queries, VOCABULARY)
    return Batch(
        ids=tuple(str(i) for i in range(queries)),
        images=_images(settings, backbone, pictures),
        reference=torch.zeros(queries, dtype=torch.long),
        texts=_texts(settings, backbone, queries),
        sequence=SequenceBatch(
            short_texts=_texts(settings, backbone, short_texts(queries)),
            phrase=torch.zeros(queries, steps, dtype=torch.long),
            operation=torch.zeros(queries, steps, dtype=torch.long),
            step_mask=torch.ones(queries, steps, dtype=torch.bool),
            concept=torch.zeros(queries, CONCEPTS, dtype=torch.long),
            concept_mask=torch.ones(queries, CONCEPTS, dtype=torch.bool),
            language_ids=torch.zeros(queries, language, dtype=torch.long) if language else None,
        ),
        gallery=torch.zeros(columns, dtype=torch.long),
        positive=torch.zeros(queries, dtype=torch.long),
        exclude=torch.zeros(queries, columns, dtype=torch.bool),
        concept_labels=labels,
        target=torch.zeros(queries, dtype=torch.long),
    )


def _images(settings: Settings, backbone: Backbone, count: int) -> ImageInput:
    if backbone.given is not None or (settings.train.cache_features and backbone.image_frozen):
        return ImageFeatures(
            torch.zeros(count, backbone.n_tokens, backbone.token_width),
            torch.zeros(count, backbone.embed_dim),
            tuple(
                torch.zeros(count, n, d)
                for n, d in zip(backbone.token_counts[:-1], backbone.token_widths[:-1], strict=True)
            ),
        )
    return torch.zeros(count, 3, backbone.image_size, backbone.image_size)


def _texts(settings: Settings, backbone: Backbone, count: int) -> TextInput:
    length = backbone.tokenizer(["a"]).shape[1]
    if settings.train.cache_features and backbone.text_frozen:
        return TextFeatures(
            torch.zeros(count, length, backbone.word_width),
            torch.zeros(count, backbone.embed_dim),
            torch.ones(count, length, dtype=torch.bool),
        )
    return torch.zeros(count, length, dtype=torch.long)
