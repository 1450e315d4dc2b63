"""Low-rank adapters (LoRA, Hu et al. 2022) on frozen towers, by ``peft``: W x + (alpha / rank) · B A x; A, B trained.

Adapted are linear layers that run as modules of their own. What computes with another module's weights is left alone:
the attention of open_clip's own towers (``nn.MultiheadAttention``) has no such layer, and the adapters that peft offers
for it rewrite its weights in every forward, which sharded parameters do not allow.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from neucore_xl.config.schema import LoraSettings
from neucore_xl.errors import UserError

ADAPTER = "adapter"  # peft's name for the one set of adapters
_BLOCK = re.compile(r"\.\d+\.")


def add_adapters(
    clip: nn.Module, settings: LoraSettings, towers: Mapping[str, Collection[str]], run: Callable[[], object]
) -> None:
    """Put adapters into ``clip``, in place; B starts at zero, so nothing changes until they are trained.

    ``towers``: the parameters' names of each tower to adapt (``image``, ``text``); ``run`` passes one blank image and
    text through the model, to see which layers run. Every other parameter is frozen. Raises ``UserError`` where peft
    is missing, a tower has nothing to adapt, or ``settings.modules`` names a layer that is not there.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise UserError(f"backbone.lora needs the package peft ({error}): pip install peft.") from error
    running = _running_linears(clip, run)
    found = {tower: [name for name in running if f"{name}.weight" in towers[tower]] for tower in towers}
    chosen = [name for tower, names in found.items() for name in _chosen(tower, names, settings)]
    unknown = [m for m in settings.modules or () if not any(_last(name) == m for name in chosen)]
    if unknown:
        offers = "; ".join(f"{tower} tower: {_offer(names)}" for tower, names in found.items())
        raise UserError(f"backbone.lora.modules: no layer {unknown[0]!r} to adapt (there are, {offers}).")
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # peft divides it by the rank
        lora_dropout=settings.dropout,
        target_modules="|".join(map(re.escape, chosen)),  # whole names: a text tower's may end like an image tower's
    )
    inject_adapter_in_model(config, clip, adapter_name=ADAPTER)


def is_adapter(name: str) -> bool:
    """Whether a parameter or tensor of a model belongs to its adapters."""
    return ".lora_" in name


def base_state(clip: nn.Module) -> dict[str, Tensor]:
    """The state of a model, adapters left out, under the names that it has without them."""
    return {k.replace(".base_layer.", "."): v for k, v in clip.state_dict().items() if not is_adapter(k)}


def merged_state(backbone: nn.Module) -> dict[str, Tensor]:
    """The state of the plain open_clip model that computes what ``backbone`` does: adapters are added to the weights.

    Tensors are on the CPU; a backbone without adapters gives its own. All parameters must be whole (not sharded).
    """
    clip: Any = backbone.clip
    state = {name: tensor.detach().cpu() for name, tensor in base_state(clip).items()}
    for name, layer in clip.named_modules():
        if hasattr(layer, "get_delta_weight") and ADAPTER in getattr(layer, "lora_A", ()):
            weight = state[f"{name}.weight"]
            state[f"{name}.weight"] = weight + layer.get_delta_weight(ADAPTER).detach().to(weight)
    return state


def _running_linears(clip: nn.Module, run: Callable[[], object]) -> list[str]:
    """Names of the linear layers that are called as modules in a pass, in the order of the model."""
    called: set[nn.Module] = set()
    linears = {name: m for name, m in clip.named_modules() if isinstance(m, nn.Linear)}
    hooks = [m.register_forward_hook(lambda module, *_: called.add(module)) for m in linears.values()]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return [name for name, module in linears.items() if module in called]


def _chosen(tower: str, names: list[str], settings: LoraSettings) -> list[str]:
    """Layers of one tower: those asked for by the last part of their name, else those of its numbered blocks."""
    if settings.modules is None:
        chosen = [name for name in names if _BLOCK.search(name)]
    else:
        chosen = [name for name in names if _last(name) in settings.modules]
    if not chosen:
        asked = f"none of {', '.join(settings.modules)}" if settings.modules else "no linear layer in its blocks"
        raise UserError(
            f"backbone.lora: the {tower} tower has {asked} to adapt (it has {_offer(names)}); choose other "
            "backbone.lora.modules, or leave it out of backbone.lora.towers."
        )
    return chosen


def _offer(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(map(_last, names))) or "none"


def _last(name: str) -> str:
    return name.rsplit(".", 1)[-1]
