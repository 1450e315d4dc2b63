"""Concepts C(T): the lemmas of the content words of a sentence (NEUCORE, section 3.1), by part of speech."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from neucore_xl.config.schema import LanguageSettings
from neucore_xl.language.cache import cached_values
from neucore_xl.language.spacy_pipeline import documents, load_pipeline, pipeline_identity

if TYPE_CHECKING:
    from spacy.tokens import Token

VERSION = 1  # part of the cache key: raise it when the rule below changes


def lemma_of(token: Token) -> str:
    """Lower-case lemma of a spaCy token; its lower-case form where the pipeline gives none."""
    return (token.lemma_ or token.text).strip().lower()


def concepts_of(tokens: Iterable[Token], parts_of_speech: Sequence[str]) -> tuple[str, ...]:
    """Distinct lemmas of the tokens with one of ``parts_of_speech``, in order of appearance.

    Lemmas without a letter are left out (symbols and figures that the tagger takes for nouns).
    """
    wanted = frozenset(parts_of_speech)
    lemmas = (lemma_of(t) for t in tokens if t.pos_ in wanted)
    return tuple(dict.fromkeys(lemma for lemma in lemmas if any(c.isalpha() for c in lemma)))


class ConceptTagger:
    """Names the concepts of sentences; what was tagged once is not tagged again.

    Args:
        settings: pipeline name and parts of speech.
        cache_dir: folder for tables that outlive the process; None keeps results in memory only.
    """

    def __init__(self, settings: LanguageSettings, cache_dir: Path | None = None) -> None:
        self.settings = settings
        self.cache_dir = cache_dir
        self._nlp = load_pipeline(settings.spacy_model)
        self._known: dict[str, tuple[str, ...]] = {}

    @property
    def key(self) -> tuple[object, ...]:
        """What the concepts depend on beside the text: pipeline, its version, parts of speech, this rule."""
        return (pipeline_identity(self._nlp), sorted(self.settings.parts_of_speech), VERSION)

    def concepts(self, texts: Sequence[str]) -> list[tuple[str, ...]]:
        """Distinct lower-case lemmas of each text, in order of appearance; none for a blank text."""
        new = list(dict.fromkeys(t for t in texts if t not in self._known))
        if new:
            values = cached_values("concepts", new, self._tag, key=self.key, cache_dir=self.cache_dir)
            self._known.update((t, tuple(v)) for t, v in zip(new, values, strict=True))
        return [self._known[t] for t in texts]

    def _tag(self, texts: list[str]) -> list[list[str]]:
        parts = self.settings.parts_of_speech
        return [list(concepts_of(doc, parts)) for doc in documents(self._nlp, texts)]
