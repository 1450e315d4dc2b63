"""Which of the nine operations a clause asks for: rules over lemmas, parts of speech and dependencies.

The rules are tried in the order of ``classify``; the first that holds decides. They follow the examples of CIRR's
Table 1 (Liu et al., 2021) and were tuned by reading real CIRR and Fashion-IQ sentences (see docs/language.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from neucore_xl.language import cues
from neucore_xl.language.concepts import lemma_of
from neucore_xl.language.sequence import Operation

if TYPE_CHECKING:
    from spacy.tokens import Token


def classify(tokens: Sequence[Token]) -> Operation:
    """The operation of a clause given as its spaCy tokens, separators left out; ``DIRECT`` when no rule holds."""
    clause = _Clause(tokens)
    for operation, rule in _RULES:
        if rule(clause):
            return operation
    return Operation.DIRECT


class _Clause:
    """A clause with what the rules ask of it."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self.tokens = tokens
        self.lemmas = [lemma_of(t) for t in tokens]
        self.lower = [t.lower_ for t in tokens]
        self.words = frozenset(self.lemmas) | frozenset(self.lower)
        self.text = " ".join(self.lower)
        lead = leading_verb(tokens)
        self.verb = lemma_of(tokens[lead]) if lead is not None else ""

    def has(self, cue: frozenset[str]) -> bool:
        return not self.words.isdisjoint(cue)

    def says(self, *phrases: str) -> bool:
        padded = f" {self.text} "
        return any(f" {p} " in padded for p in phrases)


_POLITE = frozenset(
    "please then also just now next finally instead simply and but so it you i to they we".split()  # noqa: SIM905
)


def leading_verb(tokens: Sequence[Token]) -> int | None:
    """Index of the verb a clause starts with, adverbs and politeness aside; None when it starts otherwise."""
    for i, token in enumerate(tokens[:5]):
        if token.tag_ in {"VB", "VBP", "VBZ", "VBD", "MD"} and token.pos_ in {"VERB", "AUX"}:
            return i
        if lemma_of(token) in cues.EDIT_VERBS or token.lower_ in cues.EDIT_VERBS:
            return i
        if token.lower_ not in _POLITE and token.pos_ not in {"PART", "INTJ"}:
            return None
    return None


def _keep(c: _Clause) -> bool:
    if not c.has(cues.KEEP) or c.has(cues.CONTRAST) or c.has(cues.CHANGE):
        return False
    if c.verb in {"leave", "keep", "retain", "maintain", "preserve", "stay", "remain"}:
        return not c.says("leave only", "keep only") and not c.has(cues.NEGATORS)
    return c.has(frozenset({"same", "unchanged", "still", "identical", "intact", "keep", "keeping", "remain", "stay"}))


def _viewpoint(c: _Clause) -> bool:
    if c.verb in cues.REMOVE | {"add"}:
        return False
    if c.has(cues.VIEWPOINT - {"position", "shot", "profile", "frame", "face", "view"}):
        return True
    if any(t.lemma_ == "face" and t.pos_ == "VERB" for t in c.tokens):
        return True
    return c.has(frozenset({"shot", "view"})) or c.says(
        *(p.replace("-", " - ") for p in cues.VIEWPOINT_PHRASES), *cues.VIEWPOINT_PHRASES
    )


def _negation(c: _Clause) -> bool:
    if c.verb in cues.REMOVE or c.says("get rid", "take out", "take away", "take off", "got rid"):
        return True
    if c.says("not as", "no longer", "not so"):
        return False
    if c.has(cues.CHANGE) and c.verb not in {"do"}:
        return False
    return c.has(cues.NEGATORS) or c.has(frozenset({"excluding", "remove", "removed", "lack"}))


def _background(c: _Clause) -> bool:
    return c.has(frozenset({"background", "backdrop", "foreground", "scenery", "surroundings"}))


def _change(c: _Clause) -> bool:
    if c.verb in cues.CHANGE_VERBS or c.has(cues.CHANGE - {"rather", "dye", "trade"}) or c.says("rather than"):
        return True
    if c.has(frozenset({"same"})) and c.has(cues.CONTRAST):
        return True
    return c.verb in {"make", "have", "turn"} and c.says("into")


def _addition(c: _Clause) -> bool:
    return c.verb in {"add", "include", "insert", "attach", "introduce", "append"} or c.has(
        frozenset({"add", "addition", "additional", "extra", "include", "including", "insert"})
    )


def _cardinality(c: _Clause) -> bool:
    if any(t.like_num and t.pos_ == "NUM" and t.dep_ != "compound" for t in c.tokens):
        return True
    return c.has(cues.QUANTITY - {"only", "pair", "both", "alone", "various", "number", "amount"}) or c.says(
        "only one", "number of", "a pair of", "the number", "just one", "one more"
    )


def _comparative(c: _Clause) -> bool:
    if any(t.tag_ in {"JJR", "RBR"} for t in c.tokens):
        return True
    return c.has(cues.COMPARATIVE) or c.says("not as", "not so", "a bit", "a little", "slightly")


def _spatial(c: _Clause) -> bool:
    if c.verb in cues.LOCATION_VERBS and c.verb not in {"set", "bring"}:
        return True
    if c.tokens[0].pos_ in {"ADP", "SCONJ"} and c.lower[0] in cues.LOCATION:
        return True
    return c.has(cues.BACKGROUND) and c.has(
        frozenset(
            {"background", "in", "on", "at", "against", "outside", "outdoors", "indoors", "floor", "ground", "sky"}
        )
    )


_RULES = (
    (Operation.NEGATION, lambda c: c.verb in cues.REMOVE),
    (Operation.KEEP, _keep),
    (Operation.SPATIAL, _background),
    (Operation.VIEWPOINT, _viewpoint),
    (Operation.NEGATION, _negation),
    (Operation.CHANGE, _change),
    (Operation.ADDITION, _addition),
    (Operation.CARDINALITY, _cardinality),
    (Operation.COMPARATIVE, _comparative),
    (Operation.SPATIAL, _spatial),
)
