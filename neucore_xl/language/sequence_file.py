"""The sequence file: JSON Lines with a header line, one object per sentence, stored beside the annotations."""

from __future__ import annotations

import filecmp
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neucore_xl.errors import UserError, did_you_mean, nearest
from neucore_xl.files import output_file
from neucore_xl.jsonfile import BadContent, parse_json, read_text
from neucore_xl.language.sequence import OPERATIONS, FusionSequence, Operation, Step

FORMAT = "neucore-xl/fusion-sequences"
VERSION = 1


NOTES = ("fallback", "repairs")  # optional keys of a line: how its sequence came about
Noted = tuple[FusionSequence, Mapping[str, Any]]  # a sequence and its notes


@dataclass(frozen=True)
class SequenceFile:
    """What a file holds: the planner that wrote it, its settings, and the sequence of every sentence.

    ``notes`` has an entry for each sentence of which the file says how its sequence came about: ``fallback`` (the
    reason why the clause planner wrote it) and ``repairs`` (counts by reason).
    """

    planner: str
    settings: Mapping[str, Any]
    by_text: dict[str, FusionSequence]
    ids: Mapping[str, str] = field(default_factory=dict)  # optional id of a line -> its text
    notes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def write_sequences(
    path: Path,
    sequences: Iterable[FusionSequence | Noted],
    *,
    planner: str,
    settings: Mapping[str, Any],
    force: bool = False,
) -> int:
    """Write the file at once or not at all; returns the number of distinct sentences.

    ``sequences`` may be a stream: one digest per sentence is all that is held. Of a sentence that comes twice the
    first is written. A file of the same content is left alone; another one is kept and a ``UserError`` raised,
    unless ``force``.
    """
    path = Path(path)
    with output_file(path, keep_same=True) as temporary:
        written = _write_lines(temporary, _header_json(planner, settings), sequences)
        if not force and path.exists() and not filecmp.cmp(temporary, path, shallow=False):
            raise UserError(f"{path} exists and differs: give another name, or ask to overwrite it")
    return written


def _write_lines(path: Path, header: dict[str, Any], sequences: Iterable[FusionSequence | Noted]) -> int:
    seen: set[bytes] = set()
    with path.open("w", encoding="utf-8", newline="\n") as out:
        out.write(_dumps(header) + "\n")
        for item in sequences:
            sequence, notes = (item, {}) if isinstance(item, FusionSequence) else item
            digest = hashlib.sha256(sequence.text.encode("utf-8", "surrogatepass")).digest()[:16]
            if digest in seen:
                continue
            seen.add(digest)
            line = {"text": sequence.text, "steps": [step_json(s) for s in sequence.steps]}
            out.write(_dumps(line | {key: notes[key] for key in NOTES if notes.get(key)}) + "\n")
    return len(seen)


def _header_json(planner: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "planner": planner,
        "settings": dict(settings),
        "operations": [op.value for op in OPERATIONS],
    }


def read_header(path: Path) -> dict[str, Any]:
    """The checked header of a file; its sentences are not looked at. Raises ``UserError``."""
    return _header(Path(path), _text(Path(path)).split("\n", 1)[0])


def read_sequences(path: Path) -> SequenceFile:
    """Read a file, every line checked; raises ``UserError`` with file and line for the first thing that is wrong.

    Half characters of sentences and phrases become "?", as in the annotations.
    """
    path = Path(path)
    lines = _text(path).split("\n")
    header = _header(path, lines[0])
    by_text: dict[str, FusionSequence] = {}
    ids: dict[str, str] = {}
    notes: dict[str, Mapping[str, Any]] = {}
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        data = _object(where, line)
        sequence = _sequence(where, data)
        known = by_text.get(sequence.text)
        if known is not None and known != sequence:
            raise UserError(
                f"{where}: the sentence {sequence.text[:60]!r} came before with other steps: keep one of them"
            )
        by_text[sequence.text] = sequence
        if isinstance(named := data.get("id"), str | int):
            ids[str(named)] = sequence.text
        if said := _notes(where, data):
            notes[sequence.text] = said
    return SequenceFile(header["planner"], header.get("settings") or {}, by_text, ids, notes)


def _dumps(value: Any) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False)
        text.encode("utf-8")
    except UnicodeEncodeError:  # a lone surrogate: escape this line
        text = json.dumps(value)
    return text


def step_json(step: Step) -> dict[str, Any]:
    """A step as the files hold it; ``parse_step`` reads it back."""
    data: dict[str, Any] = {
        "operation": step.operation.value,
        "concepts": list(step.concepts),
        "phrase": step.phrase,
    }
    return data | {"implied": list(step.implied)} if step.implied else data


def _text(path: Path) -> str:
    try:
        return read_text(path)
    except BadContent:
        raise
    except UserError as error:
        raise UserError(f"cannot read the sequence file: {error}") from None


def _object(where: str, line: str) -> dict[str, Any]:
    try:
        return parse_json(line, where, dict)
    except BadContent as error:  # whose line is one of the file
        raise BadContent(str(error).replace(f"{where}, line 1", where, 1)) from None


def _header(path: Path, line: str) -> dict[str, Any]:
    where = f"{path}, line 1"
    if not line.strip():
        raise UserError(f"{where}: expected the header of a sequence file, found nothing")
    header = _object(where, line)
    if header.get("format") != FORMAT:
        raise UserError(f'{where}: not a sequence file, its header must hold "format": "{FORMAT}"')
    if header.get("version") != VERSION:
        raise UserError(f"{where}: version {_short(header.get('version'))} of the format is not known, only {VERSION}")
    if not isinstance(header.get("planner"), str):
        raise UserError(f'{where}: the header must name its "planner"')
    if not isinstance(header.get("settings") or {}, dict):
        raise UserError(f'{where}: the "settings" of the planner must be an object')
    _require_vocabulary(where, header.get("operations"))
    return header


def _require_vocabulary(where: str, named: Any) -> None:
    """A planner that knew other operations than ours would have planned otherwise: its file must be planned again."""
    if named is None:  # written by hand
        return
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        raise UserError(f'{where}: "operations" must be a list of names')
    ours = [op.value for op in OPERATIONS]
    unknown, missing = [n for n in named if n not in ours], [n for n in ours if n not in named]
    if unknown or missing:
        differs = [f"{', '.join(unknown)[:200]} not known here"] if unknown else []
        differs += [f"{', '.join(missing)} missing there"] if missing else []
        raise UserError(
            f"{where}: planned with another vocabulary of operations ({'; '.join(differs)}): "
            "plan the sentences again with `neucore-xl prepare sequences`"
        )


def _notes(where: str, data: dict[str, Any]) -> dict[str, Any]:
    notes = {key: data[key] for key in NOTES if data.get(key)}
    if not isinstance(notes.get("fallback", ""), str):
        raise UserError(f'{where}: "fallback" must say why')
    repairs = notes.get("repairs", {})
    if not isinstance(repairs, dict) or not all(type(n) is int for n in repairs.values()):
        raise UserError(f'{where}: "repairs" must count repairs by reason')
    return notes


def _sequence(where: str, data: dict[str, Any]) -> FusionSequence:
    text, steps = data.get("text"), data.get("steps")
    if not isinstance(text, str):
        raise UserError(f'{where}: "text" must be the sentence')
    if not isinstance(steps, list):
        raise UserError(f'{where}: "steps" must be a list')
    if text.strip() and not steps:
        raise UserError(f"{where}: a sentence needs at least one step")
    return FusionSequence(text, tuple(parse_step(f"{where}, step {i}", s) for i, s in enumerate(steps, start=1)))


def parse_step(where: str, data: Any) -> Step:
    """The step that ``step_json`` wrote; raises ``UserError`` beginning with ``where``."""
    if not isinstance(data, dict):
        raise UserError(f"{where}: expected an object with operation, concepts and phrase")
    concepts, phrase = data.get("concepts", []), data.get("phrase")
    implied = data.get("implied", [])
    for key, value in (("concepts", concepts), ("implied", implied)):
        if not isinstance(value, list) or not all(isinstance(c, str) for c in value):
            raise UserError(f'{where}: "{key}" must be a list of words')
    if not isinstance(phrase, str) or not phrase.strip():
        raise UserError(f'{where}: "phrase" must hold the words of the sentence that say the edit')
    return Step(parse_operation(data.get("operation"), where), tuple(concepts), phrase, tuple(implied))


def parse_operation(value: Any, where: str) -> Operation:
    """The operation named ``value``; raises ``UserError`` with the nearest known name."""
    names = [op.value for op in OPERATIONS]
    if value in names:
        return Operation(value)
    hint = did_you_mean(nearest(str(value)[:80], names, cutoff=0.5), f"; known are {', '.join(names)}")
    raise UserError(f"{where}: unknown operation {_short(value)}{hint}")


def _short(value: Any) -> str:
    return repr(value)[:80]
