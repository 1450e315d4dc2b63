"""What language adds to the sentences of some splits: planned edits, named concepts, and all short texts of both."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from neucore_xl.config.schema import FusionSettings, Settings
from neucore_xl.data.triplets import Split
from neucore_xl.errors import UserError
from neucore_xl.language.concepts import ConceptTagger
from neucore_xl.language.planning import FROM_FILES, sequences_for, stored_sequences
from neucore_xl.language.sequence import FusionSequence, clip_steps

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SentenceFacts:
    """Planned edits and distinct concepts by sentence."""

    sequences: Mapping[str, FusionSequence]
    concepts: Mapping[str, tuple[str, ...]]

    def short_texts(self) -> list[str]:
        """Every distinct phrase and concept name: what a frozen text tower has to compute besides the sentences."""
        phrases = (step.phrase for sequence in self.sequences.values() for step in sequence.steps)
        names = (name for names in self.concepts.values() for name in names)
        return list(dict.fromkeys([*phrases, *names]))


def sentence_facts(
    settings: Settings, tagger: ConceptTagger, splits: Sequence[Split], cache_dir: Path | None = None
) -> SentenceFacts:
    """Facts of every sentence of ``splits``; raises ``UserError`` as ``sequences_for`` does."""
    texts = list(dict.fromkeys(t.text for split in splits for t in split.triplets))
    fusion = fusion_of(settings)
    return SentenceFacts(
        sequences_for(texts, fusion, settings.language, cache_dir),
        dict(zip(texts, tagger.concepts(texts), strict=True)),
    )


class FreeSentences:
    """Facts of sentences that belong to no split, one at a time, planned as the run's ``fusion.sequence`` says.

    Where that source cannot serve a lone sentence, a warning says once what is done instead: sentences that the
    files of ``llm`` or ``oracle`` do not hold are planned by the clause planner, and the control ``shuffled`` leaves
    a sentence its own steps. Nothing is written to disk.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._tagger = ConceptTagger(settings.language)
        self._stored: Mapping[str, FusionSequence] | None = None
        self._warned = False

    def facts(self, text: str) -> SentenceFacts:
        """Planned edits and concepts of ``text``."""
        (concepts,) = self._tagger.concepts([text])
        return SentenceFacts(self._sequences(text), {text: concepts})

    def _sequences(self, text: str) -> Mapping[str, FusionSequence]:
        fusion, language = self.settings.fusion, self.settings.language
        if fusion.sequence in FROM_FILES:
            if self._stored is None:
                self._stored = self._read_files()
            if text in self._stored:
                return {text: clip_steps(self._stored[text], fusion.max_steps)}
            self._warn("sentences that its sequence files do not hold are planned by the clause planner")
            fusion = fusion.model_copy(update={"sequence": "clauses"})
        elif fusion.sequence == "shuffled":
            self._warn("a lone sentence keeps its own steps, planned by the clause planner")
        return sequences_for([text], fusion, language)

    def _read_files(self) -> Mapping[str, FusionSequence]:
        try:
            return stored_sequences(fusion_of(self.settings))
        except UserError as error:
            self._warn(f"its sequence files cannot be used here ({error}); sentences are planned by the clause planner")
            return {}

    def _warn(self, instead: str) -> None:
        if not self._warned:
            log.warning("the run was trained with fusion.sequence=%s: %s", self.settings.fusion.sequence, instead)
        self._warned = True


def check_sequences(settings: Settings, splits: Sequence[Split]) -> None:
    """Raise ``UserError`` where a sequence file that ``settings`` name cannot serve ``splits``; plans nothing."""
    fusion = fusion_of(settings)
    if fusion.sequence in FROM_FILES:
        sequences_for([t.text for split in splits for t in split.triplets], fusion, settings.language)


def fusion_of(settings: Settings) -> FusionSettings:
    """``settings.fusion`` with the file that it means: for ``oracle`` the truth beside generated data."""
    fusion = settings.fusion
    if fusion.sequence != "oracle":
        return fusion
    truth = settings.data.root / "truth"
    if not truth.is_dir():
        raise UserError(
            f"fusion.sequence=oracle reads the truth of generated data, and {truth} is not there: take "
            "clauses or llm for data without a truth"
        )
    return fusion.model_copy(update={"file": truth})
