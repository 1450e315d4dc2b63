"""The plan of one split: its scenes and the queries about them, before any file is written."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from neucore_xl.data.subsets.procedure import PAIRS, SIZE
from neucore_xl.errors import UserError
from neucore_xl.shapes.claims import Statement, holds
from neucore_xl.shapes.difference import Difference, difference
from neucore_xl.shapes.edits import corpus
from neucore_xl.shapes.scene import Palette, Scene
from neucore_xl.shapes.statements import choose
from neucore_xl.shapes.subsets import scene_features, subsets

CORPUS = 1.25  # scenes drawn per image kept
MINIMUM = 12  # images of a split below which no subset can be promised


@dataclass(frozen=True)
class Query:
    """One pair of a subset: the scenes by index, the ranks, and what tells the target from the other members."""

    subset: int
    members: tuple[int, ...]  # scene indices in rank order
    reference_rank: int
    target_rank: int
    statements: tuple[Statement, ...]
    near: tuple[int, ...] = ()  # members that miss only one of three or more statements: half right

    @property
    def reference(self) -> int:
        return self.members[self.reference_rank]

    @property
    def target(self) -> int:
        return self.members[self.target_rank]

    def rng(self, seed: str) -> random.Random:
        """The query's own source of chance for its words: independent of every other query."""
        return random.Random(f"{seed}/words/{self.subset}/{self.reference_rank}-{self.target_rank}")


@dataclass(frozen=True)
class Plan:
    """All scenes of a split (its images, by index) and its queries in subset order, nine a subset."""

    scenes: tuple[Scene, ...]
    queries: tuple[Query, ...]

    def difference(self, query: Query) -> Difference:
        """From the query's reference to its target."""
        return difference(self.scenes[query.reference], self.scenes[query.target])


def differences_from(scenes: Sequence[Scene], members: Sequence[int], rank: int) -> list[Difference | None]:
    """The differences from the member of one rank to every member; None at its own place."""
    return [None if k == rank else difference(scenes[members[rank]], scenes[m]) for k, m in enumerate(members)]


def _queries(scenes: Sequence[Scene], members: tuple[int, ...], subset: int, seed: str) -> list[Query] | None:
    """The nine queries of a subset, or None if one target cannot be told from the other members in four edits."""
    from_rank: dict[int, list[Difference | None]] = {}
    out = []
    for a, b in PAIRS:
        if a not in from_rank:
            from_rank[a] = differences_from(scenes, members, a)
        target = from_rank[a][b]
        others = [d for k, d in enumerate(from_rank[a]) if d is not None and k != b]
        assert target is not None
        rng = random.Random(f"{seed}/{members[0]}/{a}-{b}")
        statements = None
        for _ in range(4):
            statements = statements or choose(target, others, rng)
        if statements is None:
            return None
        near = []
        if len(statements) >= 3:
            fits = {k: sum(holds(s, d) for s in statements) for k, d in enumerate(from_rank[a]) if d is not None}
            near = [k for k, n in fits.items() if n == len(statements) - 1]
        out.append(Query(subset, members, a, b, tuple(statements), tuple(near)))
    return out


def plan_split(seed: str, size: int, palette: Palette) -> Plan:
    """Scenes and queries of one split with ``size`` images; the same ``seed`` text always gives the same plan.

    Subsets are taken from a corpus that is larger than the split until they fill it, as in CIRR, where every image
    of a split is in a subset; the last few places are given to images of none.

    Raises:
        UserError: fewer than ``MINIMUM`` images were asked for.
    """
    if size < MINIMUM:
        raise UserError(f"A split needs at least {MINIMUM} images to form subsets of {SIZE} similar ones, not {size}.")
    for attempt in range(20):
        scenes = corpus(f"{seed}/corpus-{attempt}", palette, max(size, round(size * CORPUS)), set())
        queries, used = _fill(scenes, size, f"{seed}/{attempt}")
        if queries:
            free = [i for i in range(len(scenes)) if i not in used]
            rng = random.Random(f"{seed}/order-{attempt}")
            images = [*used, *rng.sample(free, size - len(used))]
            rng.shuffle(images)
            place = {old: new for new, old in enumerate(images)}
            moved = (replace(q, members=tuple(place[m] for m in q.members)) for q in queries)
            return Plan(tuple(scenes[i] for i in images), tuple(moved))
    raise UserError(f"No subset of {SIZE} similar images could be formed from {size} images; ask for more.")


def _fill(scenes: Sequence[Scene], size: int, seed: str) -> tuple[list[Query], dict[int, None]]:
    """Queries of as many subsets as fit into ``size`` images, and the images that they use."""
    queries: list[Query] = []
    used: dict[int, None] = {}
    source = subsets(scene_features(scenes), random.Random(f"{seed}/subsets"))
    members = next(source, None)
    while members is not None and len(used) < size:
        nine = None
        if len(used.keys() | set(members)) <= size:
            nine = _queries(scenes, members, len(queries) // len(PAIRS), seed)
        if nine is not None:
            queries += nine
            used.update(dict.fromkeys(members))
        try:
            members = source.send(nine is not None)
        except StopIteration:
            members = None
    return queries, used
