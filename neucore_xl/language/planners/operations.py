"""Which of the nine operations a clause asks for: rules over lemmas, parts of speech and dependencies.

The rules are tried in the order of ``_RULES``; the first that holds decides, and ``DIRECT`` is what remains. They
follow the examples of CIRR's Table 1 (Liu et al., 2021), where a sentence may count under several aspects: here a
clause has one, the most specific. The order and its reasons are in docs/language.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from neucore_xl.language.concepts import lemma_of
from neucore_xl.language.planners import cues
from neucore_xl.language.sequence import Operation

if TYPE_CHECKING:
    from spacy.tokens import Token


def classify(tokens: Sequence[Token], before: Sequence[Token] = ()) -> Operation:
    """The operation of a clause given as its spaCy tokens, separators left out; ``DIRECT`` when no rule holds.

    ``before`` is the clause in front of it: "striped" alone changes something after "make it bigger and".
    """
    clause = ParsedClause(behind_frame(tokens))
    if before and len(tokens) == 1 and tokens[0].tag_ != "JJR" and ParsedClause(before).lead in {"make", "turn"}:
        return Operation.CHANGE
    for operation, rule in _RULES:
        if rule(clause):
            return operation
    return Operation.DIRECT


def behind_frame(tokens: Sequence[Token]) -> Sequence[Token]:
    """What follows "the same picture with", which says nothing by itself; else all the tokens."""
    for i, token in enumerate(tokens[:7]):
        if token.lower_ == "with" and is_frame(tokens[:i]) and i + 1 < len(tokens):
            return tokens[i + 1 :]
    return tokens


def is_frame(tokens: Sequence[Token]) -> bool:
    """Whether the tokens name nothing but the picture: "the same picture", "show the scene"."""
    content = [t for t in tokens if t.pos_ in {"NOUN", "PROPN", "VERB"} and lemma_of(t) not in cues.SHOW]
    return bool(content) and all(lemma_of(t) in cues.FRAMES for t in content)


class ParsedClause:
    """A clause with what the rules ask of it: lemmas, lower-case text, its leading verb and that verb's object."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self.tokens = tokens
        self.text = " ".join(t.lower_ for t in tokens)
        self.lemmas = frozenset(lemma_of(t) for t in tokens)
        self.verbs = frozenset(lemma_of(t) for t in tokens if t.pos_ in {"VERB", "AUX"} and t.dep_ != "amod")
        lead = leading_verb(tokens)
        self.lead = lemma_of(tokens[lead]) if lead is not None else ""
        self.object = tokens[lead + 1 :] if lead is not None else ()

    @property
    def predicate(self) -> str:
        """The text from the finite verb on: where the subject is ("the dog on the left is …") is not what is asked."""
        for i, token in enumerate(self.tokens):
            if i and token.tag_ in {"VBZ", "VBP", "VBD", "MD"} and token.pos_ in {"VERB", "AUX"}:
                return " ".join(t.lower_ for t in self.tokens[i:])
        return self.text

    @property
    def definite_object(self) -> bool:
        """Whether the leading verb acts on what is already there: "the cup", "it", "its lid", "everything"."""
        if not self.object:
            return False
        first = self.object[0]
        return first.pos_ == "PRON" or first.lower_ in {"the", "this", "that", "these", "those", "all", "everything"}


def leading_verb(tokens: Sequence[Token]) -> int | None:
    """Index of the verb a clause starts with, adverbs, politeness and "the target image" aside; None without one."""
    start = 0
    for i, token in enumerate(tokens[:4]):
        if token.lower_ in {"target", *cues.FRAMES} and i <= 2:
            start = i + 1
        elif token.lower_ not in {"the", "a", "this"}:
            break
    for i, token in enumerate(tokens[start : start + 5], start):
        finite = token.tag_ in {"VB", "VBP", "VBZ", "VBD", "MD"} and token.pos_ in {"VERB", "AUX"}
        # Small pipelines take bare imperatives for nouns: at the front, the word itself is the better witness.
        imperative = lemma_of(token) in cues.EDIT and token.tag_ not in {"NNS", "VBG", "JJ", "JJR", "IN"}
        if (finite or imperative) and not (lemma_of(token) in cues.NOUNS_TOO and _is_modifier(token)):
            return i
        if token.lower_ not in cues.POLITE and token.pos_ not in {"PART", "INTJ"}:
            return None
    return None


def _is_modifier(token: Token) -> bool:
    """ "mirror image", "place mat": the first noun of a compound is no verb."""
    return token.dep_ == "compound" and token.head.i > token.i and token.head.pos_ == "NOUN"


def _remove(c: ParsedClause) -> bool:
    return c.lead in cues.REMOVE and not cues.COUNT_CHANGE.search(c.text)


def _count_change(c: ParsedClause) -> bool:
    if c.lead in cues.KEEP and "only" not in c.lemmas and "number" in c.lemmas:
        return False  # "keep the number of dogs"
    return bool(cues.COUNT_CHANGE.search(c.text)) and not c.text.endswith(("the same", "unchanged"))


def _keep(c: ParsedClause) -> bool:
    if c.lead in {"change", "alter", "modify"}:
        return "nothing else" in c.text
    if cues.COMPARED.search(c.text) or " but " in f" {c.text} " or _camera(c):
        return False
    if c.lead in cues.KEEP or not c.verbs.isdisjoint({"keep", "remain", "stay", "retain"}):
        return True
    if c.text.endswith("the same") or c.text.startswith(("the same", "same")) or _leads_with_same(c):
        return True
    return bool(cues.KEPT.search(c.text)) and "same" not in c.lemmas


def _same_but_more(c: ParsedClause) -> bool:
    return _same_but(c) and any(t.tag_ in {"JJR", "RBR"} for t in c.tokens)


def _same_but(c: ParsedClause) -> bool:
    """ "the same cup but blue": the planner leaves such a clause whole."""
    return " but " in c.text and not c.lemmas.isdisjoint({"same", "similar"})


def _leads_with_same(c: ParsedClause) -> bool:
    """ "show the same dog", "be the same furniture": what is shown is what was there, and nothing more is said."""
    rest = [t for t in c.object if t.pos_ != "DET"]
    return c.lead in cues.SHOW and bool(rest) and rest[0].lower_ == "same" and all(t.pos_ != "VERB" for t in rest)


def _camera(c: ParsedClause) -> bool:
    """The frame itself is changed: "the same scene mirrored"."""
    return not c.lemmas.isdisjoint({"mirror", "mirrored", "flip", "rotate", "zoom", "tilt", "zoomed"})


def _backdrop(c: ParsedClause) -> bool:
    if c.lemmas.isdisjoint(cues.BACKDROP):
        return c.lead in cues.CHANGE | {"make"} and not _object_nouns(c).isdisjoint(cues.SCENERY)
    if c.text.startswith(("no ", "without ", "not ")):
        return False
    # "a darker background" compares; "a darker dog in the background" is about the background
    nouns = {lemma_of(t) for t in c.tokens if t.pos_ in {"NOUN", "PROPN"}} - {"target"} - cues.FRAMES
    return not (any(t.tag_ in {"JJR", "RBR"} for t in c.tokens) and nouns <= cues.BACKDROP)


def _shifted(c: ParsedClause) -> bool:
    return bool(cues.SHIFTED.search(c.text))


def _object_nouns(c: ParsedClause) -> frozenset[str]:
    """Lemma of the noun that the leading verb acts on: the last of the first run of determiners, adjectives, nouns."""
    noun = ""
    for token in c.object:
        if token.pos_ not in {"DET", "ADJ", "NOUN", "PROPN", "NUM"} or (noun and token.pos_ == "ADJ"):
            break
        noun = lemma_of(token) if token.pos_ in {"NOUN", "PROPN"} else noun
    return frozenset({noun})


def _gone(c: ParsedClause) -> bool:
    return bool(cues.GONE.search(c.text)) and "tilted" not in c.lemmas


def _viewpoint(c: ParsedClause) -> bool:
    if c.lead in cues.ADD:
        return False
    if c.lead in cues.CAMERA - {"level", "crop"}:
        return True
    return bool(cues.VIEW.search(c.text)) or any(lemma_of(t) == "face" and t.pos_ == "VERB" for t in c.tokens)


def _change(c: ParsedClause) -> bool:
    if c.lead in cues.CHANGE or not c.verbs.isdisjoint(cues.CHANGE - {"turn", "paint", "dye"}):
        return True
    if c.lead in {"make", "turn", "take"} and " into " in c.text:
        return True
    return bool(cues.COMPARED.search(c.text))


def _negated(c: ParsedClause) -> bool:
    return bool(cues.NEGATED.search(c.text)) and not any(p in c.text for p in ("not as ", "not so "))


def _addition(c: ParsedClause) -> bool:
    if c.lead in cues.ADD or (c.lead in cues.PLACE and bool(c.object) and not c.definite_object):
        return True
    return bool(cues.ADDED.search(c.text))


def _cardinality(c: ParsedClause) -> bool:
    return any(_counts(c.tokens, i) for i in range(len(c.tokens))) or bool(cues.COUNT_WORDS.search(c.text))


def _counts(tokens: Sequence[Token], i: int) -> bool:
    """Whether a token tells how many: not "the two dogs", "the other one", "one shoulder dress", "3 / 4 sleeves"."""
    token = tokens[i]
    if token.pos_ != "NUM" or not token.like_num or not (token.is_alpha or token.is_digit):
        return False
    before = tokens[i - 1].lower_ if i else ""
    after = tokens[i + 1].lower_ if i + 1 < len(tokens) else ""
    if before in {"the", "other", "this", "that", "these", "those", "-", "/"} or after in {"-", "/", "%", "shoulder"}:
        return False
    if token.lower_ == "one" and i and (tokens[i - 1].pos_ == "ADJ" or tokens[i - 1].dep_ == "amod"):
        return False
    return not (token.dep_ == "nummod" and token.head.dep_ in {"compound", "amod", "nmod"})


def _comparative(c: ParsedClause) -> bool:
    if any(t.tag_ in {"JJR", "RBR"} for t in c.tokens) or c.lead in cues.SCALE:
        return True
    return bool(cues.SCALED.search(c.text))


def _make(c: ParsedClause) -> bool:
    """ "make the cup blue", "give it stripes": an order to change what is there."""
    return c.lead in {"make", "give"} and c.definite_object


def _spatial(c: ParsedClause) -> bool:
    if c.lead in cues.MOVE | cues.PLACE or not c.verbs.isdisjoint({"move", "shift", "relocate"}):
        return True
    if c.tokens[0].lower_ in cues.PREPOSITIONS and c.tokens[0].pos_ in {"ADP", "SCONJ", "ADV"}:
        return True
    if any(lemma_of(t) in cues.STANCE and _has_place(t) for t in c.tokens if t.pos_ in {"VERB", "AUX"}):
        return True
    if any(lemma_of(t) == "be" and _has_place(t) for t in c.tokens):
        return True
    return bool(cues.WHERE.search(c.predicate))


def _has_place(verb: Token) -> bool:
    return any(child.dep_ in {"prep", "prt"} and child.lower_ in cues.PREPOSITIONS for child in verb.children)


_RULES: tuple[tuple[Operation, Callable[[ParsedClause], bool]], ...] = (
    (Operation.COMPARATIVE, _same_but_more),
    (Operation.CHANGE, _same_but),
    (Operation.NEGATION, _remove),
    (Operation.CARDINALITY, _count_change),
    (Operation.KEEP, _keep),
    (Operation.SPATIAL, _backdrop),
    (Operation.SPATIAL, _shifted),
    (Operation.VIEWPOINT, _viewpoint),
    (Operation.NEGATION, _gone),
    (Operation.CHANGE, _change),
    (Operation.NEGATION, _negated),
    (Operation.ADDITION, _addition),
    (Operation.CARDINALITY, _cardinality),
    (Operation.COMPARATIVE, _comparative),
    (Operation.CHANGE, _make),
    (Operation.SPATIAL, _spatial),
)
