"""Which way of sharing the states fits a GPU, and the command that submits it.

``make_plan`` reads no data and no weights. All figures are per GPU; GB are 10⁹ bytes. A total is the sum of what lives
at once: states, buffers, and the larger of (activations and features) and what the update takes.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from neucore_xl.config.schema import Settings
from neucore_xl.errors import UserError
from neucore_xl.parallel.world import World
from neucore_xl.sizing.blank import VOCABULARY
from neucore_xl.sizing.meta import meta_composer
from neucore_xl.sizing.rehearsal import rehearse
from neucore_xl.sizing.states import Sizes, States, states
from neucore_xl.training.engines.deepspeed_check import check_config
from neucore_xl.training.engines.deepspeed_file import ROOT, find_config, read_config, shipped_names
from neucore_xl.training.engines.strategy import Strategy
from neucore_xl.training.stream import Share, queries_a_batch

HEADROOM = 0.1  # of the GPU's memory: CUDA's context, NCCL's and cuBLAS's buffers, fragmentation
# The least communication first: ZeRO 1 and 2 exchange what DDP does, ZeRO 3 half as much again, offloading adds the
# way to the host and an update on its processors.
_SHIPPED = ("zero1", "zero2", "zero3_hpz", "zero3", "zero2_offload", "zero3_offload")


@dataclass(frozen=True)
class Cluster:
    """``nodes`` machines with ``gpus`` GPUs each, of ``gpu_memory`` GB."""

    nodes: int = 1
    gpus: int = 1
    gpu_memory: float = 80.0

    @property
    def ranks(self) -> int:
        return self.nodes * self.gpus

    @property
    def usable(self) -> int:
        """Bytes of a GPU that a plan may fill."""
        return int(self.gpu_memory * 1e9 * (1 - HEADROOM))


@dataclass(frozen=True)
class Row:
    """Bytes of one strategy; ``fits`` leaves ``HEADROOM`` free."""

    strategy: str
    file: str | None
    states: States
    activations: int
    features: int
    fits: bool

    @property
    def total(self) -> int:
        s = self.states
        always = s.parameters + s.gradients + s.optimizer + s.buckets + s.gathered
        return always + max(self.activations + self.features, s.update)


@dataclass(frozen=True)
class Plan:
    """``rows`` in the order of their communication; ``recommended`` is the first that fits, if any does."""

    recipe: str
    overrides: tuple[str, ...]
    cluster: Cluster
    parameters: int
    trained: int
    local_batch: int
    micro_batch: int
    rows: tuple[Row, ...]
    own: str | None  # the DeepSpeed file of the recipe
    advice: tuple[str, ...]

    @property
    def recommended(self) -> Row | None:
        return next((row for row in self.rows if row.fits), None)

    @cached_property
    def command(self) -> str | None:
        """What submits the recommended strategy."""
        if self.recommended is None:
            return None
        kept = [o for o in self.overrides if not o.startswith(("train.deepspeed=", "train.strategy="))]
        file = self.recommended.file
        if file != self.own or any(o.startswith(("train.deepspeed=", "train.strategy=")) for o in self.overrides):
            kept.append(f"train.deepspeed={file or 'null'}")
        name = Path(self.recipe).stem
        words = ["sbatch", f"--nodes={self.cluster.nodes}", f"--gpus-per-node={self.cluster.gpus}"]
        return shlex.join([*words, "slurm/train.sbatch", self.recipe, "--run-dir", f"runs/{name}", *kept])

    def as_dict(self) -> dict[str, Any]:
        """Plain values, bytes throughout, for ``--json``."""
        found = asdict(self)
        for row, content in zip(self.rows, found["rows"], strict=True):
            content["total"] = row.total
        best = self.recommended
        return found | {"recommended": best.strategy if best else None, "command": self.command}


def make_plan(settings: Settings, cluster: Cluster, recipe: str, overrides: Sequence[str] = ()) -> Plan:
    """The plan of ``settings`` on ``cluster``; ``recipe`` and ``overrides`` are repeated in the command.

    Raises ``UserError`` for GPUs that do not divide the batch, a micro-batch that does not divide a GPU's share, an
    unknown model, a DeepSpeed file that is not there or wrong.
    """
    planner = _Planner(settings, cluster)
    rows = tuple(planner.row(strategy, planner.micro) for strategy in planner.strategies)
    plan = Plan(
        recipe, tuple(overrides), cluster, planner.sizes.total, planner.sizes.trained, planner.local, planner.micro,
        rows, planner.own, (),
    )  # fmt: skip
    return plan if plan.recommended else replace(plan, advice=tuple(planner.advice()))


class _Planner:
    def __init__(self, settings: Settings, cluster: Cluster) -> None:
        self.settings, self.cluster, train = settings, cluster, settings.train
        share = Share.of(train, World(0, cluster.ranks))
        self.local = queries_a_batch(train) // cluster.ranks
        self.micro = self.local // share.forwards
        self._half = False  # what was rehearsed last
        self.own = _as_named(find_config(train.deepspeed)) if train.deepspeed else None

    @cached_property
    def sizes(self) -> Sizes:
        composer, backbone = meta_composer(self.settings, VOCABULARY)
        return Sizes.of(composer, backbone, self.settings.train)

    @cached_property
    def strategies(self) -> list[Strategy]:
        """What is compared: whole copies, the shipped files, and the recipe's own file."""
        ranks = self.cluster.ranks
        found = [Strategy("ddp" if ranks > 1 else "plain")]
        names = [f"ds_configs/{stem}.json" for stem in _SHIPPED]
        if self.own and self.own not in names:
            names.append(self.own)
        for name in names:
            path = find_config(Path(name))
            config = read_config(path)
            if name not in shipped_names():
                check_config(config, path, paths=False)
            strategy = Strategy("deepspeed", config, path)
            within = strategy.second_copy
            if within > 1 and (ranks % within or ranks == within):
                if name == self.own:
                    raise UserError(
                        f"{path}: zero_hpz_partition_size={within} needs several times as many processes, "
                        f"but there are {ranks}: use ds_configs/zero3.json, or more nodes."
                    )
                continue
            found.append(strategy)
        return found

    def row(self, strategy: Strategy, micro: int) -> Row:
        half = strategy.bf16_parameters(self.settings.train)
        held = states(self.sizes, strategy, self.cluster.ranks, bf16=self.settings.train.precision == "bf16")
        file = _as_named(strategy.file) if strategy.file else None
        row = Row(strategy.label, file, held, self.activations(half, micro), self.features, False)
        return replace(row, fits=row.total <= self.cluster.usable)

    def activations(self, half: bool, micro: int) -> int:
        """Peak bytes of a forward and backward of ``micro`` queries; ``half``: with bf16 parameters."""
        self._half = half
        return rehearse(self.settings, bf16_parameters=half).activations(micro)

    @cached_property
    def features(self) -> int:
        """Bytes of the contrastive loss over all ranks; features are fp32 in every strategy."""
        return rehearse(self.settings, bf16_parameters=self._half).contrast(self.local, self.cluster.ranks)

    def advice(self) -> list[str]:
        """What would make it fit, nearest first."""
        said = []
        best = self._largest_micro_batch()
        if best is not None:
            said.append(f"train.micro_batch={best[1]} fits with {best[0]}: the same gradient, in smaller parts")
        if not self.settings.backbone.activation_checkpointing and self._trains_towers:
            backbone = self.settings.backbone.model_copy(update={"activation_checkpointing": True})
            other = _Planner(self.settings.model_copy(update={"backbone": backbone}), self.cluster)
            found = [r for r in (other.row(s, other.micro) for s in other.strategies) if r.fits]
            if found:
                said.append(f"backbone.activation_checkpointing=true fits with {found[0].strategy}")
            elif best is None and (smaller := other._largest_micro_batch()):
                said.append(
                    f"backbone.activation_checkpointing=true with train.micro_batch={smaller[1]} fits with {smaller[0]}"
                )
        ranks = self._enough_ranks()
        if ranks is not None:
            said.append(f"{ranks} GPUs fit with zero3 and train.micro_batch=1 or more")
        return said or ["no number of GPUs up to 4096 fits: take a smaller model or image size, or freeze blocks"]

    @property
    def _trains_towers(self) -> bool:
        return self.settings.backbone.freeze != "all"

    def _largest_micro_batch(self) -> tuple[str, int] | None:
        """Strategy and largest micro-batch that fit; of equally large ones that of the least communication."""
        sizes = [m for m in range(1, self.micro) if self.local % m == 0]
        best: tuple[str, int] | None = None
        for strategy in self.strategies:
            low, high = 0, len(sizes)  # sizes[:low] fit, sizes[high:] do not
            if best is not None:  # only a larger one is of interest
                low = sizes.index(best[1]) + 1
                if low < high and not self.row(strategy, sizes[low]).fits:
                    continue
            start = low
            while low < high:
                middle = (low + high) // 2
                if self.row(strategy, sizes[middle]).fits:
                    low = middle + 1
                else:
                    high = middle
            if low > start:
                best = strategy.label, sizes[low - 1]
        return best

    def _enough_ranks(self) -> int | None:
        """The smallest doubling of the GPUs whose ZeRO 3 leaves room for one query a pass."""
        zero3 = next(s for s in self.strategies if s.label == "zero3")
        half = zero3.bf16_parameters(self.settings.train)
        least = self.activations(half, 1) + self.features
        ranks = 2 * self.cluster.ranks
        while ranks <= 4096:
            held = states(self.sizes, zero3, ranks, bf16=self.settings.train.precision == "bf16")
            row = Row("zero3", None, held, least, 0, False)
            if row.total <= self.cluster.usable:
                return ranks
            ranks *= 2
        return None


def _as_named(path: Path) -> str:
    """A shipped file as ``ds_configs/zero2.json``, another as it was given."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
