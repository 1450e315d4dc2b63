"""The procedure of CIRR for subsets of six similar images, given their similarities; nothing here reads a picture.

Source: Liu et al., "Image Retrieval on Real-life Images with Pre-trained Vision-and-Language Models" (ICCV 2021),
section 4.1 and supplement D with its figure 5.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SIZE = 6
# By rank in the subset: a closed loop (figure 6), and three more from the first image, which so has four (figure 7).
LOOP = ((0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 0))
PAIRS = (*LOOP, (0, 2), (0, 3), (0, 4))
# Images that two subsets may have in common. The paper says "filter … to avoid heavy overlap" and gives no number; of
# the 1,006 subsets of the released val and test1 files no two share more than two.
MAX_SHARED = 2


@dataclass(frozen=True)
class Rule:
    """The numbers of the procedure; the defaults are the paper's.

    ``near_identical``: an image with this cosine or more to the first one counts as the first one again. ``top``: so
    many of the images below that are looked at, the most similar first. ``step``: one of them whose cosine to the
    first image is within this of the last one added is skipped. ``distinct``, which the paper does not ask for: one
    that is ``near_identical`` to any image added before is skipped too.
    """

    near_identical: float = 0.94
    step: float = 0.002
    top: int = 20
    distinct: bool = False


PAPER = Rule()


def greedy(
    cosines: Sequence[float], rule: Rule = PAPER, among: Sequence[Sequence[float]] | None = None
) -> list[int] | None:
    """Which candidates make a subset with the first image: SIZE - 1 positions, or None if it is to be discarded.

    ``cosines`` are those of at most ``rule.top`` candidates to the first image, none ``near_identical``, in falling
    order. ``among`` [k, k] are those of the candidates to each other; ``rule.distinct`` needs them.
    """
    added: list[int] = []
    last = 1.0
    for i, cosine in enumerate(cosines):
        if last - cosine <= rule.step:
            continue
        if among is not None and any(among[i][j] >= rule.near_identical for j in added):
            continue
        added.append(i)
        last = cosine
        if len(added) == SIZE - 1:
            return added
    return None


def subset_of(cosine: np.ndarray, first: int, rule: Rule = PAPER) -> tuple[int, ...] | None:
    """The subset that the procedure builds from image ``first``, in rank order, or None if it is discarded.

    ``cosine`` [N] holds the similarity of every image to ``first``. Of images with equal cosines the earlier counts
    as the more similar.
    """
    candidates = np.flatnonzero(cosine < rule.near_identical)
    candidates = candidates[candidates != first]
    if len(candidates) > rule.top:
        floor = np.partition(cosine[candidates], len(candidates) - rule.top)[len(candidates) - rule.top]
        candidates = candidates[cosine[candidates] >= floor]
    order = candidates[np.argsort(-cosine[candidates], kind="stable")][: rule.top]
    added = greedy(cosine[order].tolist(), rule)
    return None if added is None else (first, *(int(i) for i in order[added]))


class Overlap:
    """The subsets that were kept, to see which others would have too many images in common with one of them."""

    def __init__(self, most: int = MAX_SHARED) -> None:
        self.most = most
        self._kept = 0
        self._with: dict[int, list[int]] = {}  # image → numbers of the subsets that it is in

    def heavy(self, members: Sequence[int]) -> bool:
        """Whether ``members`` share more than ``most`` images with a subset that was kept."""
        shared = Counter(number for image in members for number in self._with.get(image, ()))
        return any(count > self.most for count in shared.values())

    def keep(self, members: Sequence[int]) -> None:
        """Count ``members`` from now on."""
        for image in members:
            self._with.setdefault(image, []).append(self._kept)
        self._kept += 1
