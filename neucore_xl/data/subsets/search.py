"""From unit vectors of many pictures to subsets: exact search in chunks, and drawing that goes on where it stopped."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from neucore_xl.data.subsets.journal import Journal
from neucore_xl.data.subsets.procedure import MAX_SHARED, PAPER, SIZE, Overlap, Rule, greedy

BLOCK, CHUNK = 512, 4096  # first images and all images of one matrix product: 8 MiB of cosines


@dataclass(frozen=True)
class Drawn:
    """``members`` [S, SIZE] int64: rows of the vectors, by rank. How many first images were tried for them, of how
    many there were too few candidates, and how many subsets shared too much with an earlier one."""

    members: np.ndarray
    tried: int
    discarded: int
    overlapping: int


def draw_subsets(
    vectors: np.ndarray,
    firsts: np.ndarray,
    rule: Rule = PAPER,
    *,
    count: int | None = None,
    max_shared: int = MAX_SHARED,
    journal: Journal | None = None,
    device: torch.device | str = "cpu",
    block: int = BLOCK,
    tried: Callable[[int, int], object] = lambda images, kept: None,
) -> Drawn:
    """Subsets from the first images ``firsts``, in that order, without heavy overlap with those before.

    Args:
        vectors: [N, D] float32 of unit length and finite, in memory or a memory map; one row a picture.
        firsts: [A] row numbers without repeats, in random order if the subsets are to be a random draw.
        count: stop when so many are kept; None: try all.
        max_shared: images that two subsets may have in common.
        journal: keeps what was found, so that a second call with equal arguments goes on from there.
        device: where the products are computed; ``vectors`` are copied there as a whole unless it is the CPU.
        block: first images at a time: what a kill loses, and how soon ``count`` ends the search.
        tried: called with the number of first images just tried and of the subsets kept of them.
    """
    firsts = np.asarray(firsts, dtype=np.int64)
    before = journal.read(firsts) if journal is not None else np.empty((0, SIZE), np.int32)
    overlap = Overlap(max_shared)
    kept: list[np.ndarray] = []
    done = discarded = overlapping = 0

    def blocks() -> Iterator[np.ndarray]:
        yield from (before[start : start + block] for start in range(0, len(before), block))
        for rows in similar_subsets(vectors, firsts[len(before) :], rule, device=device, block=block):
            if journal is not None:
                journal.append(rows)
            yield rows

    for rows in blocks() if count != 0 else ():
        new = 0
        for row in rows:
            done += 1
            members = row.tolist()
            if members[1] < 0:
                discarded += 1
            elif overlap.heavy(members):
                overlapping += 1
            else:
                overlap.keep(members)
                kept.append(row)
                new += 1
                if len(kept) == count:
                    break
        tried(len(rows), new)
        if len(kept) == count:
            break
    return Drawn(np.array(kept, np.int64).reshape(-1, SIZE), done, discarded, overlapping)


@torch.no_grad()
def similar_subsets(
    vectors: np.ndarray,
    firsts: np.ndarray,
    rule: Rule = PAPER,
    *,
    device: torch.device | str = "cpu",
    block: int = BLOCK,
    chunk: int = CHUNK,
) -> Iterator[np.ndarray]:
    """The subset of each first image, ``block`` at a time: rows [b, SIZE] int32, -1 behind one that is discarded.

    What ``procedure.subset_of`` gives for the row ``vectors @ vectors[first]``; arguments as of ``draw_subsets``.
    Memory is O(block · chunk), whatever N.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # nothing is written to it
        matrix = torch.from_numpy(vectors).to(device)
    for start in range(0, len(firsts), block):
        part = torch.from_numpy(firsts[start : start + block]).to(device)
        cosines, columns = _candidates(matrix, part, rule, chunk)
        yield _rows(matrix, part, cosines, columns, rule)


def _candidates(matrix: Tensor, firsts: Tensor, rule: Rule, chunk: int) -> tuple[Tensor, Tensor]:
    """Cosines [b, k] in falling order and rows [b, k] of the ``rule.top`` best below ``near_identical``.

    -inf where there are fewer. Of equal cosines the earlier row comes first.
    """
    queries, top = matrix[firsts], rule.top
    cosines = matrix.new_full((len(firsts), top), -torch.inf)
    columns = firsts.new_zeros(len(firsts), top)
    for low in range(0, len(matrix), chunk):
        scores = queries @ matrix[low : low + chunk].T
        own = ((firsts >= low) & (firsts < low + chunk)).nonzero().squeeze(1)
        scores[own, firsts[own] - low] = -torch.inf
        # the more chunks went by, the fewer first images find anything better
        rows = (scores.amax(1) > cosines[:, -1]).nonzero().squeeze(1)
        if len(rows) < len(scores):
            scores = scores[rows]
        scores.masked_fill_(scores >= rule.near_identical, -torch.inf)
        values, places = _largest(scores, top)
        # those of earlier chunks stand in front, and a stable sort leaves them there
        values, order = torch.cat([cosines[rows], values], 1).sort(dim=1, descending=True, stable=True)
        cosines[rows] = values[:, :top]
        columns[rows] = torch.cat([columns[rows], places + low], 1).gather(1, order)[:, :top]
    return cosines, columns


def _largest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` largest of each row, in falling order, and their columns; of equal ones the earlier columns.

    ``topk`` takes any of equal values. Where the last that it takes equals the first that it leaves, that is mended.
    """
    values, columns = scores.topk(min(k + 1, scores.shape[1]), dim=1)
    if scores.shape[1] > k:
        last = values[:, k - 1]
        for row in ((last == values[:, k]) & (last > -torch.inf)).nonzero().flatten().tolist():
            above = (scores[row] > last[row]).nonzero().flatten()
            equal = (scores[row] == last[row]).nonzero().flatten()
            columns[row, :k] = torch.cat([above, equal])[:k]
    columns = columns[:, :k].sort(dim=1).values
    values, order = scores.gather(1, columns).sort(dim=1, descending=True, stable=True)
    return values, columns.gather(1, order)


def _rows(matrix: Tensor, firsts: Tensor, cosines: Tensor, columns: Tensor, rule: Rule) -> np.ndarray:
    rows = np.full((len(firsts), SIZE), -1, np.int32)
    rows[:, 0] = firsts.cpu().numpy()
    there = (cosines > -torch.inf).sum(1).tolist()
    places = columns.cpu().numpy()
    for i, values in enumerate(cosines.tolist()):
        among = None
        if rule.distinct:
            candidates = matrix[columns[i, : there[i]]]
            among = (candidates @ candidates.T).tolist()
        added = greedy(values[: there[i]], rule, among)
        if added is not None:
            rows[i, 1:] = places[i, added]
    return rows
