"""The words of the generated sentences: content words with their lemmas, and the words that carry no content."""

from __future__ import annotations

import re


def _words(text: str) -> list[str]:
    return text.split()


_NOUNS = _words(
    """
    circle disc square block triangle star ring hoop heart shape colour stripe dot check number kind side corner edge
    background backdrop picture view image camera shot scene place sign position size pattern angle target
    """
)
# Inflected forms that are not the plain plural; words that are their own lemma follow below.
_FORMS = {
    "turned": "turn", "changed": "change", "replaced": "replace", "added": "add", "gone": "go", "moved": "move",
    "appeared": "appear", "disappeared": "disappear", "has": "have", "tilted": "tilt", "zoomed": "zoom",
    "seen": "see", "mirrored": "mirror", "flipped": "flip", "swapped": "swap", "stays": "stay", "remaining": "remain",
    "bigger": "big", "larger": "large", "smaller": "small", "darker": "dark", "lighter": "light", "closer": "close",
    "further": "far", "wider": "wide", "brighter": "bright", "higher": "high", "lower": "low", "fewer": "few",
    "crosses": "cross",
}  # fmt: skip
_PLAIN = _words(
    """
    make turn change paint give remove take replace swap become add increase leave reduce move put insert get rid show
    use have straighten tilt zoom mirror flip double halve let keep stay enlarge shrink
    cross red orange yellow green blue purple white black plain striped dotted checked small little medium large big
    grey beige pink brown turquoise navy shaded tiled same other only more now also instead top bottom left right
    centre middle opposite up down away back long level straight distant horizontally unchanged then else before
    extra rest longer
    """
)
CONTENT: dict[str, str] = {n: n for n in _NOUNS} | {f"{n}s": n for n in _NOUNS} | {w: w for w in _PLAIN} | _FORMS
FUNCTION = frozenset(
    _words(
        """
        a an the it its them they their there of to from in on at off for into out way with without by but and as is
        are be been should no not all one ones two three four everything nothing than except
        """
    )
)
_WORD = re.compile(r"[a-z]+")


def lemmas(phrase: str) -> tuple[str, ...]:
    """The distinct lemmas of the phrase's content words, in order of appearance."""
    return tuple(dict.fromkeys(CONTENT[w] for w in _WORD.findall(phrase.lower()) if w in CONTENT))


def unknown(phrase: str) -> tuple[str, ...]:
    """The words of the phrase that are neither content nor function words: a gap of the lexicon."""
    return tuple(w for w in _WORD.findall(phrase.lower()) if w not in CONTENT and w not in FUNCTION)
