"""A language model by hub name, folder or GGUF file: loaded, with one clear sentence where that fails."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from neucore_xl.errors import UserError

Precision = Literal["auto", "bf16", "fp32"]

_WEIGHTS = (".safetensors", ".bin", ".gguf", ".pt", ".model")
_EDGE = 1 << 20  # bytes at either end of a weight file that its identity reads


@dataclass(frozen=True)
class LanguageModel:
    """A model with its tokenizer, in evaluation mode on its device.

    ``revision`` is the hub's commit, or ``sha256:…`` of local files (see ``local_revision``).
    """

    name: str
    revision: str
    model: Any
    tokenizer: Any
    encoder_decoder: bool
    precision: str
    gguf: bool


def load_language_model(
    name: str | Path, *, revision: str | None = None, device: str = "auto", precision: Precision = "auto"
) -> LanguageModel:
    """Load the model called ``name``: a hub name, a folder, a ``.gguf`` file or a folder with exactly one.

    Args:
        revision: branch, tag or commit of a hub name.
        device: ``auto`` takes the first GPU, or the CPU without one; else a device of torch.
        precision: ``auto`` is bf16 on a GPU that has it, else fp32.

    Raises ``UserError`` when it is not there, not readable, of no known kind or too large for the device.
    """
    import torch

    folder, gguf = _place(str(name))
    place = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    if place.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"there is no GPU for device {device!r}: take cpu")
    dtype = _dtype(precision, place)
    source: dict[str, Any] = {"gguf_file": gguf} if gguf else {}
    if folder is None and revision:
        source["revision"] = revision
    model, tokenizer, encoder_decoder = _load(str(folder or name), str(name), source, dtype)
    try:
        model = model.eval().requires_grad_(False).to(place)
    except (RuntimeError, MemoryError) as error:
        raise _unloadable(str(name), error) from error
    if folder is None:
        found = str(getattr(model.config, "_commit_hash", None) or revision or "unknown")
        label = str(name)
    else:
        found = local_revision(folder, gguf)
        label = gguf or folder.resolve().name
    return LanguageModel(label, found, model, tokenizer, encoder_decoder, str(dtype).removeprefix("torch."), bool(gguf))


def local_revision(folder: Path, gguf: str | None = None) -> str:
    """``sha256:…`` of a local model: names, sizes and both ends (1 MiB) of its weight files, and its JSON files whole.

    Cheap at any size; weights that differ in the middle of a file alone are not told apart.
    """
    digest = hashlib.sha256()
    names = [gguf] if gguf else sorted(p.name for p in folder.iterdir() if p.suffix in (*_WEIGHTS, ".json", ".jinja"))
    for name in names:
        path = folder / name
        size = path.stat().st_size
        digest.update(f"{name}\0{size}\0".encode())
        with path.open("rb") as file:
            if path.suffix in _WEIGHTS and size > 2 * _EDGE:
                digest.update(file.read(_EDGE))
                file.seek(-_EDGE, os.SEEK_END)
            digest.update(file.read())
    return f"sha256:{digest.hexdigest()[:16]}"


def _place(name: str) -> tuple[Path | None, str | None]:
    """Folder and GGUF file of a local model; (None, None) for a hub name."""
    path = Path(name).expanduser()
    if path.is_file():
        if path.suffix != ".gguf":
            raise UserError(f"{name} is a file but no .gguf: give the folder of the model, or its .gguf file")
        return path.parent, path.name
    if path.is_dir():
        if (path / "config.json").is_file():
            return path, None
        found = sorted(p.name for p in path.glob("*.gguf"))
        if len(found) == 1:
            return path, found[0]
        what = f"{len(found)} .gguf files, name one of them" if found else "neither config.json nor a .gguf file"
        raise UserError(f"{name} holds no model that can be loaded: {what}")
    if path.is_absolute() or name.startswith((".", "~")) or path.suffix == ".gguf" or name.count("/") > 1:
        raise UserError(f"there is no model at {name}: check the path")
    return None, None


def _dtype(precision: Precision, device: Any) -> Any:
    import torch

    if precision not in ("auto", "bf16", "fp32"):
        raise UserError(f"unknown precision {precision!r}: take auto, bf16 or fp32")
    if precision == "auto":
        precision = "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    return torch.bfloat16 if precision == "bf16" else torch.float32


def _load(place: str, name: str, source: dict[str, Any], dtype: Any) -> tuple[Any, Any, bool]:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

    try:
        config = AutoConfig.from_pretrained(place, **source)
        encoder_decoder = bool(getattr(config, "is_encoder_decoder", False))
        tokenizer = AutoTokenizer.from_pretrained(place, **source)
        kind = AutoModelForSeq2SeqLM if encoder_decoder else AutoModelForCausalLM
        return kind.from_pretrained(place, dtype=dtype, **source), tokenizer, encoder_decoder
    except Exception as error:  # the hub, the file system, and whatever a model's files hold
        raise _unloadable(name, error) from error


def _unloadable(name: str, error: Exception) -> UserError:
    said = " ".join(str(error).split())
    if "couldn't connect" in said or "offline" in said.lower() or "ConnectionError" in type(error).__name__:
        why = "it is not in the cache and the hub cannot be reached: fetch it where there is a network, or give a path"
    elif "not a valid model identifier" in said or "is not a local folder" in said or "404" in said:
        why = "the hub has no such model or revision, or it needs a login: check the name"
    elif isinstance(error, MemoryError) or "out of memory" in said.lower():
        why = "it does not fit into memory: take a smaller model or another device"
    else:
        why = f"{type(error).__name__}: {said[:300]}"
    return UserError(f"cannot load the language model {name}: {why}")
