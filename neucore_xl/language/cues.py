"""The words that tell one operation from another: data of the clause planner, lemmas unless told otherwise."""

from __future__ import annotations


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


REMOVE = _set(
    "remove delete erase eliminate exclude omit drop discard ditch lose subtract strip crop lack avoid excluding"
)
NEGATORS = _set("no not without n't none nothing never neither nor minus sans cannot")
ADD = _set("add include put insert attach introduce append addition adding extra additional plus")
CHANGE = _set(
    """
    change replace swap switch convert turn transform become exchange substitute alter modify trade recolor
    repaint paint dye instead rather different another differently
    """
)
CHANGE_VERBS = _set(
    """
    change replace swap switch convert turn transform become exchange substitute alter modify trade recolor
    repaint paint dye
    """
)
KEEP = _set("keep retain maintain preserve leave stay remain same unchanged still identical intact similar")
CONTRAST = _set("but except however although though only")
VIEWPOINT = _set(
    """
    zoom angle viewpoint view perspective focus rotate face facing mirror flip mirrored flipped rotated camera
    closeup shot profile pan tilt overhead zoomed orientation viewer sideways frame framing aerial tilted
    position
    """
)
VIEWPOINT_PHRASES = (
    "close up", "close-up", "closer", "up close", "further away", "farther away", "head on", "head-on", "from above",
    "from below", "from behind", "from the side", "from the front", "from the back", "upside down", "bird's eye",
    "side view", "further back", "nearer", "far away", "closely", "turned around", "turn around", "left to right",
)  # fmt: skip
BACKGROUND = _set(
    """
    background backdrop foreground scene setting environment surroundings surrounding floor ground wall sky
    location place outdoors outdoor indoors indoor outside inside landscape scenery
    """
)
LOCATION = _set(
    """
    left right behind front beside above below under underneath beneath between near next middle center centre
    corner edge top bottom side inside outside on in at against over around along across among beside by onto
    into upon
    """
)
LOCATION_VERBS = _set("move shift place position relocate swap put set bring sit stand lie lay")
COMPARATIVE = _set("more less fewer much too enough increase decrease reduce enlarge shrink lighten darken")
QUANTITY = _set(
    """
    single only pair couple several many multiple few number amount group bunch count double triple dozen both
    twice numerous alone various
    """
)
SHOW = _set("show have be feature display depict contain see want need get look wear is has shows")
EDIT_VERBS = (
    REMOVE - {"excluding", "lack", "lose"}
    | CHANGE_VERBS
    | _set(
        """
    add include put insert attach introduce append keep retain maintain preserve leave zoom focus rotate flip
    mirror pan tilt move shift place position make show have be take get give let set bring turn increase
    decrease reduce enlarge shrink lighten darken move crop use need want do should must
    """
    )
)
