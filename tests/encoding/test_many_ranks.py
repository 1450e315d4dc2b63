"""Two and three processes that encode and compute features together find what one process finds, to the bit.

Slow: two and three processes, each of which builds and scores six systems, ten seconds of a core for each; only
processes of their own exchange features.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from neucore_xl.config.load import dump_yaml, validate
from neucore_xl.config.schema import Settings
from neucore_xl.parallel.world import ALONE
from tests.support.forks import Forks

pytestmark = pytest.mark.slow
WORKER = Path(__file__).with_name("rank_worker.py")
spec = importlib.util.spec_from_file_location("rank_worker", WORKER)
assert spec is not None
assert spec.loader is not None
rank_worker = importlib.util.module_from_spec(spec)
spec.loader.exec_module(rank_worker)

PIXELS = {"train": {"cache_features": False}}
CASES: dict[str, dict[str, dict[str, Any]]] = {
    "cached": {},
    "pixels": PIXELS,
    "filled": {},
    "filled-apart": {},
    "one-reads-less": {},
    "zero-3": PIXELS | {"backbone": {"freeze": "none"}},
    "unsharded": PIXELS | {"backbone": {"freeze": "none"}},
}
Ask = Callable[[str, Path], Settings]


@pytest.fixture(scope="module")
def ask(larger_root: Path, tower_config: Path) -> Ask:
    """``ask(case, cache)``: 12 pictures in chunks of 5, 5 and 2, and 8 queries in chunks of 5 and 3."""

    def settings(case: str, cache: Path) -> Settings:
        tree: dict[str, dict[str, Any]] = {
            "data": {"root": str(larger_root), "workers": 0},
            "backbone": {"config": str(tower_config), "name": "tiny-random", "pretrained": None},
            "model": {"name": "neucore-xl", "width": 16, "heads": 2},
            "train": {"device": "cpu", "batch_size": 4, "cache_dir": str(cache / case)},
            "evaluation": {"batch_size": 5},
        }
        for section, values in CASES[case].items():
            tree[section] |= values
        return validate(tree)

    return settings


@pytest.fixture(scope="module", params=[2, 3])
def ranks(
    request: pytest.FixtureRequest, ask: Ask, forks: Forks, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    """What each of two, and of three, processes found, by case.

    Three have more members than there are chunks of queries: one only keeps the others company.
    """
    pytest.importorskip("deepspeed")
    count: int = request.param
    out = tmp_path_factory.mktemp(f"ranks-{count}")
    for case in CASES.keys() - {"unsharded"}:
        (out / f"{case}.yaml").write_text(dump_yaml(ask(case, out / "cache")))
    forks.together([WORKER, out], count, GLOO_SOCKET_IFNAME="lo", DS_ACCELERATOR="cpu")
    return [torch.load(out / f"rank-{rank}.pt", weights_only=False) for rank in range(count)]


@pytest.fixture(scope="module")
def alone(ask: Ask, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Any]]:
    """``alone(case)``: what one process finds, on as many threads as the others have each."""
    found: dict[str, dict[str, Any]] = {}

    def run(case: str) -> dict[str, Any]:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            if case not in found:
                found[case] = rank_worker.CASES[case](ask(case, tmp_path_factory.mktemp("alone")), ALONE)
            return found[case]
        finally:
            torch.set_num_threads(threads)

    return run


def same(found: dict[str, Any], expected: dict[str, Any], *kinds: str) -> None:
    for kind in kinds:
        assert found[kind].keys() == expected[kind].keys()
        for name, value in expected[kind].items():
            assert torch.equal(torch.as_tensor(found[kind][name]), torch.as_tensor(value)), (kind, name)


@pytest.mark.parametrize("case", ["cached", "pixels"])
def test_metrics_and_features_equal_those_of_one_process_to_the_bit(
    ranks: list[dict[str, Any]], alone: Callable, case: str
) -> None:
    expected = alone(case)
    assert len(expected["gallery"]["vector"]) == 12
    assert expected["steps"] > 1
    first, *others = (found[case] for found in ranks)
    same(first, expected, "metrics", "per_query", "gallery", "queries")
    for other in others:
        same(other, expected, "metrics", "per_query")
        assert len(other["gallery"]["vector"]) == 0


def test_shards_of_zero_3_evaluate_like_one_process(ranks: list[dict[str, Any]], alone: Callable) -> None:
    expected = alone("unsharded")
    for found in ranks:
        assert found["zero-3"]["whole"] == 0, "some parameter was not sharded, so this proves nothing"
        same(found["zero-3"], expected, "metrics", "per_query")


def test_a_cache_filled_by_many_ranks_equals_that_of_one(ranks: list[dict[str, Any]], alone: Callable) -> None:
    expected = alone("filled")
    found = [each["filled"] for each in ranks]
    assert sum(f["counted"] for f in found) == expected["counted"], "every key is computed by one rank"
    assert all(f["counted"] > 0 for f in found)
    for each in found:
        for name in ("tokens", "pooled", "words"):
            assert torch.equal(each[name], expected[name])


def test_ranks_that_share_no_cache_folder_compute_what_they_lack(ranks: list[dict[str, Any]], alone: Callable) -> None:
    expected = alone("filled")
    for each in (found["filled-apart"] for found in ranks):
        assert each["counted"] == expected["counted"]
        for name in ("tokens", "pooled", "words"):
            torch.testing.assert_close(each[name], expected[name])


def test_an_image_that_one_rank_cannot_read_is_everybodys_sentence(ranks: list[dict[str, Any]]) -> None:
    last = len(ranks) - 1
    sentences = {found["one-reads-less"]["error"] for found in ranks}
    assert len(sentences) == 1
    assert f"rank {last} on node-{last}: image " in sentences.pop()
