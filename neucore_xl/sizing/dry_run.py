"""What a training run would be, printed without weights, data or a run folder.

``neucore-xl plan`` prints the plan alone (``plan_lines``), ``train --dry-run`` settings, strategy and shapes before it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence

from rich.console import Console
from torch import Tensor

from neucore_xl.config.load import dump_yaml
from neucore_xl.config.schema import Settings
from neucore_xl.data.batches import ImageFeatures, TextFeatures
from neucore_xl.sizing.blank import columns_per_query
from neucore_xl.sizing.plan import HEADROOM, Cluster, Plan, Row, make_plan
from neucore_xl.sizing.rehearsal import rehearse
from neucore_xl.training.engines.strategy import choose_strategy

_COLUMNS = ("strategy", "params", "grads", "optim", "buffers", "activ.", "features", "total", "fits", "host/node")


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
        console.print(text, soft_wrap=True)

    say(dump_yaml(settings))
    say(f"strategy: {strategy.title} on {cluster.ranks} processes")
    half = strategy.bf16_parameters(settings.train)
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
        tokens = ", ".join(str(_shape(level)) for level in (*images.levels, images.tokens))
        found["images"] = f"cached tokens {tokens}, pooled {_shape(images.pooled)}"
    else:
        depths = zip(backbone.token_counts, backbone.token_widths, strict=True)
        tokens = ", ".join(str([len(images), n, d]) for n, d in depths)
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


def plan_lines(plan: Plan) -> Iterator[str]:
    """Heading, table in GB per GPU, recommendation and command, or what to change."""
    c = plan.cluster
    yield (
        f"{plan.recipe}: {plan.parameters / 1e6:,.0f} M parameters, {plan.trained / 1e6:,.1f} M trained; "
        f"{c.nodes} x {c.gpus} GPUs of {c.gpu_memory:g} GB"
    )
    yield (
        f"each GPU: {plan.local_batch} queries a step, {plan.micro_batch} a pass; "
        f"GB per GPU; at most {c.usable / 1e9:.1f} planned ({HEADROOM:.0%} left free)"
    )
    yield ""
    yield "  ".join([f"{_COLUMNS[0]:<14}", *(f"{name:>9}" for name in _COLUMNS[1:])])
    for row in plan.rows:
        yield _line(row, c.gpus)
    yield ""
    best = plan.recommended
    if best is None:
        yield "nothing fits as it is; what would:"
        yield from (f"- {line}" for line in plan.advice)
        return
    yield f"recommended: {best.strategy}, the least communication of those that fit"
    yield f"  {plan.command}"


def _shape(tensor: Tensor) -> list[int]:
    return list(tensor.shape)


def _line(row: Row, gpus: int) -> str:
    s = row.states
    figures = (s.parameters, s.gradients, s.optimizer, s.buckets + s.gathered, row.activations, row.features, row.total)
    host = f"{s.host * gpus / 1e9:9.1f}" if s.host else f"{'-':>9}"
    cells = [*(f"{figure / 1e9:9.2f}" for figure in figures), f"{'yes' if row.fits else 'no':>9}", host]
    return "  ".join([f"{row.strategy:<14}", *cells])
