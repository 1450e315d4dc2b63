"""Files that a command was asked to write: whole or not at all, and never over something of another kind."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from neucore_xl.errors import UserError
from neucore_xl.files import json_bytes, output_file
from neucore_xl.jsonfile import parse_json, read_bytes


def write_own(path: Path, text: str, *, replaces: Callable[[str], bool]) -> None:
    """Write ``text`` to ``path`` atomically; an existing file is replaced only where ``replaces(its text)`` holds.

    Raises `UserError` for a file that this command did not write, and for a folder that cannot be written.
    """
    with output_file(path) as temporary:
        if os.path.lexists(path) and not replaces(read_bytes(path).decode("utf-8", "replace")):
            raise UserError(f"{path} exists and was not written by this command; remove it or choose another name.")
        temporary.write_text(text, encoding="utf-8")


def write_report(path: Path, report: dict[str, Any]) -> None:
    """Write a report; an earlier report with the same top-level keys is replaced, another file is not."""

    def same_kind(old: str) -> bool:
        try:
            return set(parse_json(old, str(path), dict, allow_nan=True)) == set(report)
        except UserError:
            return False

    write_own(path, json_bytes(report).decode(), replaces=same_kind)
