"""The vocabulary M of training concepts, its multi-hot labels, and what of another split it has never seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neucore_xl.jsonfile import BadContent, read_json, text_list
from neucore_xl.language.cache import content_fingerprint

_FORMAT = "neucore-xl/vocabulary"


class Vocabulary:
    """C concepts, ordered by the number of training sentences that name them (most first), then by name."""

    def __init__(self, names: Sequence[str], counts: Sequence[int] | None = None) -> None:
        """``counts``: sentences per name, where known. Raises ``ValueError`` for repeated names."""
        if len(set(names)) != len(names):
            raise ValueError("a vocabulary holds every concept once")
        self.names: tuple[str, ...] = tuple(names)
        self.counts: tuple[int, ...] = tuple(counts) if counts is not None else (0,) * len(self.names)
        if len(self.counts) != len(self.names):
            raise ValueError(f"{len(self.names)} concepts but {len(self.counts)} counts")

    @classmethod
    def build(cls, concepts_per_sentence: Iterable[Sequence[str]], min_count: int = 1) -> Vocabulary:
        """Concepts that at least ``min_count`` sentences name; a sentence counts once per concept."""
        counts: Counter[str] = Counter()
        for concepts in concepts_per_sentence:
            counts.update(set(concepts))
        kept = sorted(((n, c) for n, c in counts.items() if c >= min_count), key=lambda item: (-item[1], item[0]))
        return cls([n for n, _ in kept], [c for _, c in kept])

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self.index

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.names == other.names

    def __hash__(self) -> int:
        return hash(self.names)

    def __repr__(self) -> str:
        return f"Vocabulary({len(self)} concepts, {', '.join(self.names[:5])}{', …' if len(self) > 5 else ''})"

    @cached_property
    def index(self) -> dict[str, int]:
        """Column of each name."""
        return {name: i for i, name in enumerate(self.names)}

    def labels(self, concepts: Sequence[Sequence[str]]) -> NDArray[np.float32]:
        """Multi-hot labels y ``[B, C]`` in {0, 1} (equation 6); concepts outside the vocabulary are left out."""
        y = np.zeros((len(concepts), len(self)), dtype=np.float32)
        for row, names in enumerate(concepts):
            for name in names:
                column = self.index.get(name)
                if column is not None:
                    y[row, column] = 1.0
        return y

    def unseen(self, concepts: Iterable[Sequence[str]]) -> tuple[str, ...]:
        """Zero-shot concepts: distinct names outside the vocabulary, in order of first appearance."""
        return tuple(dict.fromkeys(name for names in concepts for name in names if name not in self.index))

    def fingerprint(self) -> str:
        """Digest of the names in order: columns of two vocabularies agree exactly when it does."""
        return content_fingerprint(_FORMAT, list(self.names))

    def to_json(self) -> dict[str, Any]:
        """A JSON object that ``from_json`` takes; the fingerprint guards it against editing by hand."""
        return {
            "format": _FORMAT,
            "version": 1,
            "fingerprint": self.fingerprint(),
            "names": list(self.names),
            "counts": list(self.counts),
        }

    @classmethod
    def from_json(cls, data: Any, *, source: str = "vocabulary") -> Vocabulary:
        """The vocabulary of ``to_json``; raises ``UserError`` naming ``source`` when it is not one or was altered."""
        if not isinstance(data, dict) or data.get("format") != _FORMAT or not isinstance(data.get("names"), list):
            raise BadContent(f"{source} is not a vocabulary of a run: expected an object with format {_FORMAT!r}")
        names, counts = text_list(data["names"], f"{source}: `names`"), data.get("counts")
        if counts is not None and not (isinstance(counts, list) and all(type(c) is int and c >= 0 for c in counts)):
            raise BadContent(f"{source}: `counts` must be a list of whole numbers, not {str(counts)[:80]}.")
        try:
            vocabulary = cls(names, counts)
        except ValueError as error:
            raise BadContent(f"{source} is damaged ({error}): take the file that the run wrote") from error
        if data.get("fingerprint") != vocabulary.fingerprint():
            raise BadContent(f"{source} was altered (its fingerprint differs): take the file that the run wrote")
        return vocabulary

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """Read the JSON file; raises ``UserError`` naming it where it cannot be read or is no vocabulary."""
        return cls.from_json(read_json(path, dict, missing="take the file that the run wrote"), source=str(path))
