"""What language adds to the sentences of some splits: planned edits, named concepts, and all short texts of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from neucore_xl.config.schema import FusionSettings, Settings
from neucore_xl.data.triplets import Split
from neucore_xl.errors import UserError
from neucore_xl.language.concepts import ConceptTagger
from neucore_xl.language.planning import FROM_FILES, sequences_for
from neucore_xl.language.sequence import FusionSequence


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
