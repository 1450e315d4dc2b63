"""A checkpoint's manifest as something that anybody may have written, and a disk damaged: read, and held to its form.

Damage and a system that refuses are told apart: a ``BadContent`` means that the checkpoint cannot be used, any other
``UserError`` that it could not be looked at (no permission, an error of the disk) and may be whole.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from neucore_xl.jsonfile import BadContent, file_name, read_json, regular

FORMAT = 2
WEIGHTS, TRAINING, MANIFEST = "model.safetensors", "training.pt", "manifest.json"
ZERO, TAG = "zero", "state"  # DeepSpeed's own files lie in zero/state/


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)


class _File(_Part):
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class _Identity(_Part):
    row: str
    backbone: str
    vocabulary: str


class _Parallel(_Part):
    strategy: Literal["plain", "ddp", "deepspeed"] = "plain"
    zero_stage: int = Field(0, ge=0, le=3)
    world_size: int = Field(1, ge=1)
    deepspeed: str | None = None


class _Manifest(_Part):
    format: int = Field(ge=1)
    step: int = Field(ge=0)
    identity: _Identity
    metrics: dict[str, float]
    files: dict[str, _File]
    parallel: _Parallel = _Parallel()
    tensors: dict[str, list[int]] | None = None


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of the checkpoint ``folder``; raises ``BadContent`` if it is damaged or lacks what such a
    checkpoint needs, and ``UserError`` where the system refuses to read it."""
    path = folder / MANIFEST
    found = regular(path)
    if isinstance(found, str):
        raise BadContent(f"{path} {found}")
    content = read_json(path, dict, allow_nan=True)
    version = content.get("format")
    if isinstance(version, int) and version > FORMAT:
        raise BadContent(f"{path} is of format {version}, written by a newer neucore-xl than this one")
    try:
        manifest = _Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise BadContent(f"{path}: `{key}` is not what a manifest holds ({first['msg'].lower()})") from None
    for name in manifest.files:
        file_name(name, str(path))
    if folder.name.startswith("step-") and folder.name[5:].lstrip("0") != str(manifest.step).lstrip("0"):
        raise BadContent(f"{path} is of step {manifest.step}, its folder of another")
    shards = (path.relative_to(folder).as_posix() for path in (folder / ZERO).rglob("*.pt"))
    if strangers := sorted(name for name in shards if name not in manifest.files):
        raise BadContent(f"{folder / strangers[0]} is not listed in {MANIFEST}, and DeepSpeed would read it")
    if lacking := _lacking(manifest):
        raise BadContent(f"{path} lists no {lacking}, without which nothing can go on from it")
    return content


def _lacking(manifest: _Manifest) -> str | None:
    """A file that a checkpoint of this kind must have and the manifest does not list."""
    if TRAINING not in manifest.files:
        return TRAINING
    parallel = manifest.parallel
    if parallel.strategy != "deepspeed":
        return None if WEIGHTS in manifest.files else WEIGHTS
    if manifest.tensors is None:
        return "`tensors`"
    state = [name for name in manifest.files if name.startswith(f"{ZERO}/{TAG}/")]
    for kind, wanted in (
        ("model_states", parallel.world_size if parallel.zero_stage == 3 else 1),
        ("optim_states", parallel.world_size if parallel.zero_stage else 0),
    ):
        found = sum(name.endswith(f"{kind}.pt") for name in state)
        if found < wanted:
            return f"{wanted} files {ZERO}/{TAG}/*_{kind}.pt (it lists {found})"
    return None
