"""A trained model as files for elsewhere: one safetensors file with all it takes to load it, and its CLIP alone."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
import yaml
from torch import Tensor

from neucore_xl import __version__, files
from neucore_xl.config.load import dump_yaml, validate_stored
from neucore_xl.config.schema import Settings
from neucore_xl.errors import UserError
from neucore_xl.jsonfile import parse_json
from neucore_xl.language.vocabulary import Vocabulary
from neucore_xl.models.backbone import Backbone
from neucore_xl.models.lora import merged_state
from neucore_xl.runs.checkpoints.checkpoint import Checkpoint, Identity
from neucore_xl.runs.checkpoints.weights import write_weights

FORMAT = "neucore-xl export 1"


@dataclass(frozen=True)
class ExportedCheckpoint(Checkpoint):
    """The checkpoint inside an exported file: ``path`` is the file."""

    def verify(self, names: Any = None) -> list[str]:
        try:
            self.weights()
        except UserError as error:
            return [str(error)]
        return []

    def weights(self) -> dict[str, Tensor]:
        try:
            return safetensors.torch.load_file(self.path)
        except (OSError, safetensors.SafetensorError) as error:
            raise UserError(f"{self.path} is damaged ({error}): export it again.") from error


class ExportedRun:
    """An exported file in the place of a run folder: its settings, its vocabulary and its one checkpoint."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        try:
            with safetensors.safe_open(self.path, framework="pt") as file:
                header = file.metadata() or {}
        except (OSError, safetensors.SafetensorError) as error:
            raise UserError(f"{self.path} cannot be read as an exported model ({error}).") from error
        if header.get("format") != FORMAT:
            raise UserError(
                f"{self.path} is no exported model: make one with `neucore-xl checkpoint export RUN --out FILE`."
            )
        self._header = header

    def settings(self) -> Settings:
        """The settings that the run was trained with."""
        try:
            tree = yaml.safe_load(self._text("config"))
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise self._damaged(f"its settings are no YAML: {type(error).__name__}") from error
        if not isinstance(tree, dict):
            raise self._damaged("its settings are no object")
        return validate_stored(tree, where=f" in {self.path}")

    def vocabulary(self) -> Vocabulary:
        """The concepts of the training split."""
        return Vocabulary.from_json(self._json("vocabulary"), source=str(self.path))

    def checkpoint(self) -> ExportedCheckpoint:
        """The exported weights."""
        step, identity, metrics = self._text("step"), self._json("identity"), self._json("metrics")
        if not (step.isascii() and step.isdigit() and len(step) < 19):
            raise self._damaged("its step is no number of steps")
        if sorted(identity) != sorted(f.name for f in fields(Identity)) or not _all(identity, str):
            raise self._damaged("its identity is of another form")
        if not _all(metrics, int | float):
            raise self._damaged("its metrics are no numbers")
        return ExportedCheckpoint(self.path, int(step), Identity(**identity), metrics, {"files": {}})

    def _text(self, key: str) -> str:
        if key not in self._header:
            raise self._damaged(f"its header has no {key}")
        return str(self._header[key])

    def _json(self, key: str) -> dict[str, Any]:
        return parse_json(self._text(key), f"{self.path}, {key} of its header", dict, allow_nan=True)

    def _damaged(self, what: str) -> UserError:
        return UserError(f"{self.path} is damaged ({what}): export it again.")


def _all(values: dict[str, Any], kind: Any) -> bool:
    return all(isinstance(value, kind) and not isinstance(value, bool) for value in values.values())


def export_weights(
    checkpoint: Checkpoint, settings: Settings, vocabulary: Vocabulary, out: Path, *, force: bool = False
) -> int:
    """Write what training changed, in fp32 and in one piece, to ``out``; returns the number of tensors.

    The header of the file (string to string) holds ``format``, ``version``, ``step``, ``row``, ``backbone`` (the
    fingerprint of the frozen weights), ``identity``, ``metrics``, ``config`` (YAML), ``config_sha256`` and
    ``vocabulary``. Raises ``UserError``: ``out`` exists and ``force`` is not set, or the disk refuses it.
    """
    config = dump_yaml(settings)
    metadata = {
        "format": FORMAT,
        "version": __version__,
        "step": str(checkpoint.step),
        "row": checkpoint.identity.row,
        "backbone": checkpoint.identity.backbone,
        "identity": json.dumps(asdict(checkpoint.identity)),
        "metrics": json.dumps(dict(checkpoint.metrics)),
        "config": config,
        "config_sha256": hashlib.sha256(config.encode()).hexdigest(),
        "vocabulary": json.dumps(vocabulary.to_json()),
    }
    weights = checkpoint.weights()
    _write(weights, out, metadata, force)
    return len(weights)


def export_clip(backbone: Backbone, out: Path, *, force: bool = False) -> int:
    """Write the CLIP of a loaded backbone, frozen towers included, to ``out`` (``.safetensors`` or ``.pt``).

    ``open_clip.create_model(name, pretrained=str(out))`` loads it without this package. Adapters are added to the
    weights they adapt. Raises ``UserError`` for a model whose parts are not all there (CoCa's captioner was taken
    off, given features took the place of the image tower), an existing ``out`` without ``force``, and a disk that
    refuses it.
    """
    if backbone.given is not None:
        raise UserError("a system that reads given features has no image tower: there is no CLIP to export.")
    if hasattr(backbone.clip, "text_decoder"):
        raise UserError("a CoCa model was trained without its captioner: its CLIP part cannot be exported.")
    state = merged_state(backbone)
    for name in ("logit_scale", "logit_bias"):
        if name in state:
            state[name] = state[name].reshape(())  # as open_clip builds them, not as DeepSpeed needs them
    _write(state, out, {"format": "pt"}, force)
    return len(state)


def check_out(out: Path, *, force: bool = False) -> None:
    """Raise ``UserError`` for a file that exists (without ``force``) or a folder that is not there."""
    if out.exists() and not force:
        raise UserError(f"{out} exists: choose another name, or give --force to replace it.")
    if not out.parent.is_dir():
        raise UserError(f"{out.parent} is no folder: make it first.")
    if out.suffix not in (".safetensors", ".pt"):
        raise UserError(f"{out} must end in .safetensors (or, for a CLIP, .pt).")


def _write(tensors: dict[str, Tensor], out: Path, metadata: dict[str, str], force: bool) -> None:
    check_out(out, force=force)
    with files.disk_errors("exporting", out.parent), files.new_file(out) as temporary:
        if out.suffix == ".pt":
            with files.plain_writer(temporary) as file:
                torch.save({k: v.detach().cpu().clone() for k, v in tensors.items()}, file)  # type: ignore[arg-type]
        else:
            write_weights(tensors, temporary.parent, temporary.name, metadata)
