"""What reaches a terminal: text as text, never as an instruction to it.

Names, sentences, keys and answers of servers may hold control characters, which a terminal obeys: they move the
cursor, rewrite what was said before, even change the title. Here they become visible escapes. Markup of ``rich`` in
such words (``[red]``) is text as well. A terminal without Unicode gets escapes in place of an error.
"""

from __future__ import annotations

import io
import logging
import re
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

# C0 and C1 without tab and newline; line and paragraph separators; what turns the direction of writing; half characters
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: object) -> str:
    """``str(text)`` with every control character as an escape (``\\x1b``, ``\\u202e``); tabs and newlines stay."""
    return _CONTROLS.sub(lambda found: ascii(found.group())[1:-1], str(text))


def console(*, stderr: bool = False, file: Any = None, **options: Any) -> Console:
    """The console of the program, on standard output, ``stderr`` or ``file``.

    A text that is printed, alone or in a table, is text: no markup, no emoji names, no highlighting (pass
    ``rich.text.Text`` or a ``style`` for colours), and its control characters are shown as escapes. ``options`` are
    those of ``rich.console.Console``.
    """
    from rich.console import Console
    from rich.segment import Segment

    class Plain(Console):
        def render_str(self, text: str, **words: Any) -> Any:
            return super().render_str(printable(text), **words)

        def render(self, renderable: Any, options: Any = None) -> Any:
            for segment in super().render(renderable, options):
                if segment.control or not _CONTROLS.search(segment.text):
                    yield segment
                else:
                    yield Segment(printable(segment.text), segment.style)

    return Plain(file=file, stderr=stderr, markup=False, emoji=False, highlight=False, **options)


def say(text: object = "", *, stderr: bool = False) -> None:
    """Print ``printable(text)`` and a newline at once, for lines that need no console."""
    print(printable(text), file=sys.stderr if stderr else sys.stdout, flush=True)


def prepare() -> None:
    """For the start of a command: no character stops a sentence from being printed, and warnings are cleaned.

    What standard output and error cannot encode is escaped; the last handler of ``logging``, which prints warnings
    where nobody set up another, shows control characters as escapes.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_Printable("%(message)s"))


class _Printable(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))
