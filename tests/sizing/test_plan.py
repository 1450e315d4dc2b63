"""The planner: its rehearsal against real tensors, what it recommends, its advice and its refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from neucore_xl import terminal
from neucore_xl.cli import main
from neucore_xl.config.schema import Settings
from neucore_xl.errors import UserError
from neucore_xl.models.backbone import build_backbone
from neucore_xl.models.registry import composer_of
from neucore_xl.sizing.blank import VOCABULARY, blank_batch, short_texts
from neucore_xl.sizing.dry_run import dry_run, plan_lines, present_cluster
from neucore_xl.sizing.meta import meta_composer
from neucore_xl.sizing.plan import Cluster, Plan, make_plan
from neucore_xl.sizing.rehearsal import Meter, Rehearsal
from neucore_xl.sizing.states import Sizes
from neucore_xl.training.losses import objective

Tiny = Callable[..., Settings]
TRAINED = "backbone.freeze=none"


def rehearsal(settings: Settings, *, gpu: bool = False, half: bool = False) -> Rehearsal:
    composer, backbone = meta_composer(settings, VOCABULARY)
    return Rehearsal(composer, backbone, settings, gpu=gpu, bf16_parameters=half)


@pytest.mark.parametrize("more", [[], ["train.precision=bf16"], ["backbone.activation_checkpointing=true"]])
@pytest.mark.parametrize("freeze", ["none", "all", "{image: 1, text: 1}"])
def test_a_rehearsal_holds_what_a_real_step_holds(tiny: Tiny, freeze: str, more: list[str]) -> None:
    settings = tiny(f"backbone.freeze={freeze}", "model.dropout=0", *more)
    backbone = build_backbone(settings.backbone)
    concepts = torch.zeros(VOCABULARY, backbone.embed_dim)
    composer = composer_of(settings, backbone, lambda: concepts).train()
    for parameter in composer.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
    with Meter([*composer.parameters(), *composer.buffers()]) as real:
        batch = blank_batch(settings, backbone, 3)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=settings.train.precision == "bf16"):
            output = composer("train", batch)
        objective(composer, output, batch, settings.loss).total.backward()
        del output, batch
    assert real.peak > 1e5
    assert rehearsal(settings).activations(3) == pytest.approx(real.peak, rel=0.02)


@pytest.mark.slow
def test_activations_grow_with_the_queries_and_shrink_where_less_is_kept(tiny: Tiny) -> None:
    """Slow: nine seconds of rehearsing four steps; that bytes fall is seen only by counting both."""
    whole = rehearsal(tiny(TRAINED))
    assert whole.activations(4) < whole.activations(8) < 2.2 * whole.activations(4)
    assert rehearsal(tiny(TRAINED, "backbone.activation_checkpointing=true")).activations(8) < whole.activations(8)
    assert rehearsal(tiny("backbone.freeze=all")).activations(8) < whole.activations(8)


def test_a_gpu_keeps_no_attention_matrix_under_dropout(tiny: Tiny) -> None:
    settings = tiny("model.dropout=0.1")
    assert rehearsal(settings, gpu=True).activations(8) < rehearsal(settings, gpu=False).activations(8)


def test_the_features_of_all_processes_are_counted(tiny: Tiny) -> None:
    alone, many = rehearsal(tiny()), rehearsal(tiny())
    one, eight = alone.contrast(8, 1), many.contrast(8, 8)
    assert one < eight < 16 * one
    assert rehearsal(tiny("loss.subset_negatives=2")).contrast(8, 8) > eight


def test_the_content_of_a_batch_never_shrinks_with_its_queries() -> None:
    counts = [short_texts(n) for n in range(1, 4000)]
    assert counts == sorted(counts)


def test_sizes_are_those_of_the_real_model(tiny: Tiny) -> None:
    settings = tiny("backbone.freeze={image: 1, text: 0}")
    composer, backbone = meta_composer(settings, 7)
    sizes = Sizes.of(composer, backbone, settings.train)
    real_backbone = build_backbone(settings.backbone)
    real = composer_of(settings, real_backbone, lambda: torch.zeros(7, real_backbone.embed_dim))
    assert sizes.total == sum(p.numel() for p in real.parameters())
    assert sizes.trained == sum(p.numel() for p in real.parameters() if p.requires_grad)


def planned(settings: Settings, *cluster: float) -> Plan:
    nodes, gpus, memory = cluster
    return make_plan(settings, Cluster(int(nodes), int(gpus), memory), "recipe", ["train.lr=1e-4"])


def total(plan: Plan, strategy: str) -> int:
    return next(row.total for row in plan.rows if row.strategy == strategy)


def test_the_strategy_with_the_least_communication_that_fits_is_recommended(tiny: Tiny) -> None:
    settings = tiny(TRAINED, "train.batch_size=32", "train.micro_batch=1")
    roomy = planned(settings, 2, 8, 80)
    assert [row.strategy for row in roomy.rows][:3] == ["ddp", "zero1", "zero2"]
    assert "zero3_hpz" in [row.strategy for row in roomy.rows]
    assert roomy.recommended is not None
    assert roomy.recommended.strategy == "ddp"
    assert (
        roomy.command
        == "sbatch --nodes=2 --gpus-per-node=8 slurm/train.sbatch recipe --run-dir runs/recipe train.lr=1e-4"
    )


@pytest.mark.slow
def test_the_next_strategy_is_recommended_where_whole_copies_do_not_fit(tiny: Tiny, tmp_path: Path) -> None:
    """Slow: four seconds; the states must outweigh the buckets, which takes a wide model."""
    wide = tmp_path / "wide.json"  # enough parameters for its states to outweigh the buckets of the shipped files
    vision = {"image_size": 32, "layers": 3, "width": 1024, "head_width": 64, "patch_size": 16}
    text = {"context_length": 8, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 1}
    wide.write_text(json.dumps({"embed_dim": 64, "vision_cfg": vision, "text_cfg": text}))
    settings = tiny(TRAINED, f"backbone.config={wide}", "train.precision=bf16", "train.batch_size=16")
    roomy = planned(settings, 2, 8, 80)
    assert total(roomy, "zero3") < total(roomy, "zero1") < total(roomy, "ddp")
    assert total(roomy, "zero2_offload") < total(roomy, "zero2") < total(roomy, "zero1")
    tight = make_plan(settings, replace(roomy.cluster, gpu_memory=total(roomy, "zero2") * 1.01 / 0.9e9), "recipe")
    assert tight.recommended is not None
    assert tight.recommended.strategy == "zero2"
    assert tight.command is not None
    assert tight.command.endswith("train.deepspeed=ds_configs/zero2.json")


def test_a_recipes_own_file_is_not_repeated_and_another_is_named(tiny: Tiny) -> None:
    settings = tiny(TRAINED, "train.deepspeed=ds_configs/zero2.json")
    plan = planned(settings, 1, 2, 80)
    assert plan.command is not None
    assert plan.command.endswith("train.deepspeed=null")
    assert planned(settings, 1, 1, 80).rows[0].strategy == "plain"


@pytest.mark.slow
def test_where_nothing_fits_the_largest_micro_batch_that_does_is_named(tiny: Tiny) -> None:
    """Slow: seven seconds of rehearsing a step at six sizes, which is what the search of the largest one does."""
    settings = tiny(TRAINED, "train.batch_size=64")
    at_one = planned(tiny(TRAINED, "train.batch_size=64", "train.micro_batch=8"), 1, 1, 80)
    memory = min(total(at_one, s) for s in ("plain", "zero2")) * 1.02 / 0.9e9
    plan = planned(settings, 1, 1, memory)
    assert plan.recommended is None
    assert plan.command is None
    assert any("train.micro_batch=" in line for line in plan.advice), plan.advice
    named = int(next(line for line in plan.advice if "micro_batch" in line).split("micro_batch=")[1].split()[0])
    assert 64 % named == 0
    assert planned(tiny(TRAINED, "train.batch_size=64", f"train.micro_batch={named}"), 1, 1, memory).recommended
    assert any("nothing fits" in line for line in plan_lines(plan))


@pytest.mark.parametrize(
    ("more", "gpus", "said"),
    [
        (["train.batch_size=8"], 3, "3 processes do not divide a batch of 8 queries"),
        (["train.batch_size=16", "train.micro_batch=3"], 2, "train.micro_batch=3 does not divide the 8 queries"),
        (["train.deepspeed=ds_configs/zero4.json"], 1, "does not exist"),
        (["train.deepspeed=ds_configs/zero3_hpz.json"], 4, "needs several times as many processes"),
    ],
)
def test_what_cannot_run_is_one_sentence(tiny: Tiny, more: list[str], gpus: int, said: str) -> None:
    with pytest.raises(UserError, match=said):
        planned(tiny(*more), 1, gpus, 80)


def test_a_dry_run_prints_settings_shapes_and_plan_and_makes_nothing(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    dry_run(tiny("data.root=nowhere"), Cluster(1, 2), terminal.console(width=200), recipe="tiny")
    said = capsys.readouterr().out
    for part in ("batch_size: 8", "strategy: ddp on 2 processes", "images", "queries", "targets", "logits       [4, 8]",
                 "trained", "recommended: ddp"):  # fmt: skip
        assert part in said, part
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_counts_the_processes_that_were_started() -> None:
    assert present_cluster(None, None, 80, {}).ranks == 1
    slurm = {"SLURM_NTASKS": "16", "SLURM_JOB_NUM_NODES": "2"}
    assert present_cluster(None, None, 80, slurm) == Cluster(2, 8, 80)
    assert present_cluster(4, 8, 80, slurm).ranks == 32


def test_the_commands_plan_and_dry_run(
    tiny_data: Path, tiny_overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = str(tiny_data / "recipe.yaml")
    for arguments, code in (
        (["plan", recipe, "--gpus-per-node", "2", "--json", str(tmp_path / "plan.json"), *tiny_overrides], 0),
        (["plan", recipe, "--gpu-memory", "0.001", *tiny_overrides], 1),
        (["train", recipe, "--dry-run", *tiny_overrides], 0),
        (["train", recipe, *tiny_overrides], 2),
    ):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == code, arguments
    assert "add --run-dir DIR" in capsys.readouterr().err
    found = json.loads((tmp_path / "plan.json").read_text())
    assert found["recommended"] == "ddp"
    assert found["rows"][0]["total"] > 0
