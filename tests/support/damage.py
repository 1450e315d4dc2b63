"""Ways in which a file of a run can be damaged or replaced; ``damage("cut", path)``."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

NUMBER = "1" * 5000  # more digits than Python reads as a number
DEEP = "[" * 100_000 + "]" * 100_000


def _special(kind: str, path: Path) -> bool:
    """Something that is no file in its place."""
    if kind == "folder":
        path.mkdir()
        (path / "inside").write_text("x")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "dangling":
        path.symlink_to(path.name + "-that-is-not")
    else:
        return False
    return True


CONTENTS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda old: b"",
    "blank": lambda old: b" \n \n",
    "cut": lambda old: old[: len(old) // 2],
    "longer": lambda old: old + b"x",
    "flipped": lambda old: bytes([old[0] ^ 255]) + old[1:],
    "zeros": lambda old: bytes(len(old)),
    "garbage": lambda old: bytes(range(256)) * 4,
    "another kind": lambda old: b"\x89PNG\r\n\x1a\n" + bytes(100),
    "a list": lambda old: b"[1, 2, 3]",
    "a text": lambda old: b'"' + b"x" * 20 + b'"',
    "null": lambda old: b"null",
    "an empty object": lambda old: b"{}",
    "another object": lambda old: b'{"step": "two", "path": 7, "data": [1], "packages": [], "files": 3, "format": []}',
    "deep": lambda old: DEEP.encode(),
    "deep object": lambda old: b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "huge number": lambda old: ('{"step": ' + NUMBER + ', "format": ' + NUMBER + "}").encode(),
    "half a character": lambda old: b'{"path": "step-\\ud800", "\\udfff": 1, "format": 2}',
    "not UTF-8": lambda old: b'{"path": "\xff\xfe"}',
    "NUL": lambda old: b'{"path": "step-\\u0000", "step": 1}\x00',
    "file": lambda old: b"a file",
    "dangling pointer": lambda old: b'{"step": 77, "path": "step-00000077", "metrics": {}}',
    "pointer out of the folder": lambda old: b'{"step": 10, "path": "../checkpoints/step-00000010"}',
    "pointer of numbers": lambda old: b'{"step": 10, "path": 10, "metrics": 3}',
}
SPECIAL = ("folder", "fifo", "loop", "dangling")
JSON_DAMAGES = (
    "empty", "blank", "cut", "flipped", "zeros", "garbage", "another kind", "a list", "a text", "null",
    "an empty object", "another object", "deep", "deep object", "huge number", "half a character", "not UTF-8", "NUL",
    *SPECIAL, "gone",
)  # fmt: skip
DAMAGES = ("empty", "cut", "flipped", "garbage", "a list", "an empty object", "deep", "huge number", *SPECIAL, "gone")


def damage(kind: str, path: Path) -> None:
    """Do ``kind`` (of the above) to ``path``, which may be a file or a folder or nothing yet."""
    old = path.read_bytes() if path.is_file() else b""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.is_dir():
        shutil.rmtree(path)
    if kind != "gone" and not _special(kind, path):
        path.write_bytes(CONTENTS[kind](old))


def as_json(value: Any) -> str:
    """``value`` as JSON, with ``NUMBER`` where a text says so."""
    return json.dumps(value).replace('"NUMBER"', NUMBER)


def _with(*keys: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    def change(content: dict[str, Any]) -> Any:
        changed = deepcopy(content)
        part = changed
        for key in keys[:-1]:
            part = part[key]
        if value is None:
            del part[keys[-1]]
        else:
            part[keys[-1]] = value
        return changed

    return change


def _nested(value: Any, levels: int) -> Any:
    for _ in range(levels):
        value = [value]
    return value


# Changes of a whole checkpoint's manifest, which is then no manifest of a whole checkpoint.
MANIFESTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no files at all": _with("files", value={}),
    "no key files": _with("files", value=None),
    "files as a list": _with("files", value=[]),
    "files as a number": _with("files", value=7),
    "no weights": _with("files", "model.safetensors", value=None),
    "no training state": _with("files", "training.pt", value=None),
    "a file without size": _with("files", "training.pt", "bytes", value=None),
    "a file without digest": _with("files", "training.pt", "sha256", value=None),
    "a size as text": _with("files", "training.pt", "bytes", value="many"),
    "a huge size": _with("files", "training.pt", "bytes", value="NUMBER"),
    "a negative size": _with("files", "training.pt", "bytes", value=-1),
    "a digest as number": _with("files", "training.pt", "sha256", value=7),
    "an entry as text": _with("files", "training.pt", value="whole"),
    "a file outside": _with("files", "../../outside", value={"bytes": 0, "sha256": "0" * 64}),
    "an absolute file": _with("files", "/etc/hostname", value={"bytes": 0, "sha256": "0" * 64}),
    "NUL in a name": _with("files", "a\x00b", value={"bytes": 0, "sha256": "0" * 64}),
    "half a character in a name": _with("files", "a\ud800b", value={"bytes": 0, "sha256": "0" * 64}),
    "a long name": _with("files", "n" * 5000, value={"bytes": 0, "sha256": "0" * 64}),
    "no format": _with("format", value=None),
    "a format as text": _with("format", value="two"),
    "a format from tomorrow": _with("format", value=99),
    "a huge format": _with("format", value="NUMBER"),
    "no step": _with("step", value=None),
    "another step": _with("step", value=10),
    "a step as list": _with("step", value=[20]),
    "a huge step": _with("step", value="NUMBER"),
    "no identity": _with("identity", value=None),
    "identity as text": _with("identity", value="mine"),
    "identity without row": _with("identity", "row", value=None),
    "identity of numbers": _with("identity", value={"row": 1, "backbone": 2, "vocabulary": 3}),
    "metrics as list": _with("metrics", value=[1]),
    "metrics of texts": _with("metrics", value={"mean": "high"}),
    "no metrics": _with("metrics", value=None),
    "parallel as list": _with("parallel", value=[]),
    "another strategy": _with("parallel", "strategy", value="magic"),
    "a plain run as a sharded one": _with(
        "parallel", value={"strategy": "deepspeed", "zero_stage": 2, "world_size": 1}
    ),
    "processes as text": _with("parallel", "world_size", value="two"),
    "no processes": _with("parallel", "world_size", value=0),
    "stage seven": _with("parallel", "zero_stage", value=7),
    "nested deeply": lambda content: {**content, "tensors": _nested(1, 800)},
    "a list": lambda content: [content],
    "null": lambda content: None,
}
