"""Time and memory of forming subsets of similar pictures, beside the bare matrix product of all pairs.

The vectors are generated: clusters of neighbours, one in ten near-identical to another, as pictures of one place are.
They lie in a memory-mapped file, as the command ``neucore-xl data subsets`` lays them out. Seconds are of the
processor, so that what other programs take does not count.

    python benchmarks/subsets.py [--images 100000] [--firsts 100000] [--width 512] [--subsets 4351]
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import psutil
import torch

from neucore_xl.data.subsets.search import BLOCK, CHUNK, Drawn, draw_subsets

T = TypeVar("T")


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--images", type=int, default=100_000)
    p.add_argument("--firsts", type=int, help="first images to try; all without it")
    p.add_argument("--width", type=int, default=512)
    p.add_argument("--subsets", type=int, default=4351, help="of the draw that ends early (4351: as many as CIRR has)")
    p.add_argument("--threads", type=int, default=1)
    options = p.parse_args()
    torch.set_num_threads(options.threads)

    n = options.images
    with tempfile.TemporaryFile() as file:
        write_vectors(file, n, options.width)
        vectors = np.memmap(file, np.float32, "r", shape=(n, options.width))
    firsts = np.random.default_rng(0).permutation(n)[: options.firsts or n]
    draw_subsets(vectors[:5000], np.arange(600))  # the libraries' own buffers are not the search's
    float(vectors.sum())  # from here on the vectors are in memory
    before = resident()
    product, _ = timed(lambda: products(vectors, len(firsts)))
    every, whole = timed(lambda: draw_subsets(vectors, firsts))

    print(f"{n:,} vectors of width {options.width}, {options.threads} thread(s), blocks of {BLOCK} by {CHUNK}")
    print(f"vectors            {vectors.nbytes / 2**20:,.0f} MiB (all cosines at once: {n * n * 4 / 2**30:,.1f} GiB)")
    print(f"peak above them    {peak() - before:,.0f} MiB")
    print(f"bare products      {product:8.1f} s   1.00   {len(firsts):,} first images")
    say(whole, every, f"{every / product:.2f}")
    if len(firsts) < n:
        print(f"all first images   {every / len(firsts) * n / 3600:8.1f} h   at this rate")
    else:
        some, early = timed(lambda: draw_subsets(vectors, firsts, count=options.subsets))
        say(early, some, "")


def say(drawn: Drawn, seconds: float, ratio: str) -> None:
    print(
        f"{len(drawn.members):7,} subsets    {seconds:8.1f} s   {ratio:4}   {drawn.tried:,} first images: "
        f"{drawn.discarded:,} discarded, {drawn.overlapping:,} overlapping"
    )


def write_vectors(file: tempfile._TemporaryFileWrapper, count: int, width: int) -> None:  # type: ignore[type-arg]
    """Unit vectors [count, width] float32: a picture in a cluster of about 200 has cosines of 0.5 to 0.9 to it."""
    draw = np.random.default_rng(0)
    centres = draw.standard_normal((max(count // 200, 1), width), np.float32)
    last = np.empty((0, width), np.float32)
    for start in range(0, count, 10_000):
        rows = min(10_000, count - start)
        spread = draw.uniform(0.3, 1.0, (rows, 1)).astype(np.float32)
        part = centres[draw.integers(0, len(centres), rows)] + spread * draw.standard_normal((rows, width), np.float32)
        copied = draw.random(rows) < 0.1
        if len(last):
            part[copied] = last[draw.integers(0, len(last), int(copied.sum()))]
            part[copied] += 0.1 * draw.standard_normal((int(copied.sum()), width), np.float32)
        last = part
        file.write((part / np.linalg.norm(part, axis=1, keepdims=True)).tobytes())
    file.flush()


@torch.no_grad()
def products(vectors: np.ndarray, firsts: int) -> None:
    """Every cosine of so many first images, in the search's own blocks, and nothing done with it."""
    matrix = torch.from_numpy(np.asarray(vectors))
    out = torch.empty(BLOCK, CHUNK)
    for start in range(0, firsts, BLOCK):
        queries = matrix[start : min(start + BLOCK, firsts)]
        for low in range(0, len(matrix), CHUNK):
            part = matrix[low : low + CHUNK]
            torch.mm(queries, part.T, out=out[: len(queries), : len(part)])


def timed(work: Callable[[], T]) -> tuple[float, T]:
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def resident() -> float:
    return psutil.Process().memory_info().rss / 2**20


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
