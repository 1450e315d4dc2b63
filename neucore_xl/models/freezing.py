"""Freezing a tower wholly, or its stem and first blocks, for every kind of tower that open_clip builds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import nn

from neucore_xl.errors import UserError

Group = list[nn.Parameter]


def freeze_blocks(tower: Iterable[nn.Parameter], groups: Sequence[Group], blocks: int) -> None:
    """Stop the gradient of the first ``blocks`` blocks of ``tower`` and of the stem before them.

    ``groups`` is the stem followed by the blocks. 0 freezes nothing; the number of blocks or more freezes all
    parameters of the tower, its last norm and projection among them.
    """
    if blocks == 0:
        return
    frozen = tower if blocks >= len(groups) - 1 else (p for group in groups[: blocks + 1] for p in group)
    for parameter in frozen:
        parameter.requires_grad_(False)


def keep_frozen_in_eval(module: nn.Module) -> None:
    """Put every sub-module whose parameters are all frozen into eval mode: no dropout, and BatchNorm statistics stay.

    Call it after ``train(True)``. Sub-modules without parameters follow the nearest parent that has some.
    """
    parameters = list(module.parameters())
    if parameters and not any(p.requires_grad for p in parameters):
        module.eval()
        return
    for child in module.children():
        keep_frozen_in_eval(child)


def image_groups(visual: nn.Module) -> list[Group]:
    """Stem and blocks of an image tower, from the input on: native ViT, ModifiedResNet or timm.

    Raises ``UserError`` for a timm tower that does not name its blocks.
    """
    if hasattr(visual, "trunk"):
        from timm.models import group_parameters

        trunk: nn.Module = visual.trunk  # type: ignore[assignment]
        if not hasattr(trunk, "group_matcher"):
            raise UserError(f"backbone.freeze: {type(trunk).__name__} names no blocks; freeze `all` or `none`.")
        by_group = group_parameters(trunk, trunk.group_matcher(coarse=False))  # type: ignore[operator]
        named = dict(trunk.named_parameters())
        return [[named[name] for name in by_group[key]] for key in sorted(by_group)]
    if hasattr(visual, "layer1"):
        stem = [visual.conv1, visual.bn1, visual.conv2, visual.bn2, visual.conv3, visual.bn3]
        stages = (visual.layer1, visual.layer2, visual.layer3, visual.layer4)
        return [_parameters(stem)] + [_parameters([block]) for stage in stages for block in stage]  # type: ignore[union-attr]
    stem_parts = [visual.conv1, visual.class_embedding, visual.positional_embedding, visual.ln_pre]
    return [_parameters(stem_parts)] + [_parameters([b]) for b in visual.transformer.resblocks]  # type: ignore[union-attr]


def text_groups(text: nn.Module) -> list[Group]:
    """Stem and blocks of a text tower: native (inside CLIP or apart) or Hugging Face."""
    if hasattr(text, "token_embedding"):
        stem = [text.token_embedding, text.positional_embedding, getattr(text, "cls_emb", None)]
        return [_parameters(stem)] + [_parameters([b]) for b in text.transformer.resblocks]  # type: ignore[union-attr]
    transformer: nn.Module = text.transformer  # type: ignore[assignment]
    encoder: nn.Module = getattr(transformer, "encoder", transformer)
    for name in ("layer", "layers", "block", "h"):
        if isinstance(blocks := getattr(encoder, name, None), nn.ModuleList):
            return [_parameters([transformer.get_input_embeddings()])] + [_parameters([b]) for b in blocks]  # type: ignore[operator]
    raise UserError(f"backbone.freeze: {type(transformer).__name__} names no blocks; freeze `all` or `none`.")


def _parameters(parts: Iterable[object]) -> Group:
    found: Group = []
    for part in parts:
        if isinstance(part, nn.Parameter):
            found.append(part)
        elif isinstance(part, nn.Module):
            found.extend(part.parameters())
    return found
