"""CIRR's measures (Liu et al., 2021, section 5 and supplement): global, within the subset, hard and soft labels.

How irregular rows count (each kind is listed with its number under ``irregular`` in the protocol):

- ``no target``, ``target not in the gallery``, ``target is the reference`` — a miss at every K, globally and in the
  subset: the image to be found is not among the ranked ones.
- ``target not in the subset`` (an empty subset included) — a miss in the subset only.
- ``subset members not in the gallery`` — there is no score for them; the other members are ranked without them.
- ``reference not in its subset`` — all members are ranked. ``reference not in the gallery`` — nothing is taken out.
- ``hard target below 1 in the soft labels``, ``no positive soft label`` (listed with soft labels only) — the file is
  followed to the letter: a hard target that ``target_soft`` omits or lists below 1 does not count as 1, and a query
  of which nothing rankable is labelled above 0 scores 0.

No row is left out of the averages.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from neucore_xl.data.triplets import Split, Triplet
from neucore_xl.errors import UserError
from neucore_xl.evaluation.metrics import Floats, average_precision_at, graded_at, graded_ranks, hit_at
from neucore_xl.evaluation.ranking import (
    ABSENT,
    UNRANKED,
    Chunk,
    Ints,
    Scores,
    checked,
    columns,
    padded,
    rank_of_target,
)
from neucore_xl.evaluation.result import Result

Labels = Literal["hard", "soft"]
GLOBAL_K = (1, 5, 10, 50)
SUBSET_K = (1, 2, 3)


def evaluate(split: Split, chunks: Iterable[Chunk], *, labels: Labels = "hard") -> Result:
    """Every measure of CIRR for the scores of ``split``'s queries against its gallery.

    Args:
        split: a labelled CIRR split; rows are ``split.triplets``, columns ``split.galleries[""].names``, in order.
        chunks: ``(first query, scores [q, G])``, consecutive; each is dropped before the next is asked for.
        labels: ``hard`` counts ``target_hard`` only; ``soft`` gives a query the best value of ``target_soft`` among
            the top K. mAP has one positive per query and stays with the hard label.

    Returns:
        ``R@K``, ``R_subset@K``, ``mAP@K``, ``mAP_subset@K`` and ``mean`` = (R@5 + R_subset@1) / 2, in percent.

    Raises:
        UserError: the split carries no labels, or scores are NaN.
    """
    if labels not in get_args(Labels):
        raise UserError(f"labels must be hard or soft, not {labels!r}")
    if not any(t.target for t in split.triplets):
        raise UserError(
            f"split {split.name} of {split.dataset} carries no labels, so no measure can be computed: evaluate val, or "
            "leave --labels out to write the files for the evaluation server"
        )
    gallery = split.galleries[""].names
    plan = _Plan.of(split.triplets, gallery)
    ids = tuple(t.id for t in split.triplets)
    rank, rank_subset = np.empty(len(ids), np.int64), np.empty(len(ids), np.int64)
    soft = np.full(plan.soft.shape, UNRANKED, dtype=np.int64)
    soft_subset = np.full(plan.members.shape, UNRANKED, dtype=np.int64)
    for rows, scores in checked(chunks, ids, len(gallery)):
        rank[rows] = rank_of_target(scores, plan.target[rows], plan.reference[rows])
        members, valid = plan.members[rows], plan.members[rows] >= 0
        inside = np.take_along_axis(scores, np.where(valid, members, 0), axis=1)
        rank_subset[rows] = _rank_in_subset(inside, members, plan.target[rows])
        if labels == "soft":
            soft[rows] = _soft_ranks(scores, plan.soft[rows], plan.soft_values[rows], plan.reference[rows])
            positive = plan.member_values[rows] > 0
            ranks = graded_ranks(inside, plan.member_values[rows], valid)
            soft_subset[rows] = np.where(valid & positive, ranks, UNRANKED)

    if labels == "soft":
        recall = {k: graded_at(soft, plan.soft_values, k) for k in GLOBAL_K}
        recall_subset = {k: graded_at(soft_subset, plan.member_values, k) for k in SUBSET_K}
    else:
        recall = {k: hit_at(rank, k) for k in GLOBAL_K}
        recall_subset = {k: hit_at(rank_subset, k) for k in SUBSET_K}
    mean = (recall[5] + recall_subset[1]) / 2
    metrics = {
        **{f"R@{k}": v.mean() for k, v in recall.items()},
        **{f"R_subset@{k}": v.mean() for k, v in recall_subset.items()},
        **{f"mAP@{k}": average_precision_at(rank, k).mean() for k in GLOBAL_K},
        **{f"mAP_subset@{k}": average_precision_at(rank_subset, k).mean() for k in SUBSET_K},
        "mean": mean.mean(),
    }
    irregular = dict(plan.irregular)
    if labels == "hard":
        irregular = {kind: n for kind, n in irregular.items() if kind not in (_NO_SOFT, _SOFT_TARGET)}
    protocol = {
        "dataset": split.dataset,
        "split": split.name,
        "labels": labels,
        "map_labels": "hard",
        "gallery": len(gallery),
        "reference": "taken out",
        "subset": "other members ranked by score",
        "ties": "against the target",
        "mean": "(R@5 + R_subset@1) / 2",
        "irregular": irregular,
    }
    return Result(
        protocol=protocol,
        metrics={k: float(v) for k, v in metrics.items()},
        ids=ids,
        per_query={"rank": rank, "rank_subset": rank_subset, "mean": mean},
    )


_NO_SOFT = "no positive soft label"
_SOFT_TARGET = "hard target below 1 in the soft labels"


@dataclass(frozen=True)
class _Plan:
    """The queries as gallery columns: ``reference``, ``target [Q]``; ``members [Q, M]`` of the subset without the
    reference, ``member_values`` their soft labels; ``soft``, ``soft_values [Q, L]`` the positive labels of Q."""

    reference: Ints
    target: Ints
    members: Ints
    member_values: Floats
    soft: Ints
    soft_values: Floats
    irregular: Counter[str]

    @staticmethod
    def of(triplets: tuple[Triplet, ...], gallery: tuple[str, ...]) -> _Plan:
        index = {name: i for i, name in enumerate(gallery)}
        reference = columns([t.reference for t in triplets], gallery)
        target = columns([t.target for t in triplets], gallery)
        irregular: Counter[str] = Counter()
        members, member_values, soft, soft_values = [], [], [], []
        for i, t in enumerate(triplets):
            others = [m for m in dict.fromkeys(t.subset) if m != t.reference]
            known = [m for m in others if m in index]
            # Annotations without soft labels at all have one graded answer, the hard target.
            graded = t.target_soft or ({t.target: 1.0} if t.target else {})
            useful = {m: v for m, v in graded.items() if v > 0 and m in index and m != t.reference}
            members.append([index[m] for m in known])
            member_values.append([useful.get(m, 0.0) for m in known])
            soft.append([index[m] for m in useful])
            soft_values.append(list(useful.values()))
            irregular["no target"] += t.target is None
            irregular["target not in the gallery"] += t.target is not None and target[i] == ABSENT
            irregular["target is the reference"] += t.target == t.reference
            irregular["target not in the subset"] += t.target is not None and t.target not in t.subset
            irregular["subset members not in the gallery"] += len(known) < len(others)
            irregular["reference not in its subset"] += bool(t.subset) and t.reference not in t.subset
            irregular["reference not in the gallery"] += reference[i] == ABSENT
            irregular[_NO_SOFT] += not useful
            irregular[_SOFT_TARGET] += t.target is not None and graded.get(t.target, 0.0) < 1
        irregular = Counter({k: int(v) for k, v in irregular.items() if v})
        wide = padded(members, 5)
        labelled = padded(soft, 1)
        return _Plan(
            reference=reference,
            target=target,
            members=wide,
            member_values=_pad_values(member_values, wide.shape[1]),
            soft=labelled,
            soft_values=_pad_values(soft_values, labelled.shape[1]),
            irregular=irregular,
        )


def _pad_values(rows: list[list[float]], width: int) -> Floats:
    out = np.zeros((len(rows), width))
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return out


def _rank_in_subset(inside: Scores, members: Ints, target: Ints) -> Ints:
    """Rank of the target ``[q]`` among the members ``[q, M]`` with scores ``inside``; ties count against it."""
    here = (members == target[:, None]) & (members >= 0)
    own = np.where(here, inside, -np.inf).max(axis=1)
    ahead = (inside >= own[:, None]) & (members >= 0) & ~here
    return np.where(here.any(axis=1), 1 + ahead.sum(axis=1, dtype=np.int64), UNRANKED)


def _soft_ranks(scores: Scores, labelled: Ints, values: Floats, reference: Ints) -> Ints:
    """Ranks ``[q, L]`` of the labelled images in the gallery; of equal scores the least labelled comes first."""
    out = np.full(labelled.shape, UNRANKED, dtype=np.int64)
    valid = labelled >= 0
    own = np.take_along_axis(scores, np.where(valid, labelled, 0), axis=1)
    for slot in range(labelled.shape[1]):
        rows = np.flatnonzero(valid[:, slot])  # most queries have one label: do not rank the others again
        if len(rows) == 0:
            continue
        ranks = rank_of_target(scores[rows], labelled[rows, slot], reference[rows])
        tied = (own[rows] == own[rows, slot][:, None]) & (values[rows] >= values[rows, slot][:, None]) & valid[rows]
        tied[:, slot] = False
        out[rows, slot] = ranks - tied.sum(axis=1)  # equals and betters among the labelled stand behind, not ahead
    return out
