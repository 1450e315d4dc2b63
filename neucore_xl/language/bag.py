"""The distinct words of a sentence as numbers: what a model reads that asks which words were said."""

from __future__ import annotations

from functools import lru_cache

import xxhash

from neucore_xl.language.sequence import words

NO_WORD = 0  # the number of no word: what rows of a batch are filled up with


@lru_cache(maxsize=1 << 16)
def word_keys(text: str) -> tuple[int, ...]:
    """Distinct lower-case words of ``text``, in order, each as 62 bits of its XXH3 hash plus 1 (never ``NO_WORD``).

    The number depends on the word alone, so that no table of words has to travel with a model.
    """
    return tuple(dict.fromkeys((xxhash.xxh3_64_intdigest(word.encode()) >> 2) + 1 for word in words(text)))
