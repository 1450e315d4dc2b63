"""Reading JSON that anybody may have written, so that every failure is one sentence with the file and the line.

Annotations, manifests, caches, submissions and the answers of servers all come through here. What is read is a
regular file of bounded size (a pipe would be waited for, a device never ends), UTF-8, nested at most ``DEPTH`` deep,
with numbers that a computer can hold: Python's own reader takes infinities, and fails on long numbers and on depth.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from neucore_xl.errors import UserError

T = TypeVar("T")

LIMIT = 1 << 30  # bytes of a file: fifty times the largest annotation of the field
MISSING = "check the folder and the name of the split"  # the end of the sentence about a file that does not exist
MISSING_FILE = "is missing"  # of what ``regular`` says
DEPTH = 100  # lists and objects inside each other
_LONGEST = 19  # digits of a whole number; 64 bits hold no more
_TYPE_NAMES = {list: "a list", dict: "an object", str: "a text", int: "a number"}
_HALF = re.compile(r"\\u[dD][89a-fA-F]")  # perhaps half of a character that is written as two


class BadContent(UserError):
    """A file or text that could be read and holds something else than it should: damaged, cut or of another kind.

    A plain ``UserError`` of these readers means that nothing could be read: missing, no permission, no regular file.
    """


def read_json(
    path: Path | str,
    expect: type[T],
    *,
    clashes: list[str] | None = None,
    limit: int = LIMIT,
    allow_nan: bool = False,
    missing: str = MISSING,
) -> T:
    """The value stored in ``path``, which must be of type ``expect`` (``list``, ``dict``, …).

    ``clashes`` collects the keys that one object of the file holds more than once (JSON readers keep the last
    value without a word). ``missing``: what to do where there is no file. Raises ``UserError`` naming the file (and
    the line, where there is one) when it is missing, unreadable or longer than ``limit`` bytes, and ``BadContent``
    when it is not UTF-8, malformed or of another type.
    """
    return _parse(read_text(path, limit=limit, missing=missing), str(path), expect, clashes, allow_nan)


def parse_json(
    text: str | bytes, where: str, expect: type[T], *, clashes: list[str] | None = None, allow_nan: bool = False
) -> T:
    """The value in ``text``, of type ``expect``; raises ``BadContent`` whose sentence begins with ``where``.

    Half characters in texts and keys become "?". ``allow_nan`` lets NaN and infinities pass.
    """
    return _parse(text if isinstance(text, str) else _decoded(text, where), where, expect, clashes, allow_nan)


def read_text(path: Path | str, *, limit: int = LIMIT, missing: str = MISSING) -> str:
    """The UTF-8 text of the regular file ``path``, without a byte-order mark; errors as of ``read_json``."""
    raw = read_bytes(path, limit=limit, missing=missing)
    if not raw.strip():
        raise BadContent(f"{path} is empty; it was probably not copied completely.")
    return _decoded(raw, str(path))


def read_bytes(path: Path | str, *, limit: int = LIMIT, missing: str = MISSING) -> bytes:
    """The content of the regular file ``path``, of at most ``limit`` bytes; raises ``UserError`` otherwise."""
    found = regular(path)
    if isinstance(found, str):
        gone = found == MISSING_FILE
        raise UserError(f"{path} does not exist; {missing}." if gone else f"{path} {found}; put the right file there.")
    if found.st_size > limit:
        raise UserError(f"{path} has {found.st_size:,} bytes, more than the {limit:,} that are read.")
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise refused(path, error) from error


def regular(path: Path | str) -> os.stat_result | str:
    """What the system says of the file ``path``, or, in words, what is in its place; ``UserError`` if it refuses."""
    try:
        found = os.stat(path)  # noqa: PTH116 (a Path of Python 3.13 reports loops of links in another way)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
            return "is a link to itself" if error.errno == errno.ELOOP else MISSING_FILE
        raise refused(path, error) from error
    except ValueError:
        raise UserError(f"{path!r} is not a name that a file can have; check where it comes from.") from None
    if stat.S_ISDIR(found.st_mode):
        return "is a folder, not a file"
    return found if stat.S_ISREG(found.st_mode) else "is a pipe or a device, not a file"


def refused(path: Path | str, error: OSError) -> UserError:
    """What to say where the system does not let ``path`` be read, which is no damage: nothing is to be given up."""
    why = error.strerror or str(error)
    return UserError(f"{path} cannot be read ({why}): nothing was changed; mend the disk or the permissions first.")


def _decoded(raw: bytes, where: str) -> str:
    try:
        return raw.decode("utf-8-sig")  # some editors put a byte-order mark in front
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise BadContent(f"{where}, line {line}: not UTF-8 text; save the file as UTF-8.") from None


def _parse(text: str, where: str, expect: type[T], clashes: list[str] | None, allow_nan: bool) -> T:
    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(items)
        if clashes is not None and len(value) != len(items):
            seen: set[str] = set()
            for key, _ in items:
                if key in seen:
                    clashes.append(key)
                seen.add(key)
        return value

    def refused(number: str, why: str) -> BadContent:
        line = text.count("\n", 0, max(text.find(number), 0)) + 1
        shown = number if len(number) <= 30 else f"{number[:12]}… of {len(number):,} digits"
        return BadContent(f"{where}, line {line}: the number {shown} {why}; mend it.")

    def whole(number: str) -> int:
        if len(number.lstrip("-")) > _LONGEST:
            raise refused(number, "is too large")
        return int(number)

    def real(number: str) -> float:
        value = float(number)
        if value in (float("inf"), float("-inf")) and not allow_nan:
            raise refused(number, "is too large")
        return value

    def constant(name: str) -> float:
        if not allow_nan:
            raise refused(name, "is not one that can be computed with")
        return float(name)

    try:
        value = json.loads(
            text,
            object_pairs_hook=None if clashes is None else pairs,
            parse_int=whole,
            parse_float=real,
            parse_constant=constant,
        )
        deep = _deeper(value, DEPTH)
    except json.JSONDecodeError as error:
        place = f"{where}, line {error.lineno}, column {error.colno}"
        raise BadContent(f"{place}: not valid JSON ({error.msg}); mend or replace the file.") from None
    except RecursionError:
        deep = True
    if deep:
        raise BadContent(f"{where} is nested too deeply to be what it should be (over {DEPTH} levels); replace it.")
    if not isinstance(value, expect):
        wanted, got = (_TYPE_NAMES.get(t, t.__name__) for t in (expect, type(value)))
        raise BadContent(f"{where} holds {got} where {wanted} is expected; check that it is the right file.")
    return _whole_characters(value) if _HALF.search(text) else value


def _deeper(value: Any, levels: int) -> bool:
    """Whether lists and objects lie more than ``levels`` deep inside each other."""
    layer = [value]
    for _ in range(levels + 1):
        containers = [
            item.values() if isinstance(item, dict) else item for item in layer if isinstance(item, dict | list)
        ]
        if not containers:
            return False
        layer = [item for container in containers for item in container if isinstance(item, dict | list)]
    return True


def _whole_characters(value: Any) -> Any:
    """``value`` with "?" for every half character, which no file and no terminal could be given."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, list):
        return [_whole_characters(item) for item in value]
    if isinstance(value, dict):
        return {_whole_characters(key): _whole_characters(item) for key, item in value.items()}
    return value


def one_line(text: str) -> str:
    """``text`` with white space as single blanks and without outer white space; half characters become "?"."""
    return " ".join(text.encode("utf-8", "replace").decode("utf-8").split())


def text_field(row: Any, key: str, where: str) -> str:
    """``row[key]``, a text; raises ``BadContent`` beginning with ``where`` if it is missing or of another type."""
    if not isinstance(row, dict):
        raise BadContent(f"{where} is not an object; every row is one JSON object.")
    if key not in row:
        raise BadContent(f"{where} has no `{key}`; add it.")
    value = row[key]
    if not isinstance(value, str):
        raise BadContent(f"{where}: `{key}` must be a text, not {repr(value)[:80]}.")
    return value


def text_list(values: Any, where: str) -> Sequence[str]:
    """``values`` if it is a list of texts; raises ``BadContent`` beginning with ``where`` otherwise."""
    if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
        raise BadContent(f"{where} must be a list of texts, not {str(values)[:80]}.")
    return values


def file_name(name: str, where: str) -> str:
    """``name`` if it can name a file below a folder; raises ``BadContent`` beginning with ``where`` otherwise.

    Refused: an empty name, control and half characters, an absolute path, and ``..``, which leaves the folder.
    """
    if not name.strip() or any(ord(c) < 32 or 0xD800 <= ord(c) < 0xE000 for c in name):
        raise BadContent(f"{where}: {repr(name)[:80]} is not a name that a file can have.")
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise BadContent(f"{where}: {repr(name)[:80]} leads out of the folder it belongs to; give a path inside it.")
    return name
