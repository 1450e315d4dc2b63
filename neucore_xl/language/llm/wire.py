"""What goes over the wire: how steps are written for a model, the grammar that holds it to that, and the way back.

Two forms. ``arrays``, for local models, is short and can be spelled by vocabularies that have neither braces nor a
line break (T5): ``[["negation","Remove the dogs",["remove","dog"]],["viewpoint","zoom in",["zoom"],["camera"]]]``.
``objects``, for servers, is what a JSON schema can describe:
``{"steps":[{"operation":"negation","phrase":"Remove the dogs","concepts":["remove","dog"],"implied":[]}]}``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from neucore_xl.language.sequence import OPERATIONS, Step

Form = Literal["arrays", "objects"]
FORMS: tuple[Form, ...] = ("arrays", "objects")
VERSION = 1  # of the grammar: part of what an answer depends on

MAX_CONCEPTS = 8  # a step names at most so many
MAX_IMPLIED = 2
STRUCTURE = '[]",_abcdefghijklmnopqrstuvwxyz'  # what a vocabulary must spell to write ``arrays``
_LONGEST_WORD = 64  # characters of a word that a grammar can be asked to hold
_MAX_RAW = 20_000  # characters of an answer that are looked at: no step list is that long

_CHUNK = re.compile(r"\w+(?:['’-]\w+)*|\s+|[^\w\s]")


@dataclass(frozen=True)
class RawStep:
    """One step as a model wrote it, of the right types but otherwise unchecked; "" stands for what was no string."""

    operation: str
    phrase: str
    concepts: tuple[str, ...] = ()
    implied: tuple[str, ...] = ()


def shown(text: str) -> str:
    """``text`` as a model reads it: one line, no control characters, no lone surrogates; the words are unchanged."""
    whole = text.encode("utf-8", "replace").decode("utf-8")
    return " ".join(re.sub(r"[\x00-\x20\x7f-\x9f\u2028\u2029]+", " ", whole).split())


def spell(steps: Sequence[Step], form: Form) -> str:
    """Steps as JSON of ``form`` without any blanks: the answers of the worked examples."""
    if form == "arrays":
        value: Any = [
            [s.operation.value, s.phrase, list(s.concepts), *([list(s.implied)] if s.implied else [])] for s in steps
        ]
    else:
        value = {
            "steps": [
                {"operation": s.operation.value, "phrase": s.phrase, "concepts": list(s.concepts),
                 "implied": list(s.implied)}
                for s in steps
            ]
        }  # fmt: skip
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def json_schema(max_steps: int) -> dict[str, Any]:
    """JSON schema of ``objects`` for ``response_format`` (strict: every key required, no other allowed)."""
    word = {"type": "string"}
    step = {
        "type": "object",
        "properties": {
            "operation": {"type": "string", "enum": [op.value for op in OPERATIONS]},
            "phrase": {"type": "string"},
            "concepts": {"type": "array", "items": word, "maxItems": MAX_CONCEPTS},
            "implied": {"type": "array", "items": word, "maxItems": MAX_IMPLIED},
        },
        "required": ["operation", "phrase", "concepts", "implied"],
        "additionalProperties": False,
    }
    return {
        "type": "object",
        "properties": {"steps": {"type": "array", "items": step, "minItems": 1, "maxItems": max_steps}},
        "required": ["steps"],
        "additionalProperties": False,
    }


def grammar(
    text: str, lemmas: Sequence[str], max_steps: int, *, spells: Callable[[str], bool] | None = None
) -> str | None:
    """The grammar (llguidance's Lark) of the answers to one sentence in the form ``arrays``.

    Operations are the nine, a phrase is a run of whole words of the sentence, concepts are out of ``lemmas``, implied
    concepts short lower-case words; one to ``max_steps`` steps, not more than the sentence has words; no blanks but
    in phrases.

    Args:
        spells: whether a vocabulary can write a character; words that it cannot are left out of every phrase.

    Returns None where nothing of the sentence can be written.
    """
    runs = _runs(shown(text), spells)
    if not runs:
        return None
    spoken = any(_has_word(c) for run in runs for c in run)
    pieces = [f"%regex {json.dumps({'substring_chunks': [_escaped(c) for c in run]})}" for run in runs]
    count = max(1, min(max_steps, sum(_has_word(c) for run in runs for c in run)))
    named = [w for w in dict.fromkeys(lemmas) if w.strip() and (spells is None or all(map(spells, w)))]
    concepts = f'concept ("," concept){{0,{MAX_CONCEPTS - 1}}}' if named else '""'
    rules = [
        'start: "[" step ' + (f'("," step){{0,{count - 1}}} ' if count > 1 else "") + '"]"',
        r'step: "[\"" operation "\",\"" PHRASE "\",[" concepts "]" implied "]"',
        "operation: " + " | ".join(f'"{op.value}"' for op in OPERATIONS),
        f"concepts: {concepts}" + (' | ""' if named else ""),
        f'implied: "" | ",[" IMPLIED ("," IMPLIED){{0,{MAX_IMPLIED - 1}}} "]"',
        r'IMPLIED: "\"" /[a-z]{2,16}/ "\""',
        r"PHRASE: PIECE & /\S(?s:.*\S)?/" + (r" & /(?s:.*)[\p{L}\p{N}](?s:.*)/" if spoken else ""),
        "PIECE: " + " | ".join(f"PIECE{i}" for i in range(len(pieces))),
        *(f"PIECE{i}: {piece}" for i, piece in enumerate(pieces)),
    ]
    if named:
        rules.append("concept: " + " | ".join(json.dumps(json.dumps(w, ensure_ascii=False)) for w in named))
    return "\n".join(rules) + "\n"


def parse(raw: str, form: Form) -> tuple[RawStep, ...] | str:
    """The steps that an answer spells, or the reason why it cannot be read; never raises.

    Text around the JSON (a fence, a greeting) is passed over. What has the wrong type becomes "" or is left out:
    the check of the answer says what is missing then.
    """
    start = raw[:_MAX_RAW].find("[" if form == "arrays" else "{")
    if start < 0:
        return "unreadable: no JSON"
    try:
        value, _ = json.JSONDecoder(parse_int=str, parse_float=str).raw_decode(raw[:_MAX_RAW], start)
    except RecursionError:
        return "unreadable: nested too deeply"
    except ValueError:
        return "unreadable: broken JSON"
    found = value.get("steps") if isinstance(value, dict) else value
    if not isinstance(found, list):
        return "unreadable: no list of steps"
    if found and form == "arrays" and isinstance(found[0], str):
        found = [found]  # a single step without the outer list
    steps = [step for item in found if (step := _raw_step(item)) is not None]
    if found and not steps:
        return "unreadable: no step of the asked form"
    return tuple(steps)


def _raw_step(item: Any) -> RawStep | None:
    if isinstance(item, dict):
        item = [item.get(key) for key in ("operation", "phrase", "concepts", "implied")]
    if not isinstance(item, list) or len(item) < 2:
        return None
    concepts, implied = (*item[2:4], None, None)[:2]
    return RawStep(_string(item[0]), _string(item[1]), _strings(concepts), _strings(implied))


def _string(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _strings(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    return tuple(_string(v) for v in value) if isinstance(value, list) else ()


def _runs(text: str, spells: Callable[[str], bool] | None) -> list[list[str]]:
    """The sentence in chunks that are never cut, broken where one cannot be spelled or is endless; no blank runs."""
    runs: list[list[str]] = [[]]
    for chunk in _CHUNK.findall(text):
        if len(chunk) <= _LONGEST_WORD and (spells is None or all(map(spells, _escaped(chunk)))):
            runs[-1].append(chunk)
        else:
            runs.append([])
    return [run for run in runs if any(chunk.strip() for chunk in run)]


def _has_word(chunk: str) -> bool:
    return any(map(str.isalnum, chunk))


def _escaped(chunk: str) -> str:
    return json.dumps(chunk, ensure_ascii=False)[1:-1]
