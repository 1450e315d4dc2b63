"""What the types of the settings tree say: every key, what it may hold, in words a person can act on.

The loader writes its refusals with it and the reference page its tables, so the two cannot disagree.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel

from neucore_xl.config.schema import Settings


@dataclass(frozen=True)
class SettingKey:
    """One leaf of the tree, for example ``train.batch_size``."""

    path: str
    allowed: str  # "a whole number of at least 1", "one of fp32, bf16", ...
    default: Any
    description: str
    annotation: Any
    section: type[BaseModel]


def setting_keys(model: type[BaseModel] = Settings, prefix: str = "") -> Iterator[SettingKey]:
    """All leaves below ``model`` in the order of the types; a union such as ``backbone.freeze`` is one leaf."""
    for name, info in model.model_fields.items():
        path = f"{prefix}{name}"
        if is_section(info.annotation):
            yield from setting_keys(info.annotation, f"{path}.")  # type: ignore[arg-type]
        else:
            yield SettingKey(
                path=path,
                allowed=allowed(info.annotation, info.metadata),
                default=info.get_default(call_default_factory=True),
                description=info.description or "",
                annotation=info.annotation,
                section=model,
            )


def is_section(annotation: Any) -> bool:
    """Whether the annotation is a branch of the tree and nothing else."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def members(annotation: Any) -> tuple[Any, ...]:
    """The alternatives of a union, or the annotation alone; ``Annotated`` wrappers are kept."""
    if get_origin(annotation) in (Union, types.UnionType):
        return get_args(annotation)
    return (annotation,)


def section_within(annotation: Any) -> type[BaseModel] | None:
    """The section an annotation is, or offers as one of its alternatives."""
    return next((m for m in members(annotation) if is_section(m)), None)


def is_text(annotation: Any) -> bool:
    """Whether every value is text (a name, a path, a choice of words), so that ``12`` means ``"12"``."""
    kinds = [_unwrap(m)[0] for m in members(annotation) if m is not type(None)]
    return all(kind in (str, Path) or (get_origin(kind) is Literal and _all_text(kind)) for kind in kinds)


def accepts_bool(annotation: Any) -> bool:
    """Whether ``true`` and ``false`` are values of the annotation."""
    return any(_unwrap(m)[0] is bool for m in members(annotation))


def allowed(annotation: Any, metadata: list[Any] | tuple[Any, ...] = ()) -> str:
    """The values of an annotation in words: range, choices or kind."""
    parts = [_one(member, list(metadata)) for member in members(annotation) if member is not type(None)]
    if type(None) in members(annotation):
        parts.append("null")
    return " or ".join(parts)


def choices(annotation: Any) -> tuple[str, ...]:
    """The words among which an annotation chooses; empty where it does not."""
    found: list[str] = []
    for member in members(annotation):
        kind, _ = _unwrap(member)
        if get_origin(kind) is tuple:
            found += choices(get_args(kind)[0])
        elif get_origin(kind) is Literal:
            found += [str(value) for value in get_args(kind)]
    return tuple(found)


def _unwrap(annotation: Any) -> tuple[Any, list[Any]]:
    if get_origin(annotation) is Annotated:
        inner, *metadata = get_args(annotation)
        return inner, list(metadata)
    return annotation, []


def _all_text(literal: Any) -> bool:
    return all(isinstance(value, str) for value in get_args(literal))


def _one(annotation: Any, outer: list[Any]) -> str:
    kind, inner = _unwrap(annotation)
    metadata = outer + inner
    if get_origin(kind) is Literal:
        values = [str(value) for value in get_args(kind)]
        return values[0] if len(values) == 1 else f"one of {', '.join(values)}"
    if get_origin(kind) is tuple:
        least = "one or more" if any(isinstance(m, MinLen) and m.min_length for m in metadata) else "any"
        return f"a list of {least} of {', '.join(choices(kind)) or allowed(get_args(kind)[0])}"
    if is_section(kind):
        inside = ", ".join(f"{name}: {allowed(f.annotation, f.metadata)}" for name, f in kind.model_fields.items())
        return f"{{{inside}}}"
    plain = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}
    return (plain.get(kind, getattr(kind, "__name__", str(kind))) + _bounds(kind, metadata)).strip()


def _bounds(kind: Any, metadata: list[Any]) -> str:
    lower = next((m for m in metadata if isinstance(m, (Gt, Ge))), None)
    upper = next((m for m in metadata if isinstance(m, (Lt, Le))), None)
    if isinstance(lower, Gt) and kind is int:
        lower = Ge(lower.gt + 1)  # type: ignore[operator]
    if isinstance(lower, Ge) and isinstance(upper, Le):
        return f" from {_number(lower.ge)} to {_number(upper.le)}"
    if isinstance(lower, Gt) and isinstance(upper, Le):
        return f" above {_number(lower.gt)}, up to {_number(upper.le)}"
    said = []
    if lower is not None:
        said.append(f"of at least {_number(lower.ge)}" if isinstance(lower, Ge) else f"above {_number(lower.gt)}")
    if upper is not None:
        said.append(f"of at most {_number(upper.le)}" if isinstance(upper, Le) else f"below {_number(upper.lt)}")
    return f" {' and '.join(said)}" if said else ""


def _number(bound: Any) -> str:
    """Whole numbers with all digits, in groups of three: ``1,000``."""
    return f"{int(bound):,}" if bound == int(bound) else f"{bound:g}"
