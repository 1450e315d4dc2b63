"""Prompts that somebody damaged or made to do harm: one sentence each."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from neucore_xl.errors import UserError
from neucore_xl.language.llm.prompt import DEFAULT, load_prompt
from tests.support.strange import DIGITS, told

pytestmark = pytest.mark.usefixtures("nobody_waits")
BOMB = "\n".join(
    [f"a0: &a0 [{', '.join(['boom'] * 10)}]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 8))]
)
MERGES = "\n".join(
    ["m0: &m0 {k: v}", *(f"m{i}: &m{i} {{<<: [{', '.join([f'*m{i - 1}'] * 12)}]}}" for i in range(1, 8))]
)


def shipped() -> str:
    import neucore_xl.language.llm.prompt as module

    return (Path(module.__file__).parent / "prompts" / f"{DEFAULT}.yaml").read_text(encoding="utf-8")


def swapped(key: str, value: str) -> str:
    """The shipped prompt with another value for one of its keys."""
    blocks = re.split(r"(?m)^(?=[a-z_]+:)", shipped())
    return "".join(f"{key}: {value}\n" if block.startswith(f"{key}:") else block for block in blocks)


PROMPTS: dict[str, Callable[[], str | bytes]] = {
    "empty": lambda: "",
    "a text": lambda: "hello",
    "a list": lambda: "[1, 2]",
    "a number of 5,000 digits": lambda: DIGITS,
    "not UTF-8": lambda: b"\xff\xfe\x00",
    "NUL": lambda: b"name: a\x00b",
    "escapes": lambda: "name: \x1b[31m",
    "tabs": lambda: "name:\n\t- x",
    "deep lists": lambda: "[" * 20_000 + "]" * 20_000,
    "deep mappings": lambda: "{a: " * 5000 + "1" + "}" * 5000,
    "a bomb of aliases": lambda: BOMB,
    "a bomb of merges": lambda: MERGES,
    "a bomb in the operations": lambda: BOMB + "\n" + swapped("operations", "*a8"),
    "a bomb in one operation": lambda: BOMB + "\n" + shipped().replace("operations:", "operations:\n  keep: *a8", 1),
    "a list that holds itself": lambda: swapped("examples", "&x [*x]"),
    "a mapping that holds itself": lambda: swapped("operations", "&x {keep: *x}"),
    "an alias of nothing": lambda: swapped("name", "*nothing"),
    "an object of Python": lambda: swapped("name", "!!python/object/apply:os.system ['true']"),
    "a key that is a list": lambda: "? [a, b]\n: c\n",
    "two documents": lambda: shipped() + "\n---\nname: other\n",
    "a date that is none": lambda: swapped("examples", "2024-99-99"),
    "a name of a long number": lambda: swapped("question", DIGITS),
    "a question without its place": lambda: swapped("question", "hello"),
    "a question with two places": lambda: swapped("question", "'{sentence} {sentence}'"),
    "an instruction of a list": lambda: swapped("instruction", "[a]"),
    "a question of a mapping": lambda: swapped("question", "{a: b}"),
    "operations of a text": lambda: swapped("operations", "keep"),
    "operations of a list": lambda: swapped("operations", "[keep]"),
    "operations of another name": lambda: swapped("operations", "{hop: x}"),
    "formats of a number": lambda: swapped("formats", "7"),
    "examples of a number": lambda: swapped("examples", "7"),
    "examples of texts": lambda: swapped("examples", "[a, b]"),
    "examples of lists": lambda: swapped("examples", "[[a], [b]]"),
    "an example without steps": lambda: swapped("examples", "[{sentence: a}]"),
    "an example of no steps": lambda: swapped("examples", "[{sentence: a, steps: []}]"),
    "steps of numbers": lambda: swapped("examples", "[{sentence: a, steps: [1, 2]}]"),
    "steps of a mapping": lambda: swapped("examples", "[{sentence: a, steps: {a: b}}]"),
    "an unknown operation": lambda: swapped("examples", "[{sentence: a, steps: [{operation: hop, phrase: a}]}]"),
    "a phrase of a list": lambda: swapped("examples", "[{sentence: a, steps: [{operation: keep, phrase: [a]}]}]"),
    "a phrase from elsewhere": lambda: swapped("examples", "[{sentence: a, steps: [{operation: keep, phrase: b}]}]"),
    "concepts of a mapping": lambda: swapped(
        "examples", "[{sentence: a, steps: [{operation: keep, phrase: a, concepts: {x: y}}]}]"
    ),
    "a key that nobody knows": lambda: shipped() + "\nmore: x\n",
    "a key of escapes": lambda: shipped() + '\n"\\e[31m": x\n',
    "ten thousand keys": lambda: "\n".join(f"k{i}: x" for i in range(10_000)),
    "4 MB of name": lambda: swapped("name", "x" * 4_000_000),
}


@pytest.mark.parametrize("content", PROMPTS.values(), ids=PROMPTS)
def test_a_prompt_that_is_none(content: Callable[[], str | bytes], tmp_path: Path) -> None:
    path = tmp_path / "prompt.yaml"
    made = content()
    path.write_bytes(made if isinstance(made, bytes) else made.encode())
    with pytest.raises(UserError) as caught:
        load_prompt(path)
    told(caught.value, path)


def test_the_shipped_prompt_is_read_as_ever(tmp_path: Path) -> None:
    path = tmp_path / "copy.yaml"
    path.write_text(shipped(), encoding="utf-8")
    assert load_prompt(path) == load_prompt(DEFAULT)
