"""The reference page of all settings, written from the types (``docs/settings.md``)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from neucore_xl.config.fields import SettingKey, setting_keys
from neucore_xl.config.load import recipe_names
from neucore_xl.config.schema import Settings

MARK = "Written by `neucore-xl config reference"  # how the command recognises its own page

_HEAD = """\
# Settings

<!-- Written by `neucore-xl config reference --write docs/settings.md`; a test keeps it current. Do not edit. -->

A recipe is a YAML file of the values that differ from the defaults below; `base: NAME` at its top builds it on another
recipe. Every command that takes a recipe also takes `key.sub=value` overrides, for example
`neucore-xl train cirr-vit-b16 --run-dir runs/b16 train.batch_size=64 'backbone.freeze={image: 6, text: 0}'`.
`neucore-xl config show RECIPE [key=value …]` prints the resolved tree. A value may refer to other
settings (`${train.steps}`) and to nothing else: recipes may come from anybody, so none reads the environment.
"""


def render(registered: Mapping[str, Sequence[str]]) -> str:
    """The whole page as Markdown: a table of key, allowed values, default and description for every section.

    ``registered``: key → the names that it may have, for keys whose values rooms above this one register.
    """
    parts = [_HEAD + f"\nPackaged recipes: {', '.join(f'`{name}`' for name in recipe_names())}.\n"]
    for name, info in Settings.model_fields.items():
        section = info.annotation
        assert isinstance(section, type)
        assert issubclass(section, BaseModel)
        parts.append(f"\n## `{name}`\n\n{_first_line(section)}\n\n")
        parts.append("| key | value | default | meaning |\n|---|---|---|---|\n")
        parts += _rows(setting_keys(section, f"{name}."), registered)
    return "".join(parts)


def _rows(keys: Iterator[SettingKey], registered: Mapping[str, Sequence[str]]) -> Iterator[str]:
    for key in keys:
        allowed = f"one of {', '.join(registered[key.path])}" if key.path in registered else key.allowed
        yield f"| `{key.path}` | {_cell(allowed)} | `{_value(key.default)}` | {_cell(key.description)} |\n"


def _first_line(section: type[BaseModel]) -> str:
    return (section.__doc__ or "").strip().splitlines()[0]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _value(value: Any) -> str:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return f"[{', '.join(str(item) for item in value)}]"
    return value if isinstance(value, str) else json.dumps(value)
