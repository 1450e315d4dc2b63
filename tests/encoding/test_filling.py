"""Ranks that fill one store together, played by threads: who computes what, and whose error it is."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from neucore_xl.data.batches import ImageFeatures
from neucore_xl.encoding.cache import FeatureCache
from neucore_xl.errors import UserError
from neucore_xl.parallel.world import World, in_step


class Thread(World):
    """A rank that is a thread: meets the others at a barrier instead of a process group."""

    def __init__(self, rank: int, table: list[Any], barrier: threading.Barrier) -> None:
        super().__init__(rank, len(table), rank, f"node-{rank}")
        self.table, self.barrier = table, barrier

    def gather(self, value: Any) -> list[Any]:
        self.table[self.rank] = value
        self.barrier.wait(60)
        found = list(self.table)
        self.barrier.wait(60)
        return found

    def broadcast(self, value: Any) -> Any:
        return self.gather(value)[0]

    def any_of(self, flags: int) -> int:
        found = 0
        for other in self.gather(flags):
            found |= other
        return found


def on_ranks(count: int, function: Callable[[World], Any]) -> list[Any]:
    """What ``function`` returned or raised on each of ``count`` ranks."""
    table, barrier = [None] * count, threading.Barrier(count)

    def one(rank: int) -> Any:
        try:
            return function(Thread(rank, table, barrier))
        except UserError as error:
            return str(error)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def chunks_of(size: int, asked: list[list[str]]) -> Callable[[list[str]], Iterator[tuple[list[str], ImageFeatures]]]:
    """An encoder of ``k<number>`` in chunks of ``size`` that remembers its chunks."""

    def encode(keys: list[str]) -> Iterator[tuple[list[str], ImageFeatures]]:
        for start in range(0, len(keys), size):
            chunk = keys[start : start + size]
            asked.append(chunk)
            numbers = torch.tensor([[float(key[1:])] for key in chunk])
            yield chunk, ImageFeatures(numbers[:, :, None], numbers)

    return encode


def cache_in(folder: Path) -> FeatureCache:
    return FeatureCache(folder, image_tower="i", transform="t", text_tower="w")


@pytest.mark.parametrize(("ranks", "count"), [(2, 12), (3, 17), (3, 4)])
def test_ranks_encode_the_chunks_of_one_process_each_once(tmp_path: Path, ranks: int, count: int) -> None:
    keys = [f"k{i}" for i in range(count)]
    alone: list[list[str]] = []
    cache_in(tmp_path / "one").fill_images([*keys, "k0"], chunks_of(5, alone), batch=5)

    def fill(world: World) -> tuple[list[list[str]], float]:
        asked: list[list[str]] = []
        cache = cache_in(tmp_path / "many")
        assert cache.fill_images([*keys, "k0"], chunks_of(5, asked), world=world, batch=5) == count
        assert cache.fill_images(keys, chunks_of(5, asked), world=world, batch=5) == 0
        return asked, cache.image_rows(keys).pooled[:, 0].tolist()

    found = on_ranks(ranks, fill)
    assert [chunk for asked, _ in found for chunk in asked] == alone
    assert max(len(asked) for asked, _ in found) - min(len(asked) for asked, _ in found) <= 1
    assert all(values == [float(i) for i in range(count)] for _, values in found)


def test_a_rank_whose_cache_folder_is_another_computes_what_it_lacks(tmp_path: Path) -> None:
    keys = [f"k{i}" for i in range(7)]

    def fill(world: World) -> list[str]:
        asked: list[list[str]] = []
        cache = cache_in(tmp_path / f"node-{world.rank}")
        cache.fill_images(keys, chunks_of(2, asked), world=world, batch=2)
        assert cache.image_rows(keys).pooled[:, 0].tolist() == [float(i) for i in range(7)]
        return [key for chunk in asked for key in chunk]

    assert [sorted(asked) for asked in on_ranks(2, fill)] == [keys, keys]


@pytest.mark.parametrize("shared", [True, False])
def test_ranks_share_the_examination_and_compute_what_is_damaged_once(
    tmp_path: Path, shared: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a folder that all see, and of one a rank, where the others' shards are whole."""
    keys = [f"k{i}" for i in range(9)]
    folders = [tmp_path / ("one" if shared else f"node-{rank}") for rank in range(3)]
    for folder in set(folders):
        for first in range(0, 9, 3):
            cache_in(folder).fill_images(keys[first : first + 3], chunks_of(3, []))
    path = sorted(cache_in(folders[1]).images.folder.glob("shard-*"))[1] / "pooled.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)

    def fill(world: World) -> list[str]:
        asked: list[list[str]] = []
        cache = cache_in(folders[world.rank])
        cache.fill_images(keys, chunks_of(1, asked), world=world, batch=1)
        assert not cache.images.unexamined(keys)
        assert cache.image_rows(keys).pooled[:, 0].tolist() == [float(i) for i in range(9)]
        return [key for chunk in asked for key in chunk]

    computed = on_ranks(3, fill)
    assert sorted(key for keys in computed for key in keys) == ["k3", "k4", "k5"]
    assert len([r for r in caplog.records if "is damaged" in r.getMessage()]) == 1
    assert not path.exists()


def test_an_error_of_one_rank_ends_the_endless_work_of_the_others_with_its_sentence() -> None:
    closed = []

    def work(world: World) -> Generator[None, None, None]:
        try:
            while True:
                if world.rank == 1:
                    raise UserError("image x cannot be decoded.")
                yield
        finally:
            closed.append(world.rank)

    sentences = on_ranks(3, lambda world: in_step(world, work(world), beat=0.01))
    assert sentences == ["rank 1 on node-1: image x cannot be decoded."] * 3
    assert sorted(closed) == [0, 1, 2]


def test_nobody_goes_on_before_the_last_is_done() -> None:
    done = []

    def work(world: World) -> Generator[None, None, None]:
        for _ in range(5 * world.rank):
            yield
        done.append(world.rank)

    def run(world: World) -> int:
        in_step(world, work(world), beat=0.0)
        return len(done)

    assert on_ranks(3, run) == [3, 3, 3]
