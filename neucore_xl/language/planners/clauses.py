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
from neucore_xl.language.cache import cached_values
from neucore_xl.language.concepts import concepts_of, lemma_of
from neucore_xl.language.planners import cues
from neucore_xl.language.planners.operations import classify, is_frame, leading_verb
from neucore_xl.language.sequence import FusionSequence, Operation, Step, clip_steps
from neucore_xl.language.spacy_pipeline import documents, load_pipeline, pipeline_identity

if TYPE_CHECKING:
    from spacy.tokens import Doc, Token

VERSION = 2  # part of the cache key: raise it when a rule changes

_STRONG = frozenset("; . ! ? … then but except".split())  # noqa: SIM905
_WEAK = frozenset(", : & and + while yet – —".split())  # noqa: SIM905
_INTRODUCES = frozenset("with without while excluding minus".split())  # noqa: SIM905  # they belong to the piece
# A piece without a verb of its own starts a step for these alone where its sentence has a verb that it goes on.
_VERBLESS = frozenset({
    Operation.NEGATION, Operation.COMPARATIVE, Operation.VIEWPOINT, Operation.KEEP, Operation.CHANGE, Operation.SPATIAL,
    Operation.ADDITION,
})  # fmt: skip
# Verbs whose objects all share their operation: "remove the chair and the background" is one step.
_GOVERNING = (cues.REMOVE | cues.ADD | cues.CHANGE | cues.KEEP | cues.PLACE | cues.MOVE) - {"become"}


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
        before: Sequence[Token] = ()
        for tokens in split_clauses(doc):
            begin, end = tokens[0].idx, tokens[-1].idx + len(tokens[-1])
            concepts = concepts_of(tokens, self.language.parts_of_speech)
            steps.append(Step(classify(tokens, before), concepts, text[begin:end]))
            before = tokens
        if not steps and text.strip():  # nothing but separators
            steps.append(Step(Operation.DIRECT, concepts_of(doc, self.language.parts_of_speech), text.strip()))
        return tuple(steps)


def split_clauses(doc: Doc) -> list[list[Token]]:
    """The tokens of each clause, in order: contiguous, without separators at either end, never empty."""
    tokens = [t for t in doc if not t.is_space]
    clauses: list[tuple[int, int]] = []  # [begin, end) in tokens
    for begin, end, separator in _pieces(tokens):
        piece = tokens[begin:end]
        if not clauses or _starts_clause(tokens[slice(*clauses[-1])], piece, separator):
            clauses.append((begin, end))
        else:
            clauses[-1] = (clauses[-1][0], end)
    return [tokens[b:e] for b, e in clauses]


def _pieces(tokens: Sequence[Token]) -> list[tuple[int, int, str]]:
    """Runs of tokens between separators, with the strongest separator that stands before each."""
    pieces: list[tuple[int, int, str]] = []
    begin, separator = 0, ";"

    def close(end: int) -> None:
        nonlocal separator
        if any(t.is_alpha or t.like_num for t in tokens[begin:end]):
            pieces.append((begin, end, separator))
            separator = ""

    for i, token in enumerate(tokens):
        word = token.lower_
        if _opens_piece(tokens, i, begin):
            close(i)
            begin = i
            separator = separator or word
        elif _separates(tokens, i):
            close(i)
            begin = i + 1
            separator = word if word in _STRONG or separator not in _STRONG else separator
    close(len(tokens))
    return pieces


def _separates(tokens: Sequence[Token], i: int) -> bool:
    word = tokens[i].lower_
    if word in {"but", "except"}:  # "all but one" takes away, "nothing but grass" is only grass
        return not (i and tokens[i - 1].lower_ in {"all", "everything", "nothing", "none", "anything"})
    if word == "then":
        return not (i and tokens[i - 1].lower_ in {"more", "less", "other", "rather"})  # meant as "than"
    if word in {"-", "–", "—"}:
        return bool(i) and bool(tokens[i - 1].whitespace_ or (i + 1 < len(tokens) and tokens[i].whitespace_))
    return word in _STRONG or word in _WEAK


def _opens_piece(tokens: Sequence[Token], i: int, begin: int) -> bool:
    """Whether a piece begins at a word that belongs to it: "with", "no" behind a noun, "facing" behind a noun."""
    token, word = tokens[i], tokens[i].lower_
    if i == begin or i + 1 == len(tokens):
        return False
    before = tokens[i - 1]
    if word in {"with", "without"}:
        if before.lower_ in {"along", "together", "comes", "come"} or lemma_of(before) == "be" or _governed(token):
            return False
        if before.lower_ == "one" or all(t.pos_ not in {"NOUN", "PROPN", "ADJ", "PRON"} for t in tokens[begin:i]):
            return False
        if _contrasts(tokens, begin, i):
            return False
        return word == "with" or not _bare_noun(tokens[begin:i])
    if word in _INTRODUCES:
        return word != "while" or tokens[i + 1].tag_ == "VBG"
    behind_noun = before.pos_ in {"NOUN", "PROPN"} or before.lower_ in {"one", "ones"}
    if word in {"no", "not"}:
        return behind_noun and tokens[i + 1].pos_ in {"DET", "NUM", "ADJ", "NOUN", "PROPN"}
    return word == "facing" and behind_noun and tokens[begin].lower_ not in {"make", "have", "keep", "turn"}


def _contrasts(tokens: Sequence[Token], begin: int, i: int) -> bool:
    """Whether "instead of", "rather than" or "in place of" stands in the run of words around token ``i``."""
    end = next((j for j in range(i, len(tokens)) if _separates(tokens, j)), len(tokens))
    run = [t.lower_ for t in tokens[begin:end]]
    return any(
        w in cues.CONTRASTED and k + 1 < len(run) and (w != "place" or run[k - 1] == "in") for k, w in enumerate(run)
    )


def _bare_noun(tokens: Sequence[Token]) -> bool:
    """ "a block", "hoops": so little before "without" is no step of its own."""
    content = [t for t in tokens if t.pos_ != "DET"]
    return len(content) == 1 and content[0].pos_ in {"NOUN", "PROPN"}


def _governed(preposition: Token) -> bool:
    """ "replace X with Y", "filled with X": the phrase completes its verb."""
    head = preposition.head
    return lemma_of(head) in cues.CHANGE or (head.tag_ == "VBN" and head.i == preposition.i - 1)


def _starts_clause(before: Sequence[Token], piece: Sequence[Token], separator: str) -> bool:
    """Whether ``piece`` is an edit of its own after the clause ``before``."""
    if separator == "but" and _completes_same(before, piece):
        return False
    if separator in _STRONG:
        return True
    if piece[0].lower_ == "with" and is_frame(before):
        return False
    if lemma_of(piece[0]) in cues.COLOURS and lemma_of(before[-1]) in cues.COLOURS:
        return False  # "brown and white animals"
    if _has_predicate(piece):
        return True
    lead = leading_verb(before)
    verb = lemma_of(before[lead]) if lead is not None else ""
    lone = _lone_adjective(piece)
    if lone is not None and (verb in {"make", "be", "turn"} or any(lemma_of(t) == "be" for t in before)):
        return True
    operation, other = classify(piece), classify(before)
    if verb in _GOVERNING:
        splits = operation in _VERBLESS and operation is not other
        return splits and not (separator in {"and", "&"} and _is_noun_phrase(piece))
    determined = piece[0].pos_ in {"DET", "NUM"}
    if operation is other:  # "a bigger dog and a smaller cat" are two, "shorter and tighter" one
        return determined and operation in _VERBLESS - {Operation.NEGATION, Operation.ADDITION}
    if operation in _VERBLESS or operation is Operation.CARDINALITY:
        return True
    return other is not Operation.DIRECT and (determined or separator == "," or piece[0].lower_ == "with")


def _completes_same(before: Sequence[Token], piece: Sequence[Token]) -> bool:
    """ "the same cup but blue": the adjective says how the same thing differs."""
    return any(t.lower_ in {"same", "similar"} for t in before) and all(
        t.pos_ in {"ADJ", "ADV"} or t.tag_ in {"VBN", "VBD"} or lemma_of(t) in cues.COLOURS for t in piece
    )


def _lone_adjective(piece: Sequence[Token]) -> Token | None:
    content = [t for t in piece if t.pos_ != "ADV"]
    if len(content) != 1:
        return None
    (word,) = content
    return word if word.pos_ == "ADJ" or word.tag_ in {"VBN", "VBD"} or lemma_of(word) in cues.COLOURS else None


def _is_noun_phrase(piece: Sequence[Token]) -> bool:
    return piece[0].pos_ in {"DET", "ADJ", "NOUN", "PROPN", "NUM", "PRON"} and piece[0].lower_ not in {"no", "neither"}


def _has_predicate(piece: Sequence[Token]) -> bool:
    """A leading verb that is not part of a relative clause, or a subject with its verb."""
    lead = leading_verb(piece)
    if lead is not None:
        verb = piece[lead]
        # A single word that the tagger takes for a verb ("and leash") is a noun more often than an order.
        return lemma_of(verb) in cues.EDIT or (len(piece) > 1 and not _in_relative_clause(verb))
    return any(
        t.tag_ in {"VBZ", "VBP", "VBD", "MD"}
        and t.pos_ in {"VERB", "AUX"}
        and not _in_relative_clause(t)
        and any(s.pos_ in {"NOUN", "PROPN", "PRON", "NUM"} for s in piece[:i])
        and not any(s.tag_ in {"WDT", "WP", "WRB"} for s in piece[:i])
        for i, t in enumerate(piece)
    )


def _in_relative_clause(token: Token) -> bool:
    return any(t.dep_ in {"relcl", "acl", "advcl"} for t in (token, *token.ancestors))
