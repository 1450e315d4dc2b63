"""The judge of what a model wrote: a sound sequence with every repair counted, or the reason for a rejection.

What is put right, step by step (the keys of ``Verdict.repairs``):

- ``operation``: another case or spacing of an operation, the beginning of just one, or a spelling close to one
  (difflib, 0.7);
- ``phrase``: other case, punctuation, spacing or inflection, or words left out: the exact words of the sentence are
  put in its place. A phrase is found where its words stand in one piece, else in their order with gaps of at most as
  many words as it has;
- ``lemma``: a concept in an inflected form of the sentence becomes its lemma; ``split``: one of several words becomes
  several; ``duplicate``: one named twice is named once; ``implied``: a single lower-case word that the sentence lacks
  becomes implied, and an implied one that the sentence has becomes a concept; ``dropped concept``: anything else;
- ``dropped step``: a step without a known operation or a phrase of the sentence is left out as long as another is
  sound: a plan with an edit less is closer to what the model meant than another planner's;
- ``order``: steps are put in the order of the sentence; ``repeated step``: the same operation on the same words is
  kept once; ``clipped``: steps beyond the longest sequence are merged into the last.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches

from neucore_xl.config.schema import LanguageSettings
from neucore_xl.language.concepts import concepts_of, lemma_of
from neucore_xl.language.llm.wire import MAX_IMPLIED, RawStep
from neucore_xl.language.sequence import FusionSequence, Operation, Step, check_sequence, clip_steps
from neucore_xl.language.spacy_pipeline import documents, load_pipeline

# Reasons for a rejection that are not the wire's ("unreadable: …") or the writer's own ("cut short", "too long").
NO_STEPS = "no steps"
NOTHING_TRACEABLE = "nothing traceable"
NO_OPERATION = "no known operation"
UNSOUND = "unsound"

VERSION = 1  # part of what a checked sequence depends on: raise it when a rule above changes

_WORD = re.compile(r"\w+")
_EDGES = " \t\r\n.,;:!?…"  # what a phrase does not begin or end with
_LONGEST_CONCEPT = 40  # characters
_MOST_STEPS = 64  # steps of an answer that are looked at
_IMPLIED = re.compile(r"[^\W\d_]{2,24}")
_BY_NAME = {op.value: op for op in Operation}


@dataclass(frozen=True)
class Lemmas:
    """The words of a sentence: its concepts (lemmas of content words), and the lemma of every word in lower case."""

    concepts: tuple[str, ...] = ()
    of_word: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """``sequence`` is None where the answer is rejected, for the ``reason``."""

    sequence: FusionSequence | None
    repairs: Mapping[str, int] = field(default_factory=dict)
    reason: str | None = None


def read_lemmas(texts: Sequence[str], language: LanguageSettings) -> list[Lemmas]:
    """The lemmas of each text by the spaCy pipeline of ``language``; raises ``UserError`` where there is none."""
    nlp = load_pipeline(language.spacy_model)
    found = []
    for doc in documents(nlp, texts):
        of_word: dict[str, str] = {}
        for token in doc:
            lemma = lemma_of(token)
            for word in (token.text.strip().lower(), lemma):
                if _is_concept(word) and _is_concept(lemma):
                    of_word.setdefault(word, lemma)
        concepts = tuple(c for c in concepts_of(doc, language.parts_of_speech) if c in of_word)
        found.append(Lemmas(concepts, of_word))
    return found


def judge(text: str, lemmas: Lemmas, steps: Sequence[RawStep], max_steps: int) -> Verdict:
    """Whether ``steps`` make a sound sequence of ``text``, after the repairs named above."""
    if not steps:
        return Verdict(None, reason=NO_STEPS)
    repairs: Counter[str] = Counter()
    sentence = _Sentence(text, lemmas.of_word)
    known, found = 0, []
    position = 0  # where the step before it ends: a phrase that comes twice is looked for behind it first
    if len(steps) > _MOST_STEPS:
        repairs["dropped step"] += len(steps) - _MOST_STEPS
    for raw in steps[:_MOST_STEPS]:
        operation = _operation(raw.operation, repairs)
        known += operation is not None
        span = sentence.find(raw.phrase, position)
        if operation is None or span is None:
            repairs["dropped step"] += 1
            continue
        position = span[1]
        phrase = text[slice(*span)]
        if phrase != raw.phrase.strip(_EDGES):
            repairs["phrase"] += 1
        concepts, implied = _concepts(raw, lemmas.of_word, repairs)
        found.append((span, Step(operation, concepts, phrase, implied)))
    if not found:
        return Verdict(None, reason=NOTHING_TRACEABLE if known else NO_OPERATION)
    ordered = sorted(found, key=lambda item: item[0][0])
    if ordered != found:
        repairs["order"] += 1
    unique = {(step.operation, tuple(_lower_words(step.phrase)) or step.phrase): step for _, step in reversed(ordered)}
    kept = tuple(reversed(unique.values()))
    if len(kept) < len(ordered):
        repairs["repeated step"] += len(ordered) - len(kept)
    whole = FusionSequence(text, kept)
    sequence = clip_steps(whole, max_steps)
    if sequence is not whole:
        repairs["clipped"] += 1
    if check_sequence(sequence, max_steps=max_steps):
        return Verdict(None, reason=UNSOUND)
    return Verdict(sequence, {reason: n for reason, n in repairs.items() if n})


class _Sentence:
    """The words of a text with their places, for finding what a phrase quotes."""

    def __init__(self, text: str, of_word: Mapping[str, str]) -> None:
        self.text = text
        self.of_word = of_word
        self.spans = [m.span() for m in _WORD.finditer(text)]
        self.words = [text[b:e].lower() for b, e in self.spans]
        self.lemmas = [of_word.get(w, w) for w in self.words]

    def find(self, phrase: str, start: int) -> tuple[int, int] | None:
        """Begin and end (in characters) of what ``phrase`` quotes, sought from ``start`` and then anywhere."""
        exact = phrase.strip(_EDGES)
        wanted = _lower_words(exact)
        if not wanted:  # emoji, symbols
            begin = self.text.find(exact) if exact and not self.words else -1
            return (begin, begin + len(exact)) if begin >= 0 else None
        for begin in self._verbatim(exact, start):
            return begin, begin + len(exact)
        first = sum(b < start for b, _ in self.spans)
        lemmas = [self.of_word.get(w, w) for w in wanted]
        for ours, theirs in ((self.words, wanted), (self.lemmas, lemmas)):
            for begin in (first, 0):
                piece = _in_one_piece(theirs, ours, begin)
                if piece is not None:
                    return self.spans[piece][0], self.spans[piece + len(theirs) - 1][1]
        gapped = _with_gaps(lemmas, self.lemmas)
        return None if gapped is None else (self.spans[gapped[0]][0], self.spans[gapped[1]][1])

    def _verbatim(self, exact: str, start: int) -> Iterator[int]:
        """Where ``exact`` stands as whole words, the place behind ``start`` first."""
        for origin in (start, 0):
            begin = self.text.find(exact, origin)
            while begin >= 0:
                end = begin + len(exact)
                if not (_joined(self.text, begin) or _joined(self.text, end)):
                    yield begin
                begin = self.text.find(exact, begin + 1)


def _joined(text: str, place: int) -> bool:
    """Whether a word runs across ``place``."""
    return 0 < place < len(text) and _WORD.match(text[place - 1]) is not None and _WORD.match(text[place]) is not None


def _in_one_piece(wanted: Sequence[str], words: Sequence[str], start: int) -> int | None:
    for begin in range(start, len(words) - len(wanted) + 1):
        if words[begin] == wanted[0] and list(words[begin : begin + len(wanted)]) == list(wanted):
            return begin
    return None


def _with_gaps(wanted: Sequence[str], words: Sequence[str]) -> tuple[int, int] | None:
    """First and last word of the first place that holds ``wanted`` in order with at most as many words between."""
    for begin in (i for i, word in enumerate(words) if word == wanted[0]):
        position = begin
        for word in wanted[1:]:
            try:
                position = words.index(word, position + 1, begin + 2 * len(wanted))
            except ValueError:
                break
        else:
            return begin, position
    return None


def _operation(name: str, repairs: Counter[str]) -> Operation | None:
    if name in _BY_NAME:
        return _BY_NAME[name]
    plain = re.sub(r"[\W_]+", "_", name[:80].lower()).strip("_")
    begins = [value for value in _BY_NAME if len(plain) >= 4 and value.startswith(plain)]
    close = begins if len(begins) == 1 else get_close_matches(plain, _BY_NAME, n=1, cutoff=0.7)
    if not close:
        return None
    repairs["operation"] += 1
    return _BY_NAME[close[0]]


def _concepts(
    raw: RawStep, of_word: Mapping[str, str], repairs: Counter[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Concepts and implied concepts of a step, each named once."""
    lemmas = set(of_word.values())
    named: dict[str, None] = {}
    implied: dict[str, None] = {}

    def take(word: str, meant: bool) -> None:
        plain = word.strip().lower()
        target = named
        if plain not in lemmas and plain in of_word:
            plain = of_word[plain]
            repairs["lemma"] += not meant
        elif plain not in lemmas:
            pieces = _lower_words(plain)
            if len(pieces) > 1:
                repairs["split"] += 1
                for piece in pieces:
                    take(piece, meant)
                return
            target = implied
            if not _IMPLIED.fullmatch(plain) or (plain not in implied and len(implied) == MAX_IMPLIED):
                repairs["dropped concept"] += 1
                return
        repairs["implied"] += meant is (target is named)
        repairs["duplicate"] += plain in target
        target[plain] = None

    for word in raw.concepts:
        take(word, meant=False)
    for word in raw.implied:
        take(word, meant=True)
    return tuple(named), tuple(implied)


def _lower_words(text: str) -> list[str]:
    return [w.lower() for w in _WORD.findall(text)]


def _is_concept(word: str) -> bool:
    """Whether ``check_sequence`` takes it for one: a single word, its own lower case."""
    return len(word.split()) == 1 and word == word.lower() and len(word) <= _LONGEST_CONCEPT
