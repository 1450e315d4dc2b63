"""What differs between two scenes: which group became which, what was added, and a key for every change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from neucore_xl.shapes.scene import GROUP_ATTRIBUTES, Group, Scene, mirrored

Key = tuple[object, ...]  # ("group", i, attribute) | ("remove", i) | ("add", j) | ("background",) | ("kind",) | …

_COST = {"shape": 1.6, "colour": 1.4, "texture": 0.9, "size": 0.6, "count": 0.6, "place": 0.9}
_UNMATCHED = 1.9  # a pair of groups that costs more than two of these is a removal and an addition


@lru_cache(maxsize=65536)
def _cost(a: Group, b: Group) -> float:
    return sum(cost for name, cost in _COST.items() if getattr(a, name) != getattr(b, name))


def match_groups(reference: Scene, target: Scene) -> tuple[int | None, ...]:
    """For each group of the reference the index of the target's group that it became, or None: cheapest overall."""
    fixed: dict[int, int] = {}
    for i, group in enumerate(reference.groups):
        # Equal groups belong together: the cost is a metric, so that no cheaper match parts them.
        j = next((j for j, g in enumerate(target.groups) if j not in fixed.values() and g == group), None)
        if j is not None:
            fixed[i] = j
    rows = [i for i in range(len(reference.groups)) if i not in fixed]
    columns = [j for j in range(len(target.groups)) if j not in fixed.values()]
    found = _cheapest([reference.groups[i] for i in rows], [target.groups[j] for j in columns])
    rest = {i: None if k is None else columns[k] for i, k in zip(rows, found, strict=True)}
    return tuple(fixed.get(i, rest.get(i)) for i in range(len(reference.groups)))


def _cheapest(a: Sequence[Group], b: Sequence[Group]) -> tuple[int | None, ...]:
    """The cheapest partial match of two short lists, by trying all of them."""
    best: tuple[float, tuple[int | None, ...]] = (float("inf"), ())

    def extend(prefix: tuple[int | None, ...], cost: float) -> None:
        nonlocal best
        if cost >= best[0]:
            return
        if len(prefix) == len(a):
            cost += _UNMATCHED * (len(b) - sum(j is not None for j in prefix))
            if cost < best[0]:
                best = (cost, prefix)
            return
        for j in range(len(b)):
            if j not in prefix:
                extend((*prefix, j), cost + _cost(a[len(prefix)], b[j]))
        extend((*prefix, None), cost + _UNMATCHED)

    extend((), 0.0)
    return best[1]


@dataclass(frozen=True)
class Difference:
    """From ``reference`` to ``target``: ``match[i]`` is where the reference's group i went, ``added`` what is new."""

    reference: Scene
    target: Scene
    match: tuple[int | None, ...]
    added: tuple[int, ...]
    keys: frozenset[Key]
    mirrored: bool

    def now(self, i: int) -> Group | None:
        """The reference's group ``i`` as the target shows it; None if it is gone."""
        j = self.match[i]
        return None if j is None else self.target.groups[j]


def difference(reference: Scene, target: Scene) -> Difference:
    """The difference of two scenes; its ``keys`` are empty exactly if both show the same things."""
    match = match_groups(reference, target)
    added = tuple(j for j in range(len(target.groups)) if j not in match)
    keys: set[Key] = {("add", j) for j in added}
    places = []
    for i, (group, j) in enumerate(zip(reference.groups, match, strict=True)):
        if j is None:
            keys.add(("remove", i))
            continue
        now = target.groups[j]
        keys.update(("group", i, name) for name in GROUP_ATTRIBUTES if getattr(group, name) != getattr(now, name))
        places.append((group.place, now.place))
    if reference.background != target.background:
        keys.add(("background",))
    if reference.background_kind != target.background_kind:
        keys.add(("kind",))
    if reference.zoom != target.zoom:
        keys.add(("zoom",))
    if reference.tilt != target.tilt:
        keys.add(("tilt",))
    flipped = (
        bool(places)
        and reference.tilt == 0 == target.tilt
        and all(mirrored(was) == now for was, now in places)
        and any(was != now for was, now in places)
    )
    return Difference(reference, target, match, added, frozenset(keys), flipped)
