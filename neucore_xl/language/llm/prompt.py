"""The prompt: a versioned data file with instruction, operations, wire formats and worked examples.

The part before the sentence is the same for every sentence, so that its key-value cache can be shared.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from neucore_xl.errors import UserError
from neucore_xl.jsonfile import read_text
from neucore_xl.language.llm.wire import FORMS, Form, shown, spell
from neucore_xl.language.sequence import OPERATIONS, FusionSequence, Operation, check_sequence
from neucore_xl.language.sequence_file import parse_step

DEFAULT = "edit-steps.v1"
SENTENCE = "{sentence}"
LARGEST = 1 << 20  # bytes of a prompt's file
_KEYS = ("name", "instruction", "operations", "formats", "question", "answer", "examples")


@dataclass(frozen=True)
class Prompt:
    """A prompt file, read and checked."""

    name: str
    instruction: str  # with {operations} and {format}
    operations: Mapping[Operation, str]
    formats: Mapping[Form, str]
    question: str  # with {sentence}
    answer: str
    examples: tuple[FusionSequence, ...]

    @property
    def version(self) -> str:
        """Name and a hash of all that a model reads: prompts of equal versions ask alike."""
        read = [
            self.instruction,
            [[op.value, self.operations[op]] for op in OPERATIONS],
            [self.formats[form] for form in FORMS],
            self.question,
            self.answer,
            [[e.text, spell(e.steps, "arrays")] for e in self.examples],
        ]
        digest = hashlib.sha256(json.dumps(read).encode()).hexdigest()
        return f"{self.name}-{digest[:8]}"

    def messages(self, text: str, form: Form) -> list[dict[str, str]]:
        """The turns for a chat model: system, worked examples as question and answer, and the sentence."""
        turns = [{"role": "system", "content": self._system(form)}]
        for example in self.examples:
            turns.append({"role": "user", "content": self._asked(example.text)})
            turns.append({"role": "assistant", "content": spell(example.steps, form)})
        return [*turns, {"role": "user", "content": self._asked(text)}]

    def plain(self, text: str, form: Form) -> str:
        """The same in one piece, for models without a chat template; ends where the answer begins."""
        parts = [self._system(form)]
        for example in self.examples:
            parts.append(f"{self._asked(example.text)}\n{self.answer}\n{spell(example.steps, form)}")
        return "\n\n".join([*parts, f"{self._asked(text)}\n{self.answer}\n"])

    def _system(self, form: Form) -> str:
        named = "\n".join(f"- {op.value}: {self.operations[op]}" for op in OPERATIONS)
        return self.instruction.replace("{operations}", named).replace("{format}", self.formats[form]).strip()

    def _asked(self, text: str) -> str:
        return self.question.replace(SENTENCE, shown(text))


def load_prompt(name: str | Path = DEFAULT) -> Prompt:
    """The shipped prompt of that name, or the one in a YAML file; raises ``UserError`` for anything amiss in it."""
    shipped = shipped_prompts()
    if str(name) in shipped:
        where = f"prompt {name}"
        content = (resources.files(__package__) / "prompts" / f"{name}.yaml").read_text(encoding="utf-8")
    else:
        where = str(name)
        try:
            content = read_text(Path(name), limit=LARGEST)
        except UserError as error:
            raise UserError(
                f"cannot read the prompt {name}: give the path of a YAML file, or one of {', '.join(shipped)} ({error})"
            ) from error
    try:
        data = yaml.load(content, _TextsOnly)
    except (yaml.YAMLError, RecursionError) as error:
        said = "nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())[:200]
        raise UserError(f"{where}: not YAML ({said})") from error
    return _prompt(where, data)


class _TextsOnly(yaml.BaseLoader):
    """Every value is text: no number, date or object is made of it. Aliases (a short file gets huge) are refused."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.MarkedYAMLError(problem="an alias (*name): write out what it stands for", problem_mark=mark)
        return super().compose_node(parent, index)


def shipped_prompts() -> tuple[str, ...]:
    """Names of the prompts that come with the package."""
    folder = resources.files(__package__) / "prompts"
    return tuple(sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml")))


def _prompt(where: str, data: Any) -> Prompt:
    if not isinstance(data, dict):
        raise UserError(f"{where}: must be a mapping with the keys {', '.join(_KEYS)}")
    missing = [key for key in _KEYS if not data.get(key)]
    unknown = sorted(str(key)[:80] for key in data if key not in _KEYS)[:8]
    if missing or unknown:
        what = f"lacks {', '.join(missing)}" if missing else f"has the unknown key {', '.join(unknown)}"
        raise UserError(f"{where}: {what}; a prompt has {', '.join(_KEYS)}")
    for key in ("name", "instruction", "question", "answer"):
        if not isinstance(data[key], str):
            raise UserError(f"{where}: {key} must be text")
    for key, parts in (("instruction", ("{operations}", "{format}")), ("question", (SENTENCE,))):
        for part in parts:
            if data[key].count(part) != 1:
                raise UserError(f"{where}: {key} must hold {part} once")
    operations = _texts(where, "operations", data["operations"], [op.value for op in OPERATIONS])
    formats = _texts(where, "formats", data["formats"], FORMS)
    if not isinstance(data["examples"], list):
        raise UserError(f"{where}: examples must be a list of sentences with their steps")
    return Prompt(
        name=data["name"],
        instruction=data["instruction"].strip(),
        operations={op: operations[op.value] for op in OPERATIONS},
        formats={form: formats[form] for form in FORMS},
        question=data["question"].strip(),
        answer=data["answer"].strip(),
        examples=tuple(_example(f"{where}: example {n}", e) for n, e in enumerate(data["examples"], start=1)),
    )


def _texts(where: str, key: str, value: Any, names: Sequence[str]) -> dict[str, str]:
    """A mapping of exactly ``names`` to texts."""
    if not isinstance(value, dict) or set(map(str, value)) != set(names):
        found = sorted(map(str, value)) if isinstance(value, dict) else []
        wrong = sorted(set(found) - set(names)) or sorted(set(names) - set(found))
        raise UserError(
            f"{where}: {key} must describe {', '.join(names)}, each once; see {', '.join(wrong)[:200] or 'its form'}"
        )
    if not_text := [name for name in names if not isinstance(value[name], str)]:
        raise UserError(f"{where}: {key} must describe {not_text[0]} by a text")
    return {name: " ".join(str(value[name]).split()) for name in names}


def _example(where: str, value: Any) -> FusionSequence:
    """A worked example, as sound as an answer has to be."""
    try:
        sentence, steps = value["sentence"], value["steps"]
        if not isinstance(sentence, str) or not isinstance(steps, list):
            raise TypeError("the sentence must be a text, the steps a list")
        # an empty list may be left out, or written as nothing
        written = [{key: part for key, part in step.items() if part not in ("", "null")} for step in steps]
        sequence = FusionSequence(sentence, tuple(parse_step(f"step {n}", step) for n, step in enumerate(written, 1)))
    except (KeyError, TypeError, AttributeError, UserError) as error:
        raise UserError(
            f"{where}: must have a sentence and steps with operation, phrase and concepts ({error})"
        ) from error
    problems = check_sequence(sequence, max_steps=max(1, len(sequence.steps)))
    if problems:
        raise UserError(f"{where}: {problems[0]}")
    return sequence
