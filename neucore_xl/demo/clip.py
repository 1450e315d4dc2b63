"""A small CLIP for the demo, trained by open_clip's own trainer on generated pictures and their descriptions."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from neucore_xl.errors import UserError

NAME = "demo-clip"
CONTEXT_LENGTH = 48  # tokens: the longest description has fewer


def model_config(image_size: int) -> dict[str, object]:
    """An open_clip model of 7.6 M parameters, most of them word embeddings: four image layers, two text layers."""
    return {
        "embed_dim": 128,
        "vision_cfg": {"image_size": image_size, "patch_size": 16, "width": 128, "layers": 4, "head_width": 32},
        "text_cfg": {"context_length": CONTEXT_LENGTH, "vocab_size": 49408, "width": 128, "heads": 4, "layers": 2},
    }


def train_clip(
    out: Path, descriptions: Path, *, image_size: int, epochs: int, batch_size: int, seed: int
) -> tuple[Path, Path]:
    """Train in ``out`` and return (model JSON, weights); a finished training is only returned.

    ``descriptions``: CSV with ``filepath,title``, paths relative to its folder. Runs ``python -m open_clip_train.main``
    in a process of its own, with what it prints in ``out/train.log``. Raises ``UserError`` when it fails.
    """
    config, weights = out / f"{NAME}.json", out / f"{NAME}.pt"
    if weights.is_file():
        return config, weights
    shutil.rmtree(out / "trainer", ignore_errors=True)
    model = out / "model"  # open_clip's trainer takes a model of one's own as a folder
    model.mkdir(parents=True, exist_ok=True)
    text = json.dumps(model_config(image_size), indent=2)
    config.write_text(text + "\n")
    (model / "open_clip_config.json").write_text(json.dumps({"model_cfg": json.loads(text), "preprocess_cfg": {}}))
    arguments = {
        "model": f"local-dir:{model.resolve()}",
        "train-data": descriptions.name,
        "dataset-type": "csv",
        "csv-separator": ",",
        "csv-img-key": "filepath",
        "csv-caption-key": "title",
        "batch-size": str(batch_size),
        "epochs": str(epochs),
        "lr": "1e-3",
        "wd": "0.1",
        "beta2": "0.98",
        "warmup": "60",
        "grad-clip-norm": "1.0",
        "workers": "1",
        "precision": "amp_bf16",
        "device": "cpu",
        "seed": str(seed),
        "logs": str(out.resolve()),
        "name": "trainer",
        "save-frequency": str(epochs),
        "log-every-n-steps": "10",
    }
    command = [sys.executable, "-m", "open_clip_train.main"]
    for key, value in arguments.items():
        command += [f"--{key}", value]
    command += ["--aug-cfg", "scale=(1.0,1.0)", "ratio=(1.0,1.0)"]  # position and size are what the sentences speak of
    log = out / "train.log"
    with log.open("w") as stream:
        finished = subprocess.run(
            command, cwd=descriptions.parent, stdout=stream, stderr=subprocess.STDOUT, env=os.environ, check=False
        )
    made = out / "trainer" / "checkpoints" / f"epoch_{epochs}.pt"
    if finished.returncode or not made.is_file():
        raise UserError(f"the small CLIP of the demo could not be trained: see the end of {log}.")
    made.replace(weights)
    shutil.rmtree(out / "trainer")
    return config, weights
