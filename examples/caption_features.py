"""Captions in place of pictures: the features of an image are the word states of a caption of it.

    python examples/caption_features.py CAPTIONS.json features/mine --text-dir DIR

CAPTIONS.json holds one object, image name to caption; several files may be given. Every caption goes through the
sentence encoder in DIR (a transformers folder of the BERT family): its word states, start and end marks included, are
the image's tokens, their mean is its pooled feature. OUT holds these features and, beside them, the same encoder as a
text tower, so that it is a whole backbone:

    neucore-xl train cirr-captions backbone.features=features/mine data.root=…

With it heads can be trained and compared on real sentences without a picture. What comes out says nothing about
pictures: the tables are headed "captions in place of pictures".
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Annotated

import typer

TEXT_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


def caption_features(
    captions: Annotated[list[Path], typer.Argument(help="JSON files: image name to caption.")],
    out: Annotated[Path, typer.Argument(help="Folder to make; must not exist.")],
    text_dir: Annotated[Path, typer.Option(help="Folder of a transformers sentence encoder (BERT family).")],
    name: Annotated[str | None, typer.Option(help="Name of the encoder in tables; default: of its folder.")] = None,
    context_length: Annotated[int, typer.Option(min=4, max=512, help="Longest sentence in tokens.")] = 56,
    batch_size: Annotated[int, typer.Option(min=1, max=4096, help="Captions a forward pass.")] = 128,
) -> None:
    """Write the features of every caption, and the text tower that made them, into OUT."""
    if not (text_dir / "config.json").is_file():
        raise typer.BadParameter(f"{text_dir} is no folder of a transformers model (it has no config.json)")
    import torch

    from neucore_xl.data.features.writer import FeatureFolderWriter
    from neucore_xl.progress import track

    found = read_captions(captions)
    encoder = name or encoder_name(text_dir)
    with FeatureFolderWriter(out, origin=f"captions in place of pictures, {encoder}", half=True) as writer:
        model, tokenizer = write_text_tower(writer.folder, text_dir, context_length)
        names = sorted(found, key=lambda image: len(found[image]))  # alike lengths together: little padding
        with torch.inference_mode(), track("captions", len(names)) as advance:
            for start in range(0, len(names), batch_size):
                part = names[start : start + batch_size]
                ids = tokenizer([found[image] for image in part])
                mask = ids != model.config.pad_token_id
                longest = int(mask.sum(1).max())
                ids, mask = ids[:, :longest], mask[:, :longest]
                states = model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
                for image, words, real in zip(part, states, mask, strict=True):
                    writer.add(image, tokens=words[real], pooled=words[real].mean(0))
                advance(len(part))
    typer.echo(f"{out}: {len(found)} captions, {model.config.hidden_size} wide, by {encoder}")
    typer.echo(f"use it with: backbone.features={out} backbone.name=local-dir:{out} backbone.pretrained=null")


def read_captions(paths: list[Path]) -> dict[str, str]:
    """Image name to caption, of all files; an image without words, or with two captions, is refused."""
    from neucore_xl.jsonfile import one_line, read_json

    found: dict[str, str] = {}
    for path in paths:
        clashes: list[str] = []
        content = read_json(path, dict, clashes=clashes, missing="name a JSON file of captions")
        wrong = [k for k, v in content.items() if not isinstance(v, str) or not one_line(v)]
        if wrong:
            raise typer.BadParameter(f"{path}: {len(wrong)} images have no caption of words, the first is {wrong[0]}")
        twice = clashes or [k for k, v in content.items() if found.get(k, v) != v]
        if twice:
            raise typer.BadParameter(f"{path}: {len(twice)} images have two captions, the first is {twice[0]}")
        found |= {image: one_line(caption) for image, caption in content.items()}
    if not found:
        raise typer.BadParameter(f"no captions in {', '.join(map(str, paths))}")
    return found


def encoder_name(text_dir: Path) -> str:
    """What the folder is called, or the one above where it is called ``model``."""
    folder = text_dir.resolve()
    return folder.parent.name if folder.name == "model" else folder.name


def write_text_tower(folder: Path, text_dir: Path, context_length: int):
    """The encoder as an open_clip model folder of a text tower alone, in ``folder``; returns it and its tokenizer."""
    import open_clip.tokenizer
    from safetensors.torch import save_file
    from transformers import AutoModel
    from transformers.utils import logging as transformers_logging

    from neucore_xl.files import usual_permissions

    transformers_logging.set_verbosity_error()  # of a pooling layer that is left out on purpose
    transformers_logging.disable_progress_bar()
    (folder / "text").mkdir()
    for file in TEXT_FILES:
        if (text_dir / file).is_file():
            shutil.copyfile(text_dir / file, folder / "text" / file)
    try:
        encoder = AutoModel.from_pretrained(text_dir, add_pooling_layer=False).eval()
        tokenizer = open_clip.tokenizer.HFTokenizer(str(folder / "text"), context_length=context_length)
    except (OSError, ValueError, TypeError) as error:
        raise typer.BadParameter(f"{text_dir} is no folder of a sentence encoder of the BERT family: {error}") from None
    text_cfg = {
        "hf_model_name": "text",  # relative: the folder may be moved
        "hf_tokenizer_name": "text",
        "hf_model_pretrained": False,
        "hf_pooler_type": "mean_pooler",
        "hf_proj_type": None,  # the mean as it is
        "context_length": context_length,
    }
    config = {"model_cfg": {"embed_dim": encoder.config.hidden_size, "text_cfg": text_cfg}}
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
    state = {f"text.transformer.{key}": value.contiguous() for key, value in encoder.state_dict().items()}
    save_file(state, str(folder / "open_clip_model.safetensors"))
    usual_permissions(folder / "open_clip_model.safetensors")
    return encoder, tokenizer


if __name__ == "__main__":
    typer.run(caption_features)
