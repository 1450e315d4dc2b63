"""The planner's model states against the tensors that ranks of real DeepSpeed runs hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from neucore_xl.config.load import load_settings
from neucore_xl.sizing.meta import meta_composer
from neucore_xl.sizing.states import Sizes, states
from neucore_xl.training.engines.deepspeed_file import find_config, read_config
from neucore_xl.training.engines.strategy import Strategy
from tests.support.forks import Forks

WORKER = Path(__file__).with_name("plan_worker.py")
# No parameter is a large part of the whole: one that lies across two shards is held by both ranks.
TOWERS = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 32, "layers": 6, "width": 192, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 2},
}
CASES = ["zero1,fp32", "zero1,bf16", "zero2,fp32", "zero2,bf16", "zero3,fp32", "zero3,bf16"]
# How a precision is held does not depend on the number of ranks: on four, each file and each precision comes once more.
CASES_OF = {1: CASES, 2: CASES, 4: ["zero1,fp32", "zero2,bf16", "zero3,bf16"]}
SMALL = {"reduce_bucket_size": 1000}
SHARDED = {f"stage3_{name}": 0 for name in ("param_persistence_threshold", "max_live_parameters",
                                            "max_reuse_distance", "prefetch_bucket_size")}  # fmt: skip


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plan")
    (folder / "towers.json").write_text(json.dumps(TOWERS))
    path = folder / "recipe.yaml"
    path.write_text(
        f"backbone: {{config: {folder / 'towers.json'}, pretrained: null, freeze: {{image: 2, text: 0}}}}\n"
        "model: {width: 64, heads: 4}\ntrain: {device: cpu}\n"
        "fusion: {max_steps: 2}\n"  # steps hold no states of their own, and each gathers the shards of ZeRO 3 again
    )
    return path


def run(recipe: Path, world: int, cases: list[str], out: Path, forks: Forks) -> list[dict[str, Any]]:
    forks.together([WORKER, recipe, out, *cases], world, LOCAL_SIZE=str(world), DS_ACCELERATOR="cpu")
    return [json.loads(Path(f"{out}.{rank}.json").read_text()) for rank in range(world)]


@pytest.mark.slow
@pytest.mark.parametrize("world", CASES_OF)
def test_the_states_of_the_ranks_are_within_5_percent_of_the_plan(
    world: int, recipe: Path, forks: Forks, tmp_path: Path
) -> None:
    """Slow: a rank runs DeepSpeed up to six times, a second of a core each; only its own buffers show what it holds."""
    cases = CASES_OF[world]
    measured = run(recipe, world, cases, tmp_path / "held", forks)
    for case in cases:
        file, precision = case.split(",")
        settings = load_settings(str(recipe), [f"train.precision={precision}"])
        composer, backbone = meta_composer(settings, 50)
        sizes = Sizes.of(composer, backbone, settings.train)
        path = find_config(Path(f"ds_configs/{file}.json"))
        config = read_config(path)
        config["zero_optimization"] |= SMALL | (SHARDED if file == "zero3" else {})
        planned = states(sizes, Strategy("deepspeed", config, path), world, bf16=precision == "bf16")
        ranks = [m[case] for m in measured]
        print(f"{case} on {world}: planned {planned}, held {ranks}")
        assert [held["parameters"] for held in ranks] == pytest.approx([planned.parameters] * world, rel=0.05)
        assert [held["optimizer"] for held in ranks] == pytest.approx([planned.optimizer] * world, rel=0.05)
        # ZeRO 1 has all gradients before it reduces them; the fullest rank is planned for
        kind = "arrived" if file == "zero1" else "gradients"
        assert max(held[kind] for held in ranks) == pytest.approx(planned.gradients, rel=0.05)
