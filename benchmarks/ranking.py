"""Time and memory of ranking CIRR's val split with the full matching score, beside one plain matrix product.

Features are random; the score and the ranking are those of an evaluation. ``plain`` is the least a retrieval can do:
one inner product per pair and the 50 best of each row, all at once.

    python benchmarks/ranking.py [--queries 4181] [--gallery 2297] [--width 512] [--chunk 256] [--threads 2]
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable

import numpy as np
import psutil
import torch

from neucore_xl.evaluation.ranking import rank_of_target, top_k
from neucore_xl.models.features import FeatureSet
from neucore_xl.models.matching import score


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--queries", type=int, default=4181)
    p.add_argument("--gallery", type=int, default=2297)
    p.add_argument("--width", type=int, default=512)
    p.add_argument("--chunk", type=int, default=256)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--repeats", type=int, default=5)
    options = p.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)

    def unit(rows: int) -> torch.Tensor:
        return torch.nn.functional.normalize(torch.randn(rows, options.width), dim=-1)

    q, g = options.queries, options.gallery
    queries = FeatureSet(
        {
            "vector": unit(q),
            "em_query": unit(q),
            "em_attention": torch.rand(q, options.width),
            "background": unit(q),
        }
    )
    targets = FeatureSet({"vector": unit(g), "background": unit(g)})
    draw = np.random.default_rng(0)
    target, reference = draw.integers(0, g, q), draw.integers(0, g, q)

    def plain() -> None:
        torch.topk(queries["vector"] @ targets["vector"].T, 50, dim=1)

    def ranks() -> None:
        found = np.empty(q, dtype=np.int64)
        for start in range(0, q, options.chunk):
            rows = slice(start, start + options.chunk)
            found[rows] = rank_of_target(score(queries.select(rows), targets).numpy(), target[rows], reference[rows])

    def lists() -> None:
        for start in range(0, q, options.chunk):
            rows = slice(start, start + options.chunk)
            top_k(score(queries.select(rows), targets).numpy(), 50, reference[rows])

    def scores_alone() -> None:
        for start in range(0, q, options.chunk):
            score(queries.select(slice(start, start + options.chunk)), targets)

    print(f"{q} queries x {g} images, width {options.width}, chunks of {options.chunk}, {options.threads} threads")
    score(queries.select(slice(0, 4)), targets)  # the libraries' own buffers are not the ranking's
    before = _resident()
    ranks()
    print(f"memory above the features: {_peak() - before:.0f} MiB (all scores at once: {q * g * 4 / 2**20:.0f} MiB)")
    base = _best(plain, options.repeats)
    print(f"{'':24} {'wall':>10} {'CPU':>10}   CPU / plain")
    for name, work in (
        ("plain product + top 50", plain),
        ("full score", scores_alone),
        ("full score + ranks", ranks),
        ("full score + top 50", lists),
    ):
        wall, cpu = _best(work, options.repeats)
        print(f"{name:24} {wall * 1000:7.0f} ms {cpu * 1000:7.0f} ms   {cpu / base[1]:.2f}")


def _best(work: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Least wall and least processor seconds (all threads; what other programs take does not count) of a call."""
    walls, cpus = [], []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return min(walls), min(cpus)


def _resident() -> float:
    return psutil.Process().memory_info().rss / 2**20


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
