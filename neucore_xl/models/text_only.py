"""A model folder of a text tower alone, for image features that are given: an ``open_clip_config.json`` without images.

open_clip builds no such model: it gets the smallest image tower to build, which is dropped afterwards.
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import open_clip
from torch import nn

from neucore_xl.errors import UserError

WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")  # of a model folder, the first that is there
_NO_IMAGES = {"image_size": 16, "patch_size": 16, "layers": 1, "width": 64, "head_width": 64}
_BESIDE_THE_TOWER = ("visual.", "logit_scale", "logit_bias")


def buildable(architecture: dict[str, Any], folder: Path | None) -> dict[str, Any]:
    """``architecture``, which has no ``vision_cfg``, as a config that open_clip builds.

    Names of Hugging Face folders are taken relative to ``folder``, where such a folder lies there: the model folder can
    be moved.
    """
    complete = deepcopy(architecture) | {"vision_cfg": dict(_NO_IMAGES)}
    for key in ("hf_model_name", "hf_tokenizer_name"):
        value = complete["text_cfg"].get(key)
        if folder is not None and isinstance(value, str) and (folder / value).is_dir():
            complete["text_cfg"][key] = str((folder / value).resolve())
    return complete


def weights_in(folder: Path) -> Path:
    """The file of weights in a model folder; raises ``UserError`` where there is none."""
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"the model folder {folder} holds no weights ({' or '.join(WEIGHTS)}): make it again.")


def load_texts(model: nn.Module, path: Path) -> None:
    """Load the text tower of ``model`` from ``path``; raises ``UserError`` for a file that is not its weights."""
    try:
        found = open_clip.load_checkpoint(model, str(path), strict=False)
        differ = [n for n in (*found.missing_keys, *found.unexpected_keys) if not n.startswith(_BESIDE_THE_TOWER)]
        problem = f"{differ[0]} is in one of the two alone" if differ else None
    except Exception as error:  # torch's, safetensors' and open_clip's own
        problem = (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".")
    if problem is not None:
        raise UserError(f"{path} does not hold the weights of the text tower beside it ({problem}): make it again.")
