"""The words that tell one operation from another: data of the clause planner. Lemmas unless told otherwise."""

from __future__ import annotations

import re


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


def _any(*patterns: str) -> re.Pattern[str]:
    """One pattern for whole words of a clause in lower case, its tokens joined by single blanks."""
    return re.compile(r"(?<!\S)(?:" + "|".join(patterns) + r")(?!\S)")


NUMBER = r"(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|\d+)"

# Verbs that an edit may open with: a piece that starts with one of them is a clause of its own.
REMOVE = _set("remove delete erase eliminate exclude omit discard ditch subtract lose minus")
CHANGE = _set(
    "change replace swap switch convert turn transform become exchange substitute alter modify trade recolor recolour "
    "repaint paint dye"
)
ADD = _set("add insert include attach introduce append")
KEEP = _set("keep retain maintain preserve leave stay remain")
PLACE = _set("put place lay set hang stick position")
MOVE = _set("move shift relocate bring slide")
SCALE = _set(
    "double halve triple increase decrease reduce enlarge shrink lighten darken brighten widen shorten lengthen"
)
CAMERA = _set("zoom focus rotate flip mirror pan tilt straighten level crop")
SHOW = _set("show have be feature display depict contain see want need get look wear come consist")
EDIT = REMOVE | CHANGE | ADD | KEEP | PLACE | MOVE | SCALE | CAMERA | SHOW | _set("make take give let use must should")
POLITE = _set("please then also just now next finally instead simply and but so it you i to they we there")

NOUNS_TOO = _set(  # verbs above that may as well be the first noun of a compound: "mirror image"
    "mirror place set need look wear zoom level position crop dye paint use turn flip leave stick slide view focus face"
)
COLOURS = _set(
    "black white red orange yellow green blue purple pink brown grey gray beige turquoise navy violet maroon teal gold "
    "golden silver cream tan khaki burgundy"
)
FRAMES = _set("picture image photo photograph scene shot pic one item thing")  # "the same picture with …" adds nothing
SCENERY = _set("background backdrop foreground scenery surroundings sky setting floor ground wall")
BACKDROP = _set("background backdrop foreground scenery surroundings")
STANCE = _set("sit stand lie lay rest perch lean hang float swim")  # verbs of being somewhere

COUNT_CHANGE = _any(
    rf"(?:all|everything|nothing|none) but {NUMBER}", r"(?:the )?(?:number|amount|quantity) of", rf"{NUMBER} more",
    rf"{NUMBER}(?: \S+){{0,3}} (?:fewer|less)", rf"(?:only|just) {NUMBER}", rf"{NUMBER} of (?:the|them|these|those)",
    rf"(?:remove|delete|drop|leave|keep) {NUMBER}", rf"(?:instead of|rather than|not) {NUMBER}$",
    r"only a (?:single|few|couple)",
)  # fmt: skip
COUNT_WORDS = _any(
    r"single", r"several", r"many", r"multiple", r"a few", r"a couple of", r"a pair of", r"groups? of", r"bunch of",
    r"numerous", r"dozens?", r"lots? of", r"plenty of", r"twice as many", r"double the", r"herd of", r"flock of",
)  # fmt: skip
KEPT = _any(
    r"unchanged", r"intact", r"identical", r"as (?:it|they|he|she) (?:is|are|was|were)", r"nothing else",
    r"the same", r"stay(?:s|ed)? (?:put|there)", r"unaltered",
)  # fmt: skip
GONE = _any(
    r"(?:everything|anything|all) (?:but|except)",
    r"get(?:s|ting)? rid of", r"t(?:ake|aken|aking) (?:away|out|off)", r"gone", r"disappear(?:s|ed)?", r"vanished",
    r"no sign of", r"no longer (?:there|visible|present|in)", r"missing", r"removed", r"take .* (?:away|out|off)",
    r"excluding", r"removing", r"eliminating", r"minus", r"lack(?:s|ing)?", r"(?:left|cut) out",
)  # fmt: skip
NEGATED = _any(r"no", r"not", r"n't", r"without", r"none", r"nothing", r"never", r"neither", r"nobody")
VIEW = _any(
    r"zoom(?:s|ed|ing)?", r"angles?", r"viewpoint", r"perspective", r"focus(?:es|ed|ing)?", r"rotat(?:e|es|ed|ing)",
    r"mirrored", r"mirror images?", r"flip(?:s|ped|ping)?", r"cameras?", r"close ?- ?ups?", r"closeups?", r"close up",
    r"tilt(?:s|ed|ing)?", r"overhead", r"sideways", r"aerial", r"orientation", r"views?", r"shots?", r"facing",
    r"closer(?: up)?", r"nearer", r"(?:further|farther)(?: away| back)?", r"far away", r"zoomed - (?:in|out)",
    r"head - on", r"from (?:above|below|behind|the (?:side|front|back|top|left|right))", r"upside down",
    r"bird 's eye", r"turn(?:s|ed|ing)? around", r"(?:left|right) to (?:left|right)", r"close coverage",
    r"(?:the )?(?:opposite|other|another|same|different) (?:direction|way)", r"straighten(?:ed)?", r"horizontally",
    r"look(?:s|ing)? (?:straight|at the (?:camera|viewer)|away|forward|to the (?:left|right)|left|right|up|down)",
    r"(?:picture|view|image|camera|photo|scene) (?:is|be|looks) (?:level|straight|closer)", r"out of focus", r"profile",
    r"level the \S+",
)  # fmt: skip
COMPARED = _any(
    r"instead(?: of)?", r"rather(?: than| \S+ing)?", r"in(?: the)? place of", r"different(?:ly)?", r"another",
    r"from \S+(?: \S+)? to", r"the same (?:\S+ ){1,2}as", r"of the same (?:\S+ ){1,2}as", r"in lieu of",
)  # fmt: skip
ADDED = _any(
    r"added", r"adding", r"(?:the )?addition of", r"additional", r"extra", r"(?:has|have) appeared", r"appears?",
    r"also", r"as well", r"plus", r"including", r"includes?",
)  # fmt: skip
SCALED = _any(
    r"(?:slightly|somewhat) \S+", r"not (?:as|so)", r"(?:too|less|more|most|least|fewer|enough|much) ?\S*",
    r"a (?:bit|little|lot) \S+", r"than (?:before|the)", r"increased?", r"decreased?", r"lessen",
)  # fmt: skip
SHIFTED = _any(  # comparatives of place
    r"(?:further|farther|more) (?:to the )?(?:right|left|up|down)", r"(?:lower|higher)(?: down| up)",
    r"swap(?:s|ped|ping)?(?: the| their)? (?:places|positions|sides)",
)  # fmt: skip
CONTRASTED = _set("instead rather place")  # "a cup with a lid instead of a bowl with a spoon" is one edit
WHERE = _any(
    r"(?:on|in|at|to|towards?|from|near|into|onto) (?:the )?(?:very |far |top |bottom |left |right |opposite )*"
    r"(?:left|right|top|bottom|middle|centre|center|corner|side|edge|distance|back|rear|sides|corners)",
    r"behind", r"in front(?: of)?", r"next to", r"beside", r"besides", r"beneath", r"underneath", r"between", r"below",
    r"above", r"outdoors?", r"indoors?", r"outside", r"on top of", r"surrounded by",
)  # fmt: skip
PREPOSITIONS = _set(
    "in on at under beneath behind beside between near next inside outside against over around along across among "
    "above below by onto into upon underneath amid amidst atop"
)
