"""Reading JSON so that every failure is one sentence with the file and the line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from neucore_xl.errors import UserError

T = TypeVar("T")

_TYPE_NAMES = {list: "a list", dict: "an object", str: "a text", int: "a number"}


def read_json(path: Path | str, expect: type[T], *, clashes: list[str] | None = None) -> T:
    """The value stored in ``path``, which must be of type ``expect`` (``list``, ``dict``, …).

    ``clashes`` collects the keys that one object of the file holds more than once (JSON readers keep the last
    value without a word). Raises ``UserError`` naming the file (and the line, where there is one) when it is missing,
    unreadable, not UTF-8, malformed or of another type.
    """
    path = Path(path)
    text = _read_text(path)

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(items)
        if clashes is not None and len(value) != len(items):
            seen: set[str] = set()
            for key, _ in items:
                if key in seen:
                    clashes.append(key)
                seen.add(key)
        return value

    try:
        value = json.loads(text, object_pairs_hook=pairs)
    except json.JSONDecodeError as error:
        place = f"{path}, line {error.lineno}, column {error.colno}"
        raise UserError(f"{place}: not valid JSON ({error.msg}); mend or replace the file.") from None
    except RecursionError:
        raise UserError(f"{path} is nested too deeply to be an annotation file; replace it.") from None
    if not isinstance(value, expect):
        wanted, got = (_TYPE_NAMES.get(t, t.__name__) for t in (expect, type(value)))
        raise UserError(f"{path} holds {got} where {wanted} is expected; check that it is the right file.")
    return value


def _read_text(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; check the folder and the name of the split.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); check its permissions.") from None
    if not raw.strip():
        raise UserError(f"{path} is empty; it was probably not copied completely.")
    try:
        return raw.decode("utf-8-sig")  # some editors put a byte-order mark in front
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}, line {line}: not UTF-8 text; save the file as UTF-8.") from None


def one_line(text: str) -> str:
    """``text`` with white space as single blanks and without outer white space; half characters become "?"."""
    return " ".join(text.encode("utf-8", "replace").decode("utf-8").split())


def text_field(row: Any, key: str, where: str) -> str:
    """``row[key]``, a text; raises ``UserError`` beginning with ``where`` if it is missing or of another type."""
    if not isinstance(row, dict):
        raise UserError(f"{where} is not an object; every row is one JSON object.")
    if key not in row:
        raise UserError(f"{where} has no `{key}`; add it.")
    value = row[key]
    if not isinstance(value, str):
        raise UserError(f"{where}: `{key}` must be a text, not {value!r}.")
    return value


def text_list(values: Any, where: str) -> Sequence[str]:
    """``values`` if it is a list of texts; raises ``UserError`` beginning with ``where`` otherwise."""
    if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
        raise UserError(f"{where} must be a list of texts, not {str(values)[:80]}.")
    return values
