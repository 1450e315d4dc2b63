"""Files that a command was asked to write: whole or not at all, and never over something of another kind."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from neucore_xl.errors import UserError
from neucore_xl.files import output_file
from neucore_xl.jsonfile import parse_json, read_bytes


def write_own(path: Path, text: str, *, replaces: Callable[[str], bool]) -> None:
    """Write ``text`` to ``path`` atomically; an existing file is replaced only where ``replaces(its text)`` holds.

    Raises `UserError` for a file that this command did not write, and for a folder that cannot be written.
    """
    with output_file(path) as temporary:
        if os.path.lexists(path) and not replaces(read_bytes(path).decode("utf-8", "replace")):
            raise UserError(f"{path} exists and was not written by this command; remove it or choose another name.")
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_report(path: Path, report: dict[str, Any]) -> None:
    """Write a report; an earlier report with the same top-level keys is replaced, another file is not."""

    def same_kind(old: str) -> bool:
        try:
            return set(parse_json(old, str(path), dict, allow_nan=True)) == set(report)
        except UserError:
            return False

    text = json.dumps(report, indent=2, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()
    write_own(
        path, text + "\n", replaces=same_kind
    )  # half characters, of file names that are no text, as JSON has them
