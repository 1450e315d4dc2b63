"""``neucore-xl explain``: what the system makes of a sentence, for a person to read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neucore_xl import terminal
from neucore_xl.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from neucore_xl.language.sequence import FusionSequence

app = typer.Typer(help="Show what becomes of a sentence.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Show what becomes of a sentence."""


@app.command()
def sequence(
    text: Annotated[str, typer.Argument(help="The sentence, in quotes.")],
    planner: Annotated[
        str | None, typer.Option(help="Who plans it: clauses (without this option), clauses-encoder or llm.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Hub name or folder of the language model or the sentence encoder; GGUF for llm.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option(metavar="SEQUENCES", help="Show the sequence that this file holds, plan nothing.")
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
) -> None:
    """Show the fusion steps of a sentence: the operation, the words, and the concepts of every edit."""
    if not text.strip():
        raise UserError("The sentence is blank; a blank sentence has no steps.")
    if file is not None and (planner is not None or model is not None):
        raise UserError("--planner and --model plan a sentence, --file looks one up: give one or the other.")
    name = planner or "clauses"
    if file is not None:
        name, found, notes = _look_up(file, text)
    elif name == "llm":
        found, notes = _ask(text, model)
    else:
        found, notes = _plan(name, text, model), {}

    if json_output:
        from neucore_xl.language.sequence_file import step_json

        report = {"text": found.text, "planner": name, "steps": [step_json(s) for s in found.steps], **notes}
        typer.echo(json.dumps(report, indent=2))  # ASCII: no caption can break a pipe
    else:
        _show(found, name, notes, terminal.console())


def _plan(name: str, text: str, model: str | None) -> FusionSequence:
    from neucore_xl.config.schema import FusionSettings, LanguageSettings

    steps = FusionSettings().max_steps
    if name == "clauses-encoder":
        from neucore_xl.language.planners.encoder import EncoderPlanner

        return EncoderPlanner(LanguageSettings(), steps, model).plan([text])[0]
    if name == "clauses":
        from neucore_xl.language.planners.clauses import ClausePlanner

        if model is not None:
            raise UserError("--model belongs to the planners llm and clauses-encoder; the planner clauses has none.")
        return ClausePlanner(LanguageSettings(), steps).plan([text])[0]
    raise UserError(f"unknown planner {name!r}; known are clauses, clauses-encoder and llm")


def _ask(text: str, model: str | None) -> tuple[FusionSequence, dict[str, Any]]:
    if model is None:
        raise UserError("--planner llm needs --model: a hub name, a folder or a GGUF file.")
    from neucore_xl.prepare.llm import LlmOptions, build_llm_planner

    (record,) = [r for portion in build_llm_planner(LlmOptions.of({"model": model})).records([text]) for r in portion]
    return record.sequence, {"fallback": record.fallback, "repairs": dict(record.repairs), "tokens": record.tokens}


def _look_up(path: Path, text: str) -> tuple[str, FusionSequence, dict[str, Any]]:
    """The planner of a file, the sequence of ``text`` and its notes; spacing at the ends does not matter."""
    from neucore_xl.language.sequence_file import read_sequences

    held = read_sequences(path)
    text = text.encode("utf-8", "replace").decode("utf-8")  # half characters, as the file's reader has them
    same = [t for t in held.by_text if t == text] or [t for t in held.by_text if t.strip() == text.strip()]
    if not same:
        raise UserError(
            f"{path} holds {len(held.by_text)} sentences, but not {text[:80]!r}: "
            "copy the sentence from the annotations, or leave --file out to plan it"
        )
    return held.planner, held.by_text[same[0]], dict(held.notes.get(same[0], {}))


def _show(found: FusionSequence, planner: str, notes: Mapping[str, Any], console: Console) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("step", justify="right")
    for heading in ("operation", "phrase", "concepts", "implied"):
        table.add_column(heading, overflow="fold")
    for number, step in enumerate(found.steps, start=1):
        cells = (step.operation.value, step.phrase, ", ".join(step.concepts), ", ".join(step.implied))
        table.add_row(str(number), *cells)
    console.print(table)
    said = f"Planned by {planner}."
    if fallback := notes.get("fallback"):
        said = f"Planned by clauses: the answer of {planner} was not taken ({fallback})."
    if repairs := notes.get("repairs"):
        said += " Put right: " + ", ".join(f"{reason} ({n})" for reason, n in repairs.items()) + "."
    console.print(said, soft_wrap=True)
