"""The fusion sequence: its vocabulary of operations and its schema.

The operations are the semantic aspects of CIRR's Table 1 (Liu et al., 2021), less "statement with conjunction"
(a conjunction is what a sequence splits), plus ``keep`` for what is to stay the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum


class Operation(str, Enum):
    """What one edit does to the reference image."""

    CARDINALITY = "cardinality"
    ADDITION = "addition"
    NEGATION = "negation"
    DIRECT = "direct_addressing"
    CHANGE = "compare_change"
    COMPARATIVE = "comparative"
    SPATIAL = "spatial_background"
    VIEWPOINT = "viewpoint"
    KEEP = "keep"


OPERATIONS: tuple[Operation, ...] = tuple(Operation)  # the order is the index that models embed: append only
OPERATION_INDEX: dict[Operation, int] = {op: i for i, op in enumerate(OPERATIONS)}


@dataclass(frozen=True)
class Step:
    """One edit: the operation, the concepts (lemmas) it names, and the words of the sentence that say it.

    ``implied`` are concepts that the edit is about though the sentence has no word for them.
    """

    operation: Operation
    concepts: tuple[str, ...]
    phrase: str
    implied: tuple[str, ...] = ()


@dataclass(frozen=True)
class FusionSequence:
    """The planned edits of one sentence, in order of application; at least one step for a non-blank sentence."""

    text: str
    steps: tuple[Step, ...]


_WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """Lower-case runs of letters and digits: what a phrase and its sentence are compared by."""
    return _WORD.findall(text.lower())


def is_traceable(phrase: str, text: str) -> bool:
    """Whether ``phrase`` is of ``text``: contained in it but for case and spacing, or its words in their order."""
    if " ".join(phrase.lower().split()) in " ".join(text.lower().split()):
        return True
    rest: Iterator[str] = iter(words(text))
    return all(word in rest for word in words(phrase))  # `in` consumes the iterator: order matters


def word_spans(phrases: Sequence[Sequence[str]], sentence: Sequence[str]) -> list[list[int]]:
    """Per phrase, the indices of its words in ``sentence``; phrases and sentence as given by ``words``.

    A phrase is looked for in one piece behind the phrase before it, then anywhere, then word by word in order;
    words that are not found are left out.
    """
    spans: list[list[int]] = []
    position = 0
    for phrase in phrases:
        begin = _find(phrase, sentence, position)
        if begin is None:
            begin = _find(phrase, sentence, 0)
        if begin is not None:
            spans.append(list(range(begin, begin + len(phrase))))
            position = begin + len(phrase)
        else:
            spans.append(_in_order(phrase, sentence))
    return spans


def _find(phrase: Sequence[str], sentence: Sequence[str], start: int) -> int | None:
    if not phrase:
        return None
    for begin in range(start, len(sentence) - len(phrase) + 1):
        if list(sentence[begin : begin + len(phrase)]) == list(phrase):
            return begin
    return None


def _in_order(phrase: Sequence[str], sentence: Sequence[str]) -> list[int]:
    found, position = [], 0
    for word in phrase:
        if word in sentence[position:]:
            position = sentence.index(word, position) + 1
            found.append(position - 1)
    return found


def check_sequence(sequence: FusionSequence, *, max_steps: int) -> list[str]:
    """What is wrong with a sequence, one sentence per problem; empty when it is sound.

    Sound: one to ``max_steps`` steps (none for a blank text), phrases that are not blank and can be traced to the
    text, concepts that are lower-case single words, named once per step.
    """
    problems: list[str] = []
    if sequence.text.strip() and not sequence.steps:
        problems.append("no step for a sentence that is not blank")
    if len(sequence.steps) > max_steps:
        problems.append(f"{len(sequence.steps)} steps, at most {max_steps} are taken")
    for number, step in enumerate(sequence.steps, start=1):
        if not isinstance(step.operation, Operation):
            problems.append(f"step {number}: unknown operation {step.operation!r}")
        if not step.phrase.strip():
            problems.append(f"step {number}: blank phrase")
        elif not is_traceable(step.phrase, sequence.text):
            problems.append(f"step {number}: the phrase {step.phrase[:60]!r} is not of the sentence")
        named = (*step.concepts, *step.implied)
        for concept in named:
            if not concept.strip() or concept != concept.lower() or len(concept.split()) != 1:
                problems.append(f"step {number}: the concept {concept[:60]!r} is not one lower-case lemma")
        if len(set(named)) != len(named):
            problems.append(f"step {number}: a concept is named twice")
    return problems


def clip_steps(sequence: FusionSequence, max_steps: int) -> FusionSequence:
    """The sequence with at most ``max_steps`` steps: later ones are merged into the last that fits.

    The merged step keeps that step's operation, unites the concepts in order, and its phrase runs on to the end
    of the last phrase where the text holds them in order; elsewhere the phrases are joined by commas.
    """
    if max_steps < 1:
        raise ValueError(f"max_steps must be at least 1, not {max_steps}")
    if len(sequence.steps) <= max_steps:
        return sequence
    kept, tail = sequence.steps[: max_steps - 1], sequence.steps[max_steps - 1 :]
    concepts = tuple(dict.fromkeys(c for step in tail for c in step.concepts))
    implied = tuple(dict.fromkeys(c for step in tail for c in step.implied if c not in concepts))
    merged = Step(tail[0].operation, concepts, _span(sequence, len(kept)), implied)
    return FusionSequence(sequence.text, (*kept, merged))


def _span(sequence: FusionSequence, first: int) -> str:
    """The words from step ``first`` to the last step."""
    begin, position = -1, 0
    for number, step in enumerate(sequence.steps):
        found = sequence.text.find(step.phrase, position)
        if found < 0:
            return ", ".join(s.phrase for s in sequence.steps[first:])
        if number == first:
            begin = found
        position = found + len(step.phrase)
    return sequence.text[begin:position]
