"""The clause planner: a sentence becomes edits at its conjunctions, without any language model.

A sentence is cut at every separator (punctuation, "and", "but", "then", "with" …); a piece starts a step of its own
when it has a predicate of its own or cues another operation, and otherwise goes on with the step before it. So
"add a dog and a cat" is one step (nouns coordinated under one verb) and "is black and much longer" two.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neucore_xl.config.schema import LanguageSettings
from neucore_xl.language import cues
from neucore_xl.language.cache import cached_values
from neucore_xl.language.concepts import concepts_of, lemma_of
from neucore_xl.language.operations import classify, leading_verb
from neucore_xl.language.sequence import FusionSequence, Operation, Step, clip_steps
from neucore_xl.language.spacy_pipeline import documents, load_pipeline, pipeline_identity

if TYPE_CHECKING:
    from spacy.tokens import Doc, Token

VERSION = 1  # part of the cache key: raise it when a rule changes

_STRONG = frozenset([";", ".", "!", "?", "…", "then", "but"])
_WEAK = frozenset([",", ":", "and", "&", "+", "while", "plus", "yet", "with", "without"])
_INTRODUCES = frozenset(["with", "without", "while"])  # separators that belong to the piece they open
# A piece without a verb of its own starts a step only for these: nouns and numbers merely go on.
_VERBLESS = frozenset(
    {
        Operation.NEGATION,
        Operation.COMPARATIVE,
        Operation.VIEWPOINT,
        Operation.KEEP,
        Operation.CHANGE,
        Operation.SPATIAL,
    }
)


class ClausePlanner:
    """Plans sentences deterministically from spaCy's dependency parse.

    Args:
        language: pipeline name and the parts of speech of concepts.
        max_steps: longest sequence; later edits are merged into the last step.
        cache_dir: folder for plans that outlive the process; None keeps them in memory only.
    """

    def __init__(self, language: LanguageSettings, max_steps: int, cache_dir: Path | None = None) -> None:
        self.language = language
        self.max_steps = max_steps
        self.cache_dir = cache_dir
        self._nlp = load_pipeline(language.spacy_model, parse=True)
        self._known: dict[str, FusionSequence] = {}

    @property
    def settings(self) -> dict[str, Any]:
        """What a plan depends on beside its text (the header of a sequence file)."""
        return {
            "pipeline": pipeline_identity(self._nlp),
            "parts_of_speech": sorted(self.language.parts_of_speech),
            "max_steps": self.max_steps,
            "version": VERSION,
        }

    def plan(self, texts: Sequence[str]) -> list[FusionSequence]:
        """One sequence per text: at least one step, or none for a blank text; phrases are exact pieces of the text."""
        new = list(dict.fromkeys(t for t in texts if t not in self._known))
        if new:
            key = [{k: v for k, v in self.settings.items() if k != "max_steps"}]  # whole plans are kept, clipped here
            values = cached_values("clauses", new, self._plan, key=key, cache_dir=self.cache_dir)
            for text, steps in zip(new, values, strict=True):
                read = tuple(Step(Operation(op), tuple(concepts), phrase) for op, concepts, phrase in steps)
                self._known[text] = clip_steps(FusionSequence(text, read), self.max_steps)
        return [self._known[t] for t in texts]

    def _plan(self, texts: list[str]) -> list[list[Any]]:
        """JSON-like steps, as the cache keeps them."""
        return [
            [[s.operation.value, list(s.concepts), s.phrase] for s in self._steps(text, doc)]
            for text, doc in zip(texts, documents(self._nlp, texts), strict=True)
        ]

    def _steps(self, text: str, doc: Doc) -> tuple[Step, ...]:
        steps = []
        for tokens in split_clauses(doc):
            begin, end = tokens[0].idx, tokens[-1].idx + len(tokens[-1])
            concepts = concepts_of(tokens, self.language.parts_of_speech)
            steps.append(Step(classify(tokens), concepts, text[begin:end]))
        if not steps and text.strip():  # nothing but separators
            steps.append(Step(Operation.DIRECT, concepts_of(doc, self.language.parts_of_speech), text.strip()))
        return tuple(steps)


def split_clauses(doc: Doc) -> list[list[Token]]:
    """The tokens of each clause, in order: contiguous, without separators at either end, never empty."""
    tokens = [t for t in doc if not t.is_space]
    clauses: list[tuple[int, int]] = []  # [begin, end) in tokens
    for begin, end, strong in _pieces(tokens):
        piece = tokens[begin:end]
        if not clauses or _starts_clause(tokens[slice(*clauses[-1])], piece, strong):
            clauses.append((begin, end))
        else:
            clauses[-1] = (clauses[-1][0], end)
    return [tokens[b:e] for b, e in clauses]


def _pieces(tokens: Sequence[Token]) -> list[tuple[int, int, bool]]:
    """Runs of tokens between separators, and whether a strong separator stands before each."""
    pieces: list[tuple[int, int, bool]] = []
    begin, strong = 0, True

    def close(end: int) -> None:
        nonlocal strong
        if any(t.is_alpha or t.like_num for t in tokens[begin:end]):
            pieces.append((begin, end, strong))
            strong = False

    for i, token in enumerate(tokens):
        word = token.lower_
        if word not in _STRONG and word not in _WEAK:
            continue
        if word in _INTRODUCES:
            if i > begin:
                close(i)
                begin = i
            continue
        close(i)
        strong = strong or word in _STRONG
        begin = i + 1
    close(len(tokens))
    return pieces


def _starts_clause(before: Sequence[Token], piece: Sequence[Token], strong: bool) -> bool:
    """Whether ``piece`` is an edit of its own after the clause ``before``."""
    if strong:
        return True
    if _has_predicate(piece):
        return True
    operation = classify(piece)
    return operation in _VERBLESS and operation is not classify(before)


def _has_predicate(piece: Sequence[Token]) -> bool:
    """A leading verb that is not part of a relative clause, or a subject with its verb."""
    lead = leading_verb(piece)
    if lead is not None:
        verb = piece[lead]
        return lemma_of(verb) in cues.EDIT_VERBS or not _in_relative_clause(verb)
    inside = {t.i for t in piece}
    return any(
        t.dep_ in {"nsubj", "nsubjpass", "expl"} and t.head.i in inside and t.head.pos_ in {"VERB", "AUX"}
        for t in piece
    )


def _in_relative_clause(token: Token) -> bool:
    return any(t.dep_ in {"relcl", "acl", "advcl"} for t in (token, *token.ancestors))
