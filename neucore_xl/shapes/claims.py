"""What a sentence may claim about a pair of pictures, and when a picture fits a claim."""

from __future__ import annotations

from dataclasses import dataclass, field

from neucore_xl.shapes.difference import Difference, Key
from neucore_xl.shapes.scene import GROUP_ATTRIBUTES, SIZES, Group, Place, Scene

Said = tuple[tuple[str, object], ...]  # (attribute, value) pairs that the words give away

# How bright a background looks, 0 to 255 (Rec. 601 of its colour): "a darker background" needs a clear step.
BRIGHTNESS = {"grey": 158, "beige": 209, "pink": 202, "brown": 106, "turquoise": 166, "navy": 60}
CLEAR_STEP = 35


@dataclass(frozen=True)
class Statement:
    """One claim about how the target differs from the reference.

    ``group`` is an index into the reference's groups, ``said`` what the words give away and no more, and ``covers``
    the keys of the difference that the claim accounts for.

    Kinds: ``set`` (a group has this value now), ``direct`` (several values), ``size`` and ``zoom`` (``sign``),
    ``move`` (``way``: left, right, up, down, or opposite), ``exchange`` (two groups swap ``attribute``), ``add``,
    ``remove``, ``replace``, ``view`` (background or tilt), ``brightness`` (of the background), ``mirror``, and
    ``keep group``, ``keep attribute``, ``keep background``, ``keep view``, ``keep rest``.
    """

    kind: str
    group: int | None = None
    said: Said = ()
    covers: frozenset[Key] = field(default=frozenset(), compare=False)

    def value(self, name: str) -> object:
        """The claimed value of attribute ``name``; KeyError if the words leave it open."""
        return dict(self.said)[name]


def fits(group: Group, said: Said) -> bool:
    """Whether a group has every value that is said of it."""
    return all(getattr(group, name) == value for name, value in said)


def size_change(was: Group, now: Group) -> int:
    """By how many sizes the objects grew (negative: shrank)."""
    return SIZES.index(now.size) - SIZES.index(was.size)


def way(was: Place, now: Place) -> str | None:
    """The direction from one cell to another, if it runs along a row or a column."""
    if was[0] == now[0] and was[1] != now[1]:
        return "right" if now[1] > was[1] else "left"
    if was[1] == now[1] and was[0] != now[0]:
        return "down" if now[0] > was[0] else "up"
    return None


def opposite(place: Place) -> Place:
    """The cell on the other side of the centre."""
    return (2 - place[0], 2 - place[1])


def brightness_step(was: str, now: str) -> int:
    """1 if the background ``now`` is clearly brighter than ``was``, -1 if clearly darker, else 0."""
    step = BRIGHTNESS[now] - BRIGHTNESS[was]
    return 0 if abs(step) < CLEAR_STEP else 1 if step > 0 else -1


def exchanged(d: Difference, i: int, k: int, attribute: str) -> bool:
    """Whether groups ``i`` and ``k`` of the reference took each other's value of ``attribute``."""
    a, b = d.now(i), d.now(k)
    if a is None or b is None:
        return False
    was_i, was_k = (getattr(d.reference.groups[n], attribute) for n in (i, k))
    return was_i != was_k and getattr(a, attribute) == was_k and getattr(b, attribute) == was_i


def holds(statement: Statement, d: Difference) -> bool:
    """Whether a picture, seen as the outcome ``d`` of an edit of the reference, fits the statement."""
    if statement.group is None:
        return _holds_of_scene(statement, d)
    i = statement.group
    was, now = d.reference.groups[i], d.now(i)
    if statement.kind == "remove":
        return now is None
    if statement.kind == "replace":
        return now is None and any(fits(d.target.groups[j], statement.said) for j in d.added)
    if now is None:
        return False
    if statement.kind == "size":
        return _same_sign(size_change(was, now), statement.value("sign"))
    if statement.kind == "move":
        return (
            now.place == opposite(was.place)
            if statement.value("way") == "opposite"
            else way(was.place, now.place) == statement.value("way")
        )
    if statement.kind == "exchange":
        return exchanged(d, i, int(str(statement.value("other"))), str(statement.value("attribute")))
    if statement.kind == "keep group":
        return all(("group", i, name) not in d.keys for name in GROUP_ATTRIBUTES)
    if statement.kind == "keep attribute":
        return ("group", i, statement.value("name")) not in d.keys
    return fits(now, statement.said)  # "set" and "direct"


def _holds_of_scene(statement: Statement, d: Difference) -> bool:
    kind = statement.kind
    if kind == "add":
        return any(fits(d.target.groups[j], statement.said) for j in d.added)
    if kind == "view":
        return _view_fits(d.target, statement.said)
    if kind == "brightness":
        return brightness_step(d.reference.background, d.target.background) == statement.value("sign")
    if kind == "zoom":
        return _same_sign(d.target.zoom - d.reference.zoom, statement.value("sign"))
    if kind == "mirror":
        return d.mirrored
    if kind == "keep background":
        return not {("background",), ("kind",)} & d.keys
    if kind == "keep view":
        return not {("zoom",), ("tilt",)} & d.keys and not d.mirrored
    assert kind == "keep rest", kind
    # The covers are the changes that the other statements speak of: nothing else may have changed.
    stated = {key for key in statement.covers if key[0] != "add"}
    if d.mirrored and ("mirror",) in stated:
        stated |= {key for key in d.keys if key[0] == "group" and key[2] == "place"}
    additions = sum(key[0] == "add" for key in statement.covers)
    return len(d.added) <= additions and {key for key in d.keys if key[0] != "add"} <= stated


def _same_sign(step: int, sign: object) -> bool:
    return step > 0 if sign == 1 else step < 0


def _view_fits(scene: Scene, said: Said) -> bool:
    return all(getattr(scene, name) == value for name, value in said)


def fits_alone(statement: Statement, scene: Scene) -> bool:
    """Whether the picture alone, without the reference, may fit the statement: what its words show by themselves.

    Words that only compare ("bigger", "one more", "the same") rule out little: a group cannot be bigger and small.
    This is the yardstick of how far the text alone determines the target. It knows a group by the words said of
    the target only, since a picture has no memory of what a group was.
    """
    kind = statement.kind
    if kind in ("add", "replace", "direct", "set"):
        return any(fits(g, statement.said) for g in scene.groups)
    if kind == "view":
        return _view_fits(scene, statement.said)
    if kind == "size":
        return any(g.size != ("small" if statement.value("sign") == 1 else "large") for g in scene.groups)
    if kind == "zoom":
        return scene.zoom != -int(str(statement.value("sign")))
    return True
