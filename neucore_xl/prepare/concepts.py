"""The concepts that a training split names and those that another split adds: the zero-shot concepts (CIRR_zs, NEUCORE
supplement, section 6)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neucore_xl.config.schema import LanguageSettings
from neucore_xl.language.concepts import ConceptTagger
from neucore_xl.language.vocabulary import Vocabulary
from neucore_xl.prepare.sequences import sentences_of

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class ConceptLists:
    """``vocabulary`` of the split ``known``; ``zero_shot``: what ``split`` names beyond it, in order of appearance."""

    known: str
    split: str
    vocabulary: Vocabulary
    zero_shot: tuple[str, ...]
    sentences: int  # of `split`, distinct
    touched: int  # of those, how many name a zero-shot concept

    def to_json(self) -> dict[str, Any]:
        """What ``--json`` writes."""
        return {
            "vocabulary_of": self.known,
            "vocabulary": self.vocabulary.to_json(),
            "split": self.split,
            "zero_shot": list(self.zero_shot),
            "sentences": self.sentences,
            "sentences_with_zero_shot": self.touched,
        }

    def print(self, console: Console) -> None:
        """Counts, the commonest concepts and the zero-shot list."""
        console.print(f"{self.known}: {len(self.vocabulary)} concepts; {', '.join(self.vocabulary.names[:12])}, …")
        console.print(
            f"{self.split}: {len(self.zero_shot)} zero-shot concepts, named by {self.touched} of "
            f"{self.sentences} distinct sentences"
        )
        console.print(", ".join(self.zero_shot))


def concept_lists(
    root: Path | str, *, known: str = "train", split: str = "val", language: LanguageSettings | None = None
) -> ConceptLists:
    """Concepts of ``split`` beside the vocabulary of ``known``; ``UserError`` for a split that is not there."""
    language = language or LanguageSettings()
    tagger = ConceptTagger(language)
    vocabulary = Vocabulary.build(tagger.concepts(sentences_of(Path(root), known)), language.min_count)
    concepts = tagger.concepts(list(dict.fromkeys(sentences_of(Path(root), split))))
    unseen = vocabulary.unseen(concepts)
    touched = sum(not set(unseen).isdisjoint(names) for names in concepts)
    return ConceptLists(known, split, vocabulary, unseen, len(concepts), touched)
