"""What asks for which engine, and the wishes that contradict each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from neucore_xl.config.schema import TrainSettings
from neucore_xl.errors import UserError
from neucore_xl.parallel.world import World
from neucore_xl.training.engines.strategy import Strategy, choose_strategy, named_strategy
from neucore_xl.training.stream import Share

ZERO2 = Path(__file__).parents[3] / "ds_configs" / "zero2.json"
ACCELERATE = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(ZERO2)}


def settings(**values: Any) -> TrainSettings:
    return TrainSettings(device="cpu", **values)


@pytest.mark.parametrize(
    ("values", "ranks", "environ", "expected"),
    [
        ({}, 1, {}, "plain"),
        ({}, 4, {}, "ddp"),
        ({"strategy": "ddp"}, 2, {}, "ddp"),
        ({"deepspeed": ZERO2}, 1, {}, "deepspeed"),
        ({"deepspeed": ZERO2, "strategy": "deepspeed"}, 4, {}, "deepspeed"),
        ({}, 2, ACCELERATE, "deepspeed"),
        ({"deepspeed": ZERO2}, 2, ACCELERATE, "deepspeed"),
    ],
)
def test_the_strategy_follows_settings_launcher_and_number_of_processes(
    values: dict[str, Any], ranks: int, environ: dict[str, str], expected: str
) -> None:
    assert named_strategy(settings(**values), ranks, environ)[0] == expected


@pytest.mark.parametrize(
    ("values", "ranks", "environ", "sentence"),
    [
        ({"strategy": "plain"}, 2, {}, "plain is one process, but 2 were started"),
        ({"strategy": "deepspeed"}, 2, {}, "strategy=deepspeed needs a file"),
        ({"strategy": "ddp"}, 2, ACCELERATE, "asked for DeepSpeed .* but train.strategy=ddp"),
        ({"strategy": "plain"}, 1, ACCELERATE, "asked for DeepSpeed .* but train.strategy=plain"),
        ({"deepspeed": ZERO2.with_name("zero3.json")}, 2, ACCELERATE, "accelerate was given .*zero2.json, but"),
        ({"deepspeed": ZERO2, "compile": True}, 2, {}, r"train\.compile"),
    ],
)
def test_wishes_that_contradict_each_other_are_refused(
    values: dict[str, Any], ranks: int, environ: dict[str, str], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        named_strategy(settings(**values), ranks, environ)


def test_deepspeed_is_told_the_batch_the_clipping_and_the_precision_of_the_recipe() -> None:
    train = settings(deepspeed=ZERO2, batch_size=64, accumulate=2, clip_norm=0.0, precision="bf16")
    chosen = choose_strategy(train, 4, {})
    assert chosen.config is not None
    assert (chosen.name, chosen.stage) == ("deepspeed", 2)
    assert chosen.config["train_micro_batch_size_per_gpu"] == 8
    assert chosen.config["gradient_accumulation_steps"] == 1
    assert chosen.config["gradient_clipping"] == 0.0  # its own default would be 1
    assert chosen.config["bf16"]["enabled"] is True


def test_a_strategy_tells_how_it_shares() -> None:
    bf16 = settings(precision="bf16")
    chosen = choose_strategy(settings(deepspeed=ZERO2), 4, {})
    assert (chosen.title, chosen.label, chosen.needs_group) == ("deepspeed, ZeRO 2", "zero2", True)
    assert chosen.bf16_parameters(bf16)
    assert not chosen.bf16_parameters(settings())
    assert (chosen.second_copy, chosen.offload.optimizer, chosen.zero("reduce_bucket_size", 0)) == (1, "none", 1e8)
    plain = choose_strategy(settings(), 1, {})
    assert (plain.title, plain.label, plain.stage, plain.needs_group) == ("plain", "plain", 0, False)
    assert not plain.bf16_parameters(bf16)
    offloaded = Strategy("deepspeed", {"zero_optimization": {"stage": 3, "offload_param": {"device": "cpu"}}})
    assert (offloaded.stage, offloaded.offload.parameters, offloaded.offload.optimizer) == (3, "cpu", "none")


@pytest.mark.parametrize(
    ("values", "ranks", "expected"),
    [
        ({"batch_size": 64}, 4, (4, 1)),
        ({"batch_size": 64, "micro_batch": 4}, 4, (4, 4)),
        ({"batch_size": 64, "accumulate": 2, "micro_batch": 4}, 4, (4, 2)),
    ],
)
def test_a_process_takes_its_share(values: dict[str, Any], ranks: int, expected: tuple[int, int]) -> None:
    share = Share.of(settings(**values), World(2, ranks))
    assert (share.world_size, share.forwards) == expected
    assert list(share.own) == list(range(2 * share.forwards, 3 * share.forwards))
    assert share.parts == ranks * share.forwards


@pytest.mark.parametrize(
    ("values", "ranks", "sentence"),
    [
        ({"batch_size": 64}, 3, "3 processes do not divide a batch of 64 queries"),
        ({"batch_size": 64, "accumulate": 4}, 32, "32 processes do not divide a batch of 16"),
        ({"batch_size": 64, "micro_batch": 5}, 4, "micro_batch=5 does not divide the 16 queries of each process"),
    ],
)
def test_numbers_that_do_not_divide_are_named(values: dict[str, Any], ranks: int, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Share.of(settings(**values), World(0, ranks))
