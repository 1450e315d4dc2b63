"""What is printed is text: no escape of a name or a server reaches a terminal, and no character stops a sentence."""

from __future__ import annotations

import io
import logging
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table
from rich.text import Text

from neucore_xl import terminal
from neucore_xl.errors import UserError, one_sentence
from neucore_xl.terminal import printable


@given(st.text(alphabet=st.characters(categories=("L", "N", "P", "S", "Zs"))))
def test_letters_numbers_and_signs_stay(text: str) -> None:
    assert printable(text) == text


@given(st.text(alphabet=st.characters(categories=("Cc", "Cs", "Zl", "Zp")), min_size=1))
def test_controls_become_escapes(text: str) -> None:
    shown = printable(text)
    assert all(c.isprintable() or c in "\t\n" for c in shown)
    assert printable(shown) == shown


def test_escapes_are_the_usual_ones() -> None:
    assert printable("a\x1b[31mb\r\x9b\u202e\ud800c\n\t") == "a\\x1b[31mb\\r\\x9b\\u202e\\ud800c\n\t"
    assert one_sentence(UserError("no \x1b]0;title\x07"))[0] == "no \\x1b]0;title\\x07"  # type: ignore[index]


@pytest.mark.parametrize("tty", [False, True])
def test_the_console_takes_text_as_text(tty: bool) -> None:
    out = io.StringIO()
    console = terminal.console(file=out, width=80, force_terminal=tty, color_system="standard" if tty else None)
    hostile = "x/[/red] [bold]b[/bold] :smile: \x1b[2J\x9b"
    console.print(hostile, style="bold")
    console.print(Text(hostile), Text.assemble("a ", (hostile, "red")))
    table = Table(hostile, title=hostile)
    table.add_row(hostile)
    table.add_row(Text(hostile, "red"))
    console.print(table)
    said = out.getvalue()
    assert said.count("x/[/red]") >= 5
    assert said.count("[bold]b[/bold]") >= 5
    assert ":smile:" in said
    assert "\x1b[2J" not in said
    assert "\x9b" not in said
    assert ("\x1b[31m" in said) == tty


def test_a_terminal_without_unicode_and_half_characters_get_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    for encoding, expected in (("ascii", b"\\u2265 \\udcff\n"), ("utf-8", "≥ \\udcff\n".encode())):
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
        terminal.prepare()
        print("≥ \udcff", flush=True)
        assert raw.getvalue() == expected


def test_warnings_are_cleaned(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    monkeypatch.setattr(logging, "lastResort", handler)
    terminal.prepare()
    handler.handle(logging.LogRecord("x", logging.WARNING, "", 0, "bad %s", ("\x1b[2J",), None))
    assert out.getvalue() == "bad \\x1b[2J\n"
