"""Which measures stand in which column: the tables of the CIRR paper and of the NEUCORE supplement.

Legend: (G) Liu et al. (ICCV 2021): Table 3 recall on CIRR, Table 4 Fashion-IQ by category, Table 5 mAP on CIRR.
(N) Zhao and Xu (2023), supplement: Table 3, Fashion-IQ by K.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

CIRR_MEAN = "(R@5 + R_subset@1) / 2"


@dataclass(frozen=True)
class Layout:
    """A table: its title and its columns, (measure, title) each."""

    title: str
    columns: tuple[tuple[str, str], ...]


RECALL = Layout(
    "Recall",
    (
        *((f"R@{k}", f"R@{k}") for k in (1, 5, 10, 50)),
        *((f"R_subset@{k}", f"R_subset@{k}") for k in (1, 2, 3)),
        ("mean", CIRR_MEAN),
    ),
)
MAP = Layout(
    "Mean average precision",
    (
        *((f"mAP@{k}", f"mAP@{k}") for k in (1, 5, 10, 50)),
        *((f"mAP_subset@{k}", f"mAP_subset@{k}") for k in (1, 2, 3)),
    ),
)


def layouts(dataset: str, measures: Sequence[str]) -> list[Layout]:
    """The tables of ``dataset``, the main one first; of one without papers here, its measures in their order.

    ``measures``: those of a run, single categories as ``category/measure``.
    """
    if dataset == "cirr":
        return [RECALL, MAP]
    if dataset == "fashion-iq":
        categories = list(dict.fromkeys(m.partition("/")[0] for m in measures if "/" in m))
        return [_by_k(categories), _by_category(categories)]
    plain = [m for m in measures if "/" not in m and m != "mean"]
    return [Layout("Measures", (*((m, m) for m in plain), ("mean", "mean")))]


def _by_k(categories: Sequence[str]) -> Layout:
    """(N) Table 3."""
    columns = [("mean", "(R@10 + R@50) / 2")]
    for k in (10, 50):
        columns += [(f"{c}/R@{k}", f"R@{k} {c}") for c in categories] + [(f"R@{k}", f"R@{k} mean")]
    return Layout("Recall by K", tuple(columns))


def _by_category(categories: Sequence[str]) -> Layout:
    """(G) Table 4."""
    columns = [(f"{c}/R@{k}", f"{c} R@{k}") for c in categories for k in (10, 50)]
    columns += [("R@10", "average R@10"), ("R@50", "average R@50"), ("mean", "(R@10 + R@50) / 2")]
    return Layout("Recall by category", tuple(columns))
