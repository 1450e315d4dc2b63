"""A split becomes scores: what its sentences say, where its images are read from, and what encodes both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from neucore_xl.config.schema import Settings
from neucore_xl.data.batches import Inputs
from neucore_xl.data.triplets import Split
from neucore_xl.encoding.collate import Collator
from neucore_xl.encoding.encoder import Encoder, Forward
from neucore_xl.encoding.sentences import SentenceFacts
from neucore_xl.language.vocabulary import Vocabulary
from neucore_xl.models.features import QueryFeatures, TargetFeatures


@dataclass(frozen=True)
class Scorer:
    """Everything between some splits and their scores; ``System.prepare`` makes it.

    ``facts`` and ``inputs`` cover the sentences and images of those splits.
    """

    settings: Settings
    vocabulary: Vocabulary
    encoder: Encoder
    facts: SentenceFacts
    inputs: Inputs

    def through(self, forward: Forward, device: torch.device) -> Scorer:
        """The same with the forward of an engine that wraps the composer and has moved it to ``device``."""
        return replace(self, encoder=replace(self.encoder, forward=forward, device=device))

    def collator(self, split: Split) -> Collator:
        """The collator of ``split``: its batches for training, its queries for evaluation."""
        s = self.settings
        facts, vocabulary = self.facts, self.vocabulary
        return Collator(
            self.inputs, facts.sequences, facts.concepts, vocabulary, s.fusion, s.loss, split, seed=s.train.seed,
            random_reference=self.encoder.composer.random_reference, language=self.encoder.composer.language_tokenizer,
        )  # fmt: skip

    def scores(self, split: Split) -> dict[str, Iterator[tuple[int, np.ndarray]]]:
        """Gallery key (``""`` on CIRR, the category on Fashion-IQ) → scores of its triplets, in chunks.

        A chunk is (first query, scores [q, G] in fp32), its columns in the order of the gallery's names. A gallery is
        encoded when its scores are first asked for; one without triplets has none. With many ranks all galleries are
        encoded at once, by all of them, and rank 0 has the scores: the other ranks' iterators are empty. An image
        that cannot be read is a ``UserError``, on all ranks.
        """
        encoder, world = self.encoder, self.encoder.world
        collator = self.collator(split)

        def features(key: str) -> tuple[QueryFeatures, TargetFeatures] | None:
            triplets = [t for t in split.triplets if (t.category or "") == key]
            if not triplets:
                return None
            targets = encoder.gallery(self.inputs.images, split.galleries[key].names)
            return encoder.queries(collator, triplets), targets

        # Ranks that wait for each other must not depend on the order in which somebody asks for scores.
        encoded = {key: features(key) for key in split.galleries} if world.many else None

        def scores(key: str) -> Iterator[tuple[int, np.ndarray]]:
            pair = features(key) if encoded is None else encoded.pop(key)
            if pair is not None and world.is_main:
                yield from encoder.scores(*pair)

        return {key: scores(key) for key in split.galleries}
