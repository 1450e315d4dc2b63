"""Sentences name only flags that exist: one that was renamed, or never was, sends a user astray."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import typer

from neucore_xl.cli import app

ROOT = Path(__file__).parent.parent
SOURCES = [*sorted((ROOT / "neucore_xl").rglob("*.py")), *sorted((ROOT / "eval").glob("*.py"))]
FLAG = re.compile(r"(?<![\w-])--[a-z][\w-]*")
FOREIGN = {  # of launchers, which sentences advise
    *("--config_file", "--cpu", "--deepspeed_config_file", "--multi_gpu"),  # accelerate launch
    "--ntasks-per-node",  # srun
}


def spoken(tree: ast.Module) -> Iterator[str]:
    """The string constants that are neither docstrings nor single words of a command line, which declare or give it."""
    docstrings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        text = node.value if isinstance(node, ast.Constant) and node not in docstrings else None
        if isinstance(text, str) and " " in text:
            yield text


def declared() -> set[str]:
    """The options of the command, its sub-commands, and of everything that is started with ``python``."""
    found: set[str] = set()
    commands = [typer.main.get_command(app)]
    while commands:
        command = commands.pop()
        found |= {name for p in command.params for name in (*p.opts, *p.secondary_opts)}
        commands += getattr(command, "commands", {}).values()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument":
                found |= {a.value for a in node.args if isinstance(a, ast.Constant) and str(a.value).startswith("--")}
    return found


def test_every_flag_that_a_sentence_names_is_one_of_a_command() -> None:
    known = declared()
    assert {"--run-dir", "--planner", "--free-gib", "--labels"} <= known
    unknown = {
        f"{flag} in {path.relative_to(ROOT)}"
        for path in SOURCES
        for text in spoken(ast.parse(path.read_text(encoding="utf-8")))
        for flag in FLAG.findall(text)
        if flag not in known | FOREIGN
    }
    assert not unknown, sorted(unknown)
