"""A plan as lines of text that read the same in a terminal, a scheduler's log and a page."""

from __future__ import annotations

from collections.abc import Iterator

from neucore_xl.training.plan import HEADROOM, Plan, Row

_COLUMNS = ("strategy", "params", "grads", "optim", "buffers", "activ.", "features", "total", "fits", "host/node")


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
        yield _row(row, c.gpus)
    yield ""
    best = plan.recommended
    if best is None:
        yield "nothing fits as it is; what would:"
        yield from (f"- {line}" for line in plan.advice)
        return
    yield f"recommended: {best.strategy}, the least communication of those that fit"
    yield f"  {plan.command}"


def _row(row: Row, gpus: int) -> str:
    s = row.states
    figures = (s.parameters, s.gradients, s.optimizer, s.buckets + s.gathered, row.activations, row.features, row.total)
    host = f"{s.host * gpus / 1e9:9.1f}" if s.host else f"{'-':>9}"
    cells = [*(f"{figure / 1e9:9.2f}" for figure in figures), f"{'yes' if row.fits else 'no':>9}", host]
    return "  ".join([f"{row.strategy:<14}", *cells])
