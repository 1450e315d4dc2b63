"""The fusion sequence: its vocabulary of operations and its schema.

The operations are the semantic aspects of CIRR's Table 1 (Liu et al., 2021), less "statement with conjunction"
(a conjunction is what a sequence splits), plus ``keep`` for what is to stay the same.
"""

from __future__ import annotations

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
    """One edit: the operation, the concepts (lemmas) it names, and the words of the sentence that say it."""

    operation: Operation
    concepts: tuple[str, ...]
    phrase: str


@dataclass(frozen=True)
class FusionSequence:
    """The planned edits of one sentence, in order of application; at least one step for a non-blank sentence."""

    text: str
    steps: tuple[Step, ...]
