"""What a run stood on: versions, revision, machine, command and the annotations, as one JSON object."""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import subprocess
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import BaseModel, StrictStr, ValidationError

from neucore_xl.config.schema import Settings
from neucore_xl.encoding.sentences import fusion_of
from neucore_xl.errors import UserError
from neucore_xl.jsonfile import BadContent, read_bytes, read_json
from neucore_xl.language.planning import FROM_FILES, files_of
from neucore_xl.language.sequence_file import read_header

PACKAGES = (
    "neucore-xl", "torch", "torchvision", "open_clip_torch", "timm", "transformers", "numpy", "spacy", "datasets",
    "safetensors", "accelerate", "deepspeed", "peft",
)  # fmt: skip
NAME = "environment.json"
ANNOTATIONS = ("captions", "captions_ext", "image_splits")


def describe(settings: Settings, command: Sequence[str]) -> dict[str, Any]:
    """The object of ``environment.json``; every fact that cannot be found out is null."""
    return {
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(command),
        "python": platform.python_version(),
        "packages": {name: version_of(name) for name in PACKAGES},
        "git": git_revision(),
        "data": {"root": str(settings.data.root), "fingerprint": data_fingerprint(settings.data.root)},
        "sequences": sequence_files(settings),
        "host": _host(),
    }


class _Data(BaseModel):
    fingerprint: StrictStr | None


class _SequenceFile(BaseModel):
    sha256: StrictStr


class _Environment(BaseModel):
    """What is read again of ``environment.json``; the rest is for people."""

    data: _Data
    packages: dict[str, StrictStr | None] = {}
    sequences: list[_SequenceFile] = []
    resumed: list[dict[str, Any]] = []


def read_environment(path: Path) -> dict[str, Any]:
    """The object of ``environment.json``; raises ``BadContent`` if it is damaged or another file."""
    content = read_json(path, dict)
    try:
        _Environment.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise BadContent(f"{path} is not what a run writes (`{key}`: {first['msg'].lower()}).") from None
    return content


def data_fingerprint(root: Path) -> str | None:
    """SHA-256 over names and contents of the annotation files (JSON) under ``root``; None if there are none."""
    annotations = sorted(p for folder in ANNOTATIONS for p in (root / folder).rglob("*.json") if p.is_file())
    if not annotations:
        return None
    digest = hashlib.sha256()
    for path in annotations:
        content = hashlib.sha256(read_bytes(path)).hexdigest()
        digest.update(f"{path.relative_to(root).as_posix()}\x1f{content}\n".encode())
    return digest.hexdigest()


def sequence_files(settings: Settings) -> list[dict[str, Any]]:
    """Name, SHA-256, planner and settings (model, prompt, …) of the sequence files that a run reads."""
    try:
        fusion = fusion_of(settings)
        if fusion.sequence not in FROM_FILES or fusion.file is None:
            return []
        described = []
        for path in files_of(fusion.file):
            header = read_header(path)
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            described.append(
                {"name": path.name, "sha256": digest} | {k: header.get(k) for k in ("planner", "settings")}
            )
        return described
    except (UserError, OSError):
        return []  # whoever reads the sentences says what is wrong


def git_revision() -> dict[str, Any] | None:
    """Revision and dirty flag of the checkout that holds this package; None outside a checkout or without git."""
    package = Path(__file__).resolve().parent.parent
    top = _git(package, "rev-parse", "--show-toplevel")
    # An installed copy may lie in an environment inside somebody else's repository.
    if top is None or _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    revision = _git(package, "rev-parse", "HEAD")
    status = _git(package, "status", "--porcelain", "--untracked-files=no")
    return {"revision": revision, "dirty": bool(status)} if revision else None


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def version_of(package: str) -> str | None:
    """The installed version of ``package``; None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _host() -> dict[str, Any]:
    import torch

    gpu = torch.cuda.is_available()
    return {
        "system": platform.platform(),
        "cpus": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if gpu else None,
        "gpus": torch.cuda.device_count() if gpu else 0,
    }
