"""Checkpoints of several ranks: what they write together, what they say together, and what damage is noticed."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch

from neucore_xl.errors import UserError
from neucore_xl.parallel.world import World
from neucore_xl.runs.checkpoints import find
from neucore_xl.runs.checkpoints.checkpoint import Checkpoint, Contents, Identity, writing_rank
from neucore_xl.runs.checkpoints.find import latest
from neucore_xl.runs.checkpoints.save import save_together
from neucore_xl.runs.checkpoints.universal import needs_universal
from neucore_xl.runs.checkpoints.weights import stored_state, write_weights
from tests.support.saving import save_weights

IDENTITY = Identity("neucore-xl", "b" * 64, "v" * 64)


class Threads:
    """The ranks of a world as threads of this process, which meet in every collective operation."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._barrier = threading.Barrier(count, timeout=60)
        self._slots: list[Any] = [None] * count

    def meet(self, rank: int, value: Any) -> list[Any]:
        self._slots[rank] = value
        self._barrier.wait()
        values = list(self._slots)
        self._barrier.wait()
        return values

    def run(self, function: Callable[[World], Any]) -> list[Any]:
        """What ``function`` returned or raised on every rank."""
        results: list[Any] = [None] * self.count

        def one(rank: int) -> None:
            try:
                results[rank] = function(ThreadWorld(rank, self))
            except Exception as error:
                results[rank] = error

        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(self.count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        return results


class ThreadWorld(World):
    def __init__(self, rank: int, threads: Threads) -> None:
        super().__init__(rank, threads.count, rank, f"node{rank}")
        self._threads = threads

    def gather(self, value: Any) -> list[Any]:
        return self._threads.meet(self.rank, value)

    def broadcast(self, value: Any) -> Any:
        return self._threads.meet(self.rank, value)[0]

    def any_of(self, flags: int) -> int:
        found = 0
        for value in self._threads.meet(self.rank, flags):
            found |= value
        return found


def shards(world: World) -> Callable[[Path], None]:
    """What DeepSpeed's stage 2 writes, by name."""

    def write(folder: Path) -> None:
        state = folder / "zero" / "state"
        state.mkdir(parents=True, exist_ok=True)
        torch.save({"rank": world.rank}, state / f"zero_pp_rank_{world.rank}_mp_rank_00_optim_states.pt")
        if world.is_main:
            torch.save({"module": {}}, state / "mp_rank_00_model_states.pt")

    return write


def put(folder: Path, step: int, ranks: int = 3, **more: Any) -> list[Any]:
    def one(world: World) -> Checkpoint:
        contents = Contents(
            step,
            IDENTITY,
            strategy="deepspeed",
            zero_stage=2,
            extra={"step": step},
            rank_extra={"random": torch.full((2,), float(world.rank))},
            tensors={"head.weight": [2, 3]},
        )
        write = more.get("write", shards)(world)
        return save_together(folder, world, contents, write, keep=more.get("keep", 2), best=more.get("best", False))

    return Threads(ranks).run(one)


FILES = [
    "manifest.json",
    "rank-00000.pt",
    "rank-00001.pt",
    "rank-00002.pt",
    "training.pt",
    "zero/state/mp_rank_00_model_states.pt",
    "zero/state/zero_pp_rank_0_mp_rank_00_optim_states.pt",
    "zero/state/zero_pp_rank_1_mp_rank_00_optim_states.pt",
    "zero/state/zero_pp_rank_2_mp_rank_00_optim_states.pt",
]


def test_all_ranks_write_one_checkpoint_and_get_it(tmp_path: Path) -> None:
    saved = put(tmp_path, 5, best=True)
    assert all(isinstance(found, Checkpoint) for found in saved), saved
    path = tmp_path / "step-00000005"
    assert sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()) == FILES
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best.json", "latest.json", "step-00000005"]
    assert {found.path for found in saved} == {path}
    found = latest(tmp_path)
    assert found is not None
    assert (found.strategy, found.zero_stage, found.world_size) == ("deepspeed", 2, 3)
    assert sorted(found.manifest["files"]) == FILES[1:]
    assert found.manifest["parallel"]["deepspeed"]
    for rank in range(3):
        own = found.rank_extra(rank)
        assert own is not None
        assert own["random"].tolist() == [rank, rank]
    assert found.rank_extra(3) is None
    assert found.extra() == {"step": 5}


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_a_damaged_shard_is_named_and_all_ranks_take_the_checkpoint_before(
    tmp_path: Path, file: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path, 1)
    put(tmp_path, 2)
    path = tmp_path / "step-00000002" / file
    content = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        content[0 if file == "manifest.json" else len(content) // 2] ^= 255
        path.write_bytes(content)
    found = Threads(2).run(lambda world: latest(tmp_path, world))
    assert [checkpoint.step for checkpoint in found] == [1, 1]
    assert caplog.text.count("step-00000002 is damaged") == 1
    if file != "manifest.json":
        assert file in caplog.text


def test_a_checkpoint_without_its_manifest_does_not_count(tmp_path: Path) -> None:
    """A folder copied by hand in part, or written by something else."""
    put(tmp_path, 1)
    (tmp_path / "step-00000009" / "zero").mkdir(parents=True)
    assert latest(tmp_path).step == 1  # type: ignore[union-attr]


def test_a_manifest_of_a_newer_format_is_refused_in_words(tmp_path: Path) -> None:
    put(tmp_path, 1)
    path = tmp_path / "step-00000001" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    with pytest.raises(UserError, match="written by a newer neucore-xl"):
        find.at_step(tmp_path, 1)


def test_a_checkpoint_of_format_1_still_loads(tmp_path: Path) -> None:
    weights = {"head.weight": torch.ones(2, 3)}
    path = save_weights(tmp_path, 4, weights, IDENTITY, extra={"random": 1}).path / "manifest.json"
    old = json.loads(path.read_text())
    del old["parallel"]
    path.write_text(json.dumps(old | {"format": 1}))
    found = latest(tmp_path)
    assert found is not None
    assert (found.strategy, found.zero_stage, found.world_size, found.sharded) == ("plain", 0, 1, False)
    assert torch.equal(found.weights()["head.weight"], weights["head.weight"])
    assert found.extra() == {"random": 1}
    assert found.rank_extra(0) is None


@pytest.mark.parametrize("who", [0, 1, 2])
def test_the_full_disk_of_one_rank_is_one_sentence_on_all_and_keeps_the_old_checkpoint(
    tmp_path: Path, who: int
) -> None:
    put(tmp_path, 1)

    def failing(world: World) -> Callable[[Path], None]:
        def write(folder: Path) -> None:
            shards(world)(folder)
            if world.rank == who:
                raise OSError(28, "No space left on device")

        return write

    found = put(tmp_path, 2, write=failing)
    assert all(isinstance(error, UserError) for error in found), found
    assert len({str(error) for error in found}) == 1
    assert "disk full" in str(found[0])
    assert f"rank {who} on node{who}" in str(found[0])
    assert "\n" not in str(found[0])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latest.json", "step-00000001"]
    assert latest(tmp_path).step == 1  # type: ignore[union-attr]


def test_a_folder_that_one_rank_does_not_see_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run lies on a disk that not all nodes share."""
    seen = Path.is_dir

    def elsewhere(self: Path) -> bool:
        return not threading.current_thread().name.endswith("-blind") and seen(self)

    def write(world: World) -> Callable[[Path], None]:
        return shards(world)

    def one(world: World) -> Checkpoint:
        if world.rank == 1:
            threading.current_thread().name += "-blind"
        return save_together(tmp_path, world, Contents(1, IDENTITY, rank_extra={}), write(world))

    monkeypatch.setattr(Path, "is_dir", elsewhere)
    found = Threads(2).run(one)
    assert all("put the run on a disk all nodes share" in str(error) for error in found), found
    assert not list(tmp_path.glob("step-*"))


def test_rank_0_rotates_and_keeps_the_best(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        put(tmp_path, step, ranks=2, best=step == 1)
    assert sorted(p.name for p in tmp_path.glob("step-*")) == ["step-00000001", "step-00000003", "step-00000004"]


def test_ddp_keeps_the_files_of_one_process_and_adds_random_states(tmp_path: Path) -> None:
    model = torch.nn.Module()
    model.backbone = torch.nn.Linear(2, 2).requires_grad_(False)
    model.head = torch.nn.Linear(2, 3)

    def one(world: World) -> Checkpoint:
        def write(into: Path) -> dict[str, Any]:
            if world.is_main:
                write_weights(stored_state(model, model.backbone), into)
            return {"rate": 0.5}

        contents = Contents(1, IDENTITY, strategy="ddp", extra={"e": 1}, rank_extra={"rank": world.rank})
        return save_together(tmp_path, world, contents, write)

    found = Threads(2).run(one)[0]
    assert sorted(p.name for p in found.path.iterdir()) == [
        "manifest.json",
        "model.safetensors",
        "rank-00000.pt",
        "rank-00001.pt",
        "training.pt",
    ]
    assert (found.strategy, found.world_size, found.zero_stage) == ("ddp", 2, 0)
    assert sorted(found.weights()) == ["head.bias", "head.weight"]
    assert found.rank_extra(1) == {"rank": 1}
    assert found.extra() == {"e": 1, "engine": {"rate": 0.5}}


@pytest.mark.parametrize(
    ("name", "rank"),
    [
        ("rank-00012.pt", 12),
        ("zero/state/zero_pp_rank_7_mp_rank_00_model_states.pt", 7),
        ("zero/state/bf16_zero_pp_rank_3_mp_rank_00_optim_states.pt", 3),
        ("zero/state/offloaded_tensors/rank02/group0.swp", 2),
        ("zero/state/mp_rank_00_model_states.pt", 0),
        ("training.pt", 0),
        ("model.safetensors", 0),
    ],
)
def test_every_file_has_one_rank_that_adds_it_up(name: str, rank: int) -> None:
    assert writing_rank(name) == rank


@pytest.mark.parametrize(
    ("stage", "size", "to_stage", "to_size", "needed"),
    [
        (2, 2, 2, 2, False),
        (2, 2, 2, 4, True),
        (2, 2, 3, 2, True),
        (3, 4, 3, 1, True),
        (0, 2, 0, 4, False),
        (3, 2, 0, 2, False),
        (0, 2, 1, 2, True),
    ],
)
def test_the_universal_form_is_needed_where_shards_do_not_fit(
    tmp_path: Path, stage: int, size: int, to_stage: int, to_size: int, needed: bool
) -> None:
    parallel = {"strategy": "deepspeed", "zero_stage": stage, "world_size": size}
    found = Checkpoint(tmp_path, 1, IDENTITY, {}, {"parallel": parallel, "files": {}})
    assert needs_universal(found, to_size, to_stage) is needed
    plain = Checkpoint(tmp_path, 1, IDENTITY, {}, {"files": {}})
    assert needs_universal(plain, to_size, to_stage) is (to_stage > 0)


def test_the_kernels_refusal_while_a_rank_writes_its_random_state_is_one_sentence(
    tmp_path: Path, file_limit: Callable[[int], AbstractContextManager[None]]
) -> None:
    put(tmp_path, 1)
    with file_limit(10):
        found = put(tmp_path, 2, write=lambda world: lambda folder: None)
    assert all("disk full" in str(error) for error in found), found
    assert latest(tmp_path).step == 1  # type: ignore[union-attr]
