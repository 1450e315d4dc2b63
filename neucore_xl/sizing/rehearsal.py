"""A training step without data, weights or memory: its tensors are shapes, and their bytes are counted as they live.

torch's fake tensors go through the real forward, loss and backward. Every storage that an operation makes is added
when it appears and taken off when nothing refers to it any more, so the peak holds what a real step holds: what
autograd keeps, what a checkpointed block recomputes, temporaries, gradients of activations, copies that autocast
makes of weights. Parameters, and gradients of parameters once they have arrived, are not counted.

Fake tensors claim to be on the CPU, where a backward needs no device. What a GPU does otherwise is imitated: norms in
fp32 under autocast, attention with dropout without a stored matrix. Not seen: workspaces of kernels, fragmentation.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from neucore_xl.config.schema import DataSettings, Settings, TrainSettings
from neucore_xl.data.batches import Batch
from neucore_xl.models.backbone import Backbone
from neucore_xl.models.composer import Composer
from neucore_xl.models.features import ComposerOutput, FeatureSet
from neucore_xl.parallel.world import World
from neucore_xl.sizing.blank import VOCABULARY, blank_batch, columns_per_query
from neucore_xl.sizing.meta import meta_composer
from neucore_xl.training.losses import match_term, objective


def rehearse(settings: Settings, *, bf16_parameters: bool) -> Rehearsal:
    """The rehearsal of ``settings`` on the device that they name (``auto``: a GPU); one that was made is used again."""
    train = TrainSettings(
        precision=settings.train.precision, device=settings.train.device, cache_features=settings.train.cache_features
    )
    # nothing else of data and optimisation changes a byte, so recipes that differ in it share their rehearsal
    return _rehearse(settings.model_copy(update={"data": DataSettings(), "train": train}), bf16_parameters)


@lru_cache(maxsize=4)
def _rehearse(settings: Settings, bf16_parameters: bool) -> Rehearsal:
    composer, backbone = meta_composer(settings, VOCABULARY)
    gpu = settings.train.device != "cpu"
    return Rehearsal(composer, backbone, settings, gpu=gpu, bf16_parameters=bf16_parameters)


class Rehearsal:
    """Counts bytes of a step of ``composer`` (on the meta device; it is moved to fake tensors and stays there).

    ``gpu``: imitate the kernels of a GPU. ``bf16_parameters``: parameters are bf16, as DeepSpeed keeps them.
    """

    def __init__(
        self, composer: Composer, backbone: Backbone, settings: Settings, *, gpu: bool = True, bf16_parameters: bool
    ) -> None:
        self._settings, self.backbone, self._gpu = settings, backbone, gpu
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        self.composer = composer.bfloat16() if bf16_parameters else composer
        with self._mode:
            self.composer.to_empty(device="cpu").train()
        for parameter in self.composer.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(_drop_gradient)
        self._steps: dict[int, tuple[int, Batch, ComposerOutput]] = {}

    def activations(self, queries: int) -> int:
        """Peak bytes of forward, loss and backward of ``queries`` queries at once, their inputs included."""
        return self._step(queries)[0]

    def shapes(self, queries: int) -> tuple[Batch, ComposerOutput]:
        """Batch and output of one training forward, without values: to read shapes from."""
        return self._step(queries)[1:]

    def _step(self, queries: int) -> tuple[int, Batch, ComposerOutput]:
        if queries not in self._steps:
            with self._measuring() as meter:
                tokenizer = self.composer.language_tokenizer
                language = tokenizer.length if tokenizer else 0
                batch = blank_batch(self._settings, self.backbone, queries, language)
                output = self._forward(batch)
                torch.autograd.backward(objective(self.composer, output, batch, self._settings.loss).total)
            self._steps[queries] = meter.peak, batch, _detached(output)
        return self._steps[queries]

    def contrast(self, queries: int, parts: int) -> int:
        """Peak bytes of the contrastive loss of ``queries`` own queries over the targets of ``parts`` such shares.

        Features, gathered targets, scores, and all their gradients, in fp32.
        """
        _, output = self.shapes(next(iter(self._steps), 1))
        own, targets = output.queries, output.targets
        columns = queries * columns_per_query(self._settings)
        with self._measuring() as meter:
            rows = _blank(own, queries, grad=True)
            gathered = _blank(targets, columns * parts, grad=True)
            local = (_blank(targets, columns), _blank(targets, columns)) if parts > 1 else None  # and their gradient
            theta = torch.zeros(1, requires_grad=True)
            positive = torch.zeros(queries, dtype=torch.long)
            exclude = torch.zeros(queries, columns * parts, dtype=torch.bool)
            output = ComposerOutput(rows, gathered, theta)
            torch.autograd.backward(match_term(self.composer, output, positive, exclude, World(), self._settings.loss))
            del output
            del rows, gathered, theta, positive, exclude, local
        return meter.peak

    def _forward(self, batch: Batch) -> ComposerOutput:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self._settings.train.precision == "bf16"):
            output: ComposerOutput = self.composer("train", batch)
            return output

    @contextmanager
    def _measuring(self) -> Iterator[Meter]:
        states = [*self.composer.parameters(), *self.composer.buffers()]
        with self._mode, Meter(states) as meter:
            if self._gpu:
                with _gpu_kernels():
                    yield meter
            else:
                yield meter


class Meter(TorchDispatchMode):
    """Inside, ``live`` is the bytes of the storages made here that are still referred to, and ``peak`` its maximum."""

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._seen: dict[int, Any] = {}
        for tensor in known:
            storage = tensor.untyped_storage()
            self._seen[storage._cdata] = storage  # held, so that its number is not given to another

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        number, size = storage._cdata, storage.nbytes()
        if number in self._seen:
            return

        def gone(_: Any) -> None:
            self.live -= size
            self._seen.pop(number, None)

        self._seen[number] = weakref.ref(storage, gone)
        self.live += size
        self.peak = max(self.peak, self.live)


@contextmanager
def _gpu_kernels() -> Iterator[None]:
    """The two places where the kernels of a GPU keep other tensors than those of a CPU.

    Replaced in the module that everybody reads them from, because a mode of torch is not in force where a backward
    computes blocks again.
    """
    norm, attention = F.layer_norm, F.scaled_dot_product_attention

    def layer_norm(x: Tensor, shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Tensor:
        if not torch.is_autocast_enabled("cpu"):
            return norm(x, shape, weight, bias, eps)
        with torch.autocast("cpu", enabled=False):  # on CUDA's list of fp32 operations, not on the CPU's
            weight, bias = (t if t is None else t.float() for t in (weight, bias))
            return norm(x.float(), shape, weight, bias, eps)

    def scaled_dot_product_attention(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Any = None,
        dropout_p: float = 0.0,
        *rest: Any,
        **options: Any,
    ) -> Tensor:
        return attention(query, key, value, attn_mask, 0.0, *rest, **options)

    with patch.object(F, "layer_norm", layer_norm), patch.object(
        F, "scaled_dot_product_attention", scaled_dot_product_attention
    ):  # fmt: skip
        yield


def _drop_gradient(parameter: nn.Parameter | Tensor) -> None:
    parameter.grad = None


def _detached(output: ComposerOutput) -> ComposerOutput:
    """Its shapes without its graph, and without its memory being held."""
    logits = None if output.concept_logits is None else torch.empty(output.concept_logits.shape, device="meta")
    queries, targets = (f.map(lambda t: torch.empty(t.shape, device="meta")) for f in (output.queries, output.targets))
    return ComposerOutput(queries, targets, torch.empty(1, device="meta"), logits)


def _blank(features: FeatureSet, rows: int, grad: bool = False) -> FeatureSet:
    return features.map(lambda t: torch.zeros(rows, *t.shape[1:], requires_grad=grad))
