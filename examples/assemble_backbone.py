"""Make an open_clip model folder from an image network and a sentence encoder that were never trained together.

    python examples/assemble_backbone.py OUT --timm tf_efficientnet_lite0 --image-weights W.pth --text-dir DIR

The image tower keeps its pooled features as they are (their width becomes the joint width); the sentence encoder's
mean-pooled feature is carried into that width by a fixed matrix with orthonormal columns, which keeps every inner
product between sentences. The two are not aligned: heads trained on the frozen towers learn what the words mean for
the pictures. Use the result as ``backbone.name=local-dir:OUT backbone.pretrained=null``.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Annotated

import typer

TEXT_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


def assemble(
    out: Annotated[Path, typer.Argument(help="Folder to make; must not exist.")],
    timm: Annotated[str, typer.Option(help="timm architecture of the image weights.")],
    image_weights: Annotated[Path, typer.Option(help="State dict (.pth) of that architecture, names may differ.")],
    text_dir: Annotated[Path, typer.Option(help="Folder of a transformers sentence encoder (BERT family).")],
    image_size: Annotated[int, typer.Option(help="Input side in pixels.")] = 224,
    mean: Annotated[float, typer.Option(help="Pixel mean the image weights were trained with.")] = 0.5,
    std: Annotated[float, typer.Option(help="Pixel deviation the image weights were trained with.")] = 0.5,
    context_length: Annotated[int, typer.Option(help="Longest sentence in tokens.")] = 48,
    seed: Annotated[int, typer.Option(help="Seed of the orthonormal matrix.")] = 0,
) -> None:
    """Write ``open_clip_config.json``, ``open_clip_model.safetensors`` and the tokenizer into OUT."""
    for path in (image_weights, text_dir):
        if not path.exists():
            raise typer.BadParameter(f"{path} does not exist")
    if out.exists():
        raise typer.BadParameter(f"{out} exists already; name a new folder")
    import open_clip
    import timm as timm_library
    import torch
    from safetensors.torch import save_file

    temporary = out.with_name(out.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for name in TEXT_FILES:  # beside the weights: open_clip looks for a local model's tokenizer nowhere else
        if (text_dir / name).is_file():
            shutil.copyfile(text_dir / name, temporary / name)
    width = timm_library.create_model(timm, num_classes=0).num_features
    text_cfg = {
        "hf_model_name": str(text_dir.resolve()),
        "hf_tokenizer_name": str(text_dir.resolve()),
        "hf_model_pretrained": True,
        "hf_pooler_type": "mean_pooler",
        "hf_proj_type": "linear",
        "context_length": context_length,
    }
    vision_cfg = {
        "timm_model_name": timm,
        "timm_model_pretrained": False,
        "timm_pool": "avg",
        "timm_proj": "none",
        "image_size": image_size,
    }
    preprocess = {"mean": [mean] * 3, "std": [std] * 3, "interpolation": "bicubic", "size": [image_size] * 2}
    config = {
        "model_cfg": {"embed_dim": width, "vision_cfg": vision_cfg, "text_cfg": text_cfg},
        "preprocess_cfg": preprocess,
    }
    write_config(temporary, config)
    model = open_clip.create_model(f"local-dir:{temporary}", load_weights=False)
    load_by_order(model.visual.trunk, torch.load(image_weights, map_location="cpu", weights_only=True))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.nn.init.orthogonal_(model.text.proj.weight)
    save_file(
        {k: v.contiguous() for k, v in model.state_dict().items()}, str(temporary / "open_clip_model.safetensors")
    )
    for key in ("hf_model_name", "hf_tokenizer_name"):
        text_cfg[key] = str(out.resolve())
    text_cfg["hf_model_pretrained"] = False
    write_config(temporary, config)
    temporary.rename(out)
    typer.echo(f"{out}: {timm} ({width} wide, {image_size} px) + {text_dir.name}")
    typer.echo(f"use it with: backbone.name=local-dir:{out} backbone.pretrained=null")


def write_config(folder: Path, config: dict) -> None:
    """``open_clip_config.json`` as open_clip's ``local-dir:`` reads it."""
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")


def load_by_order(trunk, state: dict) -> None:
    """Load a state dict whose names differ but whose tensors come in the same order; the classifier is left out."""
    own = trunk.state_dict()
    given = list(state.values())[: len(own)]
    if len(given) < len(own):
        raise typer.BadParameter(f"the image weights are of another architecture: {len(given)} tensors, not {len(own)}")
    wrong = [n for (n, t), g in zip(own.items(), given, strict=True) if t.shape != g.shape]
    if wrong:
        raise typer.BadParameter(f"the image weights are of another architecture: {wrong[0]} differs in shape")
    trunk.load_state_dict(dict(zip(own, given, strict=True)))


if __name__ == "__main__":
    typer.run(assemble)
