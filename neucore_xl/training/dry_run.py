"""What a training run would be, without weights, data or a run folder: settings, plan and shapes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from rich.console import Console
from torch import Tensor

from neucore_xl.config.load import dump_yaml
from neucore_xl.config.schema import Settings
from neucore_xl.data.batches import ImageFeatures, TextFeatures
from neucore_xl.training.plan import Cluster, Plan, make_plan
from neucore_xl.training.plan_print import plan_lines
from neucore_xl.training.rehearsal import rehearse
from neucore_xl.training.shapes import columns_per_query
from neucore_xl.training.strategy import choose_strategy


def present_cluster(
    nodes: int | None, gpus: int | None, gpu_memory: float, environ: Mapping[str, str] = os.environ
) -> Cluster:
    """The machines that were named, else those of the launcher that started this process, else one GPU."""
    if nodes is None and gpus is None:
        ranks = int(environ.get("WORLD_SIZE") or environ.get("SLURM_NTASKS") or 1)
        nodes = int(environ.get("SLURM_JOB_NUM_NODES") or 1)
        nodes = nodes if ranks % nodes == 0 else 1
        return Cluster(nodes, ranks // nodes, gpu_memory)
    return Cluster(nodes or 1, gpus or 1, gpu_memory)


def dry_run(
    settings: Settings,
    cluster: Cluster,
    console: Console,
    *,
    recipe: str,
    overrides: Sequence[str] = (),
) -> Plan:
    """Print the resolved settings, the strategy, the shapes of one training forward and the plan on ``cluster``.

    Raises ``UserError`` for everything that a run would refuse before it opens data or weights.
    """
    strategy = choose_strategy(settings.train, cluster.ranks, environ={})
    plan = make_plan(settings, cluster, recipe, overrides)

    def say(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True, markup=False)

    say(dump_yaml(settings))
    stage = f", ZeRO {strategy.stage}" if strategy.config is not None else ""
    say(f"strategy: {strategy.name}{stage} on {cluster.ranks} processes")
    half = strategy.config is not None and settings.train.precision == "bf16"
    for name, value in shapes(settings, plan.micro_batch, plan.local_batch * cluster.ranks, half=half).items():
        say(f"{name:<12} {value}")
    say(f"trained      {plan.trained:,} of {plan.parameters:,} parameters")
    say("")
    for line in plan_lines(plan):
        say(line)
    return plan


def shapes(settings: Settings, queries: int, gathered: int, *, half: bool) -> dict[str, str]:
    """Shapes of one training forward of ``queries`` and of its loss over ``gathered`` queries of all processes."""
    rehearsal = rehearse(settings, bf16_parameters=half)
    batch, output = rehearsal.shapes(queries)
    backbone, found = rehearsal.backbone, {}
    images = batch.images
    if isinstance(images, ImageFeatures):
        found["images"] = f"cached tokens {_shape(images.tokens)}, pooled {_shape(images.pooled)}"
    else:
        tokens = [len(images), backbone.n_tokens, backbone.token_width]
        found["images"] = f"pixels {_shape(images)}, tokens {tokens}"
    for name, texts in (("sentences", batch.texts), ("short texts", batch.sequence.short_texts)):
        kind = "cached words" if isinstance(texts, TextFeatures) else "ids"
        found[name] = f"{kind} {_shape(texts.words if isinstance(texts, TextFeatures) else texts)}"
    found["queries"] = ", ".join(f"{name} {_shape(t)}" for name, t in output.queries.items())
    found["targets"] = ", ".join(f"{name} {_shape(t)}" for name, t in output.targets.items())
    found["logits"] = f"{[queries, gathered * columns_per_query(settings)]}"
    if output.concept_logits is not None:
        found["concepts"] = f"logits {_shape(output.concept_logits)} (the vocabulary's size is assumed)"
    return found


def _shape(tensor: Tensor) -> list[int]:
    return list(tensor.shape)
