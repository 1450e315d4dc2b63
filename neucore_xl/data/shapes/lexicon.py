"""The words of the generated sentences: content words with their lemmas, and the words that carry no content."""

from __future__ import annotations

import re

_NOUNS = (
    "circle disc square block triangle star ring hoop heart shape colour stripe dot check number kind side corner edge "
    "background backdrop picture view image camera shot scene place addition sign position size pattern angle target rest"
)
_VERBS = {
    "make": "make", "turn": "turn", "turned": "turn", "change": "change", "changed": "change", "paint": "paint",
    "give": "give", "remove": "remove", "take": "take", "replace": "replace", "replaced": "replace", "swap": "swap",
    "become": "become", "add": "add", "added": "add", "increase": "increase", "leave": "leave", "reduce": "reduce",
    "gone": "go", "move": "move", "moved": "move", "put": "put", "insert": "insert", "appeared": "appear",
    "get": "get", "rid": "rid", "disappeared": "disappear", "show": "show", "shows": "show", "use": "use",
    "have": "have", "has": "have", "straighten": "straighten", "tilt": "tilt", "tilted": "tilt", "zoom": "zoom",
    "zoomed": "zoom", "seen": "see", "mirror": "mirror", "mirrored": "mirror", "flip": "flip", "flipped": "flip",
    "keep": "keep", "stay": "stay", "stays": "stay", "enlarge": "enlarge", "shrink": "shrink",
}  # fmt: skip
_OTHERS = {
    "bigger": "big", "larger": "large", "smaller": "small", "darker": "dark", "lighter": "light", "closer": "close",
    "further": "far", "wider": "wide", "fewer": "few", "crosses": "cross",
}  # fmt: skip
_PLAIN = (
    "cross red orange yellow green blue purple white black plain striped dotted checked small little medium large big "
    "grey beige pink brown turquoise navy shaded tiled same other only more now also instead top bottom left right "
    "centre middle opposite up down away back longer level straight distant horizontally unchanged then else before"
)
CONTENT: dict[str, str] = {
    **{n: n for n in _NOUNS.split()},
    **{n + "s": n for n in _NOUNS.split()},
    **{w: w for w in _PLAIN.split()},
    **_VERBS,
    **_OTHERS,
}
FUNCTION = frozenset(
    "a an the it its them they their there of to from in on at off for into out way with without by but and as is are be been should "
    "must no not all one ones two three four everything nothing than this".split()
)
_WORD = re.compile(r"[a-z]+")


def lemmas(phrase: str) -> tuple[str, ...]:
    """The distinct lemmas of the phrase's content words, in order of appearance."""
    return tuple(dict.fromkeys(CONTENT[w] for w in _WORD.findall(phrase.lower()) if w in CONTENT))


def unknown(phrase: str) -> tuple[str, ...]:
    """The words of the phrase that are neither content nor function words: a gap of the lexicon."""
    return tuple(w for w in _WORD.findall(phrase.lower()) if w not in CONTENT and w not in FUNCTION)
