"""Recipes and overrides become one checked tree of settings, or one sentence that says what to mend.

A recipe is a YAML file of the values that differ from the defaults; ``base: other`` builds it on another recipe.
omegaconf reads and merges, pydantic validates. Nothing here imports torch: the command line's help needs it fast.
"""

from __future__ import annotations

import functools
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf, grammar_parser
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError

from neucore_xl.config.fields import (
    SettingKey,
    accepts_bool,
    choices,
    is_section,
    is_text,
    section_within,
    setting_keys,
)
from neucore_xl.config.schema import GONE, LATER, Settings
from neucore_xl.errors import UserError, did_you_mean, nearest
from neucore_xl.jsonfile import read_bytes

RECIPES = Path(__file__).resolve().parent.parent / "recipes"
# Sections that every version has written into a resolved file; one that comes later does not belong here.
WRITTEN = ("data", "language", "backbone", "model", "fusion", "loss", "train", "evaluation")
_LIMIT = 1 << 20  # bytes of a recipe; the longest here has 2,000


def recipe_names() -> tuple[str, ...]:
    """Names of the recipes inside the package, sorted."""
    return tuple(sorted(path.stem for path in RECIPES.glob("*.yaml")))


def load_settings(recipe: str, overrides: Sequence[str] = ()) -> Settings:
    """The settings of ``recipe`` (a name of `recipe_names` or a path to a YAML file) under ``overrides``.

    An override is ``key.sub=value`` with a YAML value; later ones win. Raises `UserError` for an unknown recipe,
    a malformed file (with its line), an override without ``=``, an unknown key (with the nearest one), a value
    outside the range of its key, and values that contradict each other.
    """
    return _overridden(_read_recipe(find_recipe(recipe), seen=()), overrides, recipe)


def with_overrides(settings: Settings, overrides: Sequence[str]) -> Settings:
    """``settings`` under ``overrides``, which are those of `load_settings`; raises `UserError` like it."""
    return _overridden(OmegaConf.create(settings.model_dump(mode="json")), overrides, "the settings")


def _overridden(config: DictConfig, overrides: Sequence[str], where: str) -> Settings:
    for override in overrides:
        config = _merge(config, _parse_override(override), f"override '{override}'")
    return validate(_container(config, where))


def validate(tree: dict[str, Any], where: str = "") -> Settings:
    """Settings from a plain tree (as `load_settings` and a run folder's ``config.yaml`` give it), or `UserError`.

    ``where``, such as `` in FILE``, goes into the sentence about a key that is unknown or gone.
    """
    try:
        return Settings.model_validate(_check_keys(tree, Settings, where))
    except ValidationError as error:
        raise UserError(_explain(error)) from None


def load_file(path: Path, note: str = "") -> Settings:
    """Settings from a resolved file such as a run folder's ``config.yaml``; raises `UserError` like `load_settings`.

    Such a file has every section: one that was cut must not become a run of defaults. ``note`` says more of the file
    where the sentence names it, e.g. `` (of version 2)``.
    """
    tree = _container(_read_yaml(path), str(path))
    if absent := [section for section in WRITTEN if section not in tree]:
        raise UserError(f"{path}{note} was cut or emptied, it has no section `{absent[0]}`: put back a copy of it.")
    return validate_stored(tree, where=f" in {path}{note}")


def validate_stored(tree: dict[str, Any], where: str = "") -> Settings:
    """As ``validate``, for the resolved settings that a run left behind: a key that came later has the value that runs
    without it were trained with."""
    for key, value in LATER.items():
        section, _, name = key.partition(".")
        if isinstance(tree.get(section), dict):
            tree[section].setdefault(name, value)
    return validate(tree, where)


def dump_yaml(settings: Settings) -> str:
    """The whole resolved tree as YAML that `load_settings` reads back to equal settings."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100)


def find_recipe(recipe: str) -> Path:
    """The file of a recipe's name or path; raises `UserError` with the nearest name."""
    if recipe in recipe_names():
        return RECIPES / f"{recipe}.yaml"
    path = Path(os.path.expanduser(recipe))  # noqa: PTH111 (a Path raises for the home of somebody unknown)
    if os.path.isfile(path):  # noqa: PTH113 (a Path raises for a name that is too long)
        return path
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        problem = "is no file" if os.path.lexists(path) else "does not exist"
        problem = "is a folder, not a YAML file" if os.path.isdir(path) else problem  # noqa: PTH112 (likewise)
        raise UserError(f"Recipe file {recipe} {problem}; packaged recipes are {', '.join(recipe_names())}.")
    hint = did_you_mean(nearest(recipe, recipe_names()), ".")
    raise UserError(
        f"Unknown recipe '{recipe}'{hint} Packaged recipes are {', '.join(recipe_names())}; "
        "the path of a YAML file will do too."
    )


def _read_recipe(path: Path, seen: tuple[Path, ...]) -> DictConfig:
    if path.resolve() in seen:
        chain = " -> ".join(p.name for p in (*seen, path))
        raise UserError(f"Recipe {path} is based on itself ({chain}); remove one `base:`.")
    own = _read_yaml(path)
    try:
        base = own.pop("base", None)
    except OmegaConfBaseException as error:
        raise UserError(f"`base` of recipe {path} cannot be resolved: {str(error).splitlines()[0]}.") from None
    _check_keys(_container(own, str(path), resolve=False), Settings, where=f" in {path}")
    if base is None:
        return own
    if not isinstance(base, str):
        raise UserError(f"`base` in recipe {path} must be the name or path of another recipe, not {base!r}.")
    beside = path.parent / base
    try:
        found = beside if base not in recipe_names() and os.path.isfile(beside) else find_recipe(base)  # noqa: PTH113
    except UserError as error:
        raise UserError(f"`base` of recipe {path}: {error}") from None
    return _merge(_read_recipe(found, (*seen, path.resolve())), own, f"recipe {path}")


def _read_yaml(path: Path) -> DictConfig:
    content = read_bytes(path, limit=_LIMIT, missing="check its path")
    try:
        loaded = OmegaConf.load(io.StringIO(content.decode()))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"Malformed YAML in {path}{line}: {error.problem or error.context}.") from None
    except (yaml.YAMLError, UnicodeDecodeError, OSError, OmegaConfBaseException) as error:  # OSError: a single value
        raise UserError(f"{path} is not a readable YAML file: {str(error).splitlines()[0].rstrip('.')}.") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not a readable YAML file: {_beyond(error)}.") from None
    if not isinstance(loaded, DictConfig):
        raise UserError(f"{path} must hold settings as `section: {{key: value}}`, not a list or a single value.")
    plain = _container(loaded, str(path), resolve=False)
    for name in [name for name in (*Settings.model_fields, "base") if plain.get(name, name) is None]:
        del loaded[name]  # a section whose lines are all commented out
    return loaded


@functools.cache
def _known_keys() -> dict[str, SettingKey]:
    return {key.path: key for key in setting_keys()}


def _parse_override(override: str) -> DictConfig:
    key, equals, raw = override.partition("=")
    key = key.strip()
    if not equals or not key:
        raise UserError(f"Override '{override}' must have the form key.sub=value, for example train.batch_size=64.")
    if any(not part for part in key.split(".")) or "[" in key:
        raise UserError(f"Override '{override}' names no setting: keys are words joined by single dots.")
    known, shown = _known_keys(), override if len(override) < 200 else f"{override[:200]}…"
    try:
        parsed = OmegaConf.from_dotlist([f"{key}={raw}"])
        _refuse_resolvers(OmegaConf.to_container(parsed, resolve=False), f"override '{shown}'")
        value = OmegaConf.select(parsed, key, throw_on_resolution_failure=False)
    except (yaml.YAMLError, OmegaConfBaseException, ValueError, RecursionError) as error:
        reason = _beyond(error) if isinstance(error, ValueError | RecursionError) else str(error).splitlines()[0]
        raise UserError(f"The value of override '{shown}' is not YAML ({reason}); quote it or mend it.") from None
    if key in known and is_text(known[key].annotation) and isinstance(value, bool | int | float):
        OmegaConf.update(parsed, key, raw.strip())  # `data.captions=12` and a folder named 2024 are text
    _check_keys(_container(parsed, override, resolve=False), Settings, where="")
    return parsed


def _merge(below: DictConfig, above: DictConfig, where: str) -> DictConfig:
    try:
        merged = OmegaConf.merge(below, above)
    except (OmegaConfBaseException, TypeError) as error:  # TypeError: a list where a section is
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(f"Cannot apply {where}: a value has the wrong form ({reason}).") from None
    assert isinstance(merged, DictConfig)
    return merged


def _container(config: DictConfig, where: str, resolve: bool = True) -> dict[str, Any]:
    try:
        tree = OmegaConf.to_container(config, resolve=False)
        _refuse_resolvers(tree, where)
        if resolve:
            tree = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except (OmegaConfBaseException, RecursionError) as error:
        reason = _beyond(error) if isinstance(error, RecursionError) else str(error).splitlines()[0]
        raise UserError(f"A value of {where} cannot be resolved: {reason}.") from None
    assert isinstance(tree, dict)
    return {str(key): value for key, value in tree.items()}


def _refuse_resolvers(tree: Any, where: str) -> None:
    """Raises ``UserError`` where a value of ``tree`` calls a resolver of omegaconf (``${oc.env:HOME}``).

    Those read the environment and whatever else has been registered, and a recipe may come from anybody. References to
    other settings (``${train.lr}``) stay.
    """
    if isinstance(tree, dict | list):
        for value in tree.values() if isinstance(tree, dict) else tree:
            _refuse_resolvers(value, where)
    elif isinstance(tree, str) and "${" in tree and _calls(grammar_parser.parse(tree)):
        raise UserError(
            f"A value of {where}, {tree[:80]!r}, reads more than other settings (the environment, a function): "
            "write down the value itself."
        )


def _calls(node: Any) -> bool:
    called = isinstance(node, grammar_parser.OmegaConfGrammarParser.InterpolationResolverContext)
    return called or any(_calls(child) for child in getattr(node, "children", None) or ())


def _beyond(error: ValueError | RecursionError) -> str:
    """What neither YAML nor omegaconf has a word for."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return "it holds half of a character" if isinstance(error, UnicodeError) else "it holds a number that is too long"


def _check_keys(tree: dict[str, Any], model: type[BaseModel], where: str, prefix: str = "") -> dict[str, Any]:
    """``tree`` with numbers turned into text where text is meant; refuses unknown keys and misplaced booleans."""
    checked: dict[str, Any] = {}
    for name, value in tree.items():
        path = f"{prefix}{name}"
        info = model.model_fields.get(str(name))
        if info is None:
            # The whole dotted key is the better question: `trian.steps` means `train.steps`, not `train`.
            whole = f"{path}.{next(iter(value))}" if isinstance(value, dict) and value else path
            raise UserError(_unknown_key(whole, where))
        section = section_within(info.annotation)
        if section is not None and isinstance(value, dict):
            value = _check_keys(value, section, where, f"{path}.")
        elif is_section(info.annotation):
            keys = ", ".join(info.annotation.model_fields)  # type: ignore[union-attr]
            raise UserError(f"{path}{where} is a group of settings, not a value: set one of its keys ({keys}).")
        elif isinstance(value, dict):
            inside = ".".join([path, str(next(iter(value), ""))]).rstrip(".")
            raise UserError(f"Unknown setting {inside}{where}: {path} is {_known()[path].allowed}.")
        elif isinstance(value, bool) and not accepts_bool(info.annotation):
            raise UserError(_refused(path, value, where))
        elif isinstance(value, int | float) and is_text(info.annotation):
            value = str(value)
        checked[str(name)] = value
    return checked


def _known() -> dict[str, SettingKey]:
    known = {key.path: key for key in setting_keys()}
    for key in list(known.values()):  # the leaves inside a union, `backbone.freeze.image`
        section = section_within(key.annotation)
        if section is not None:
            known |= {k.path: k for k in setting_keys(section, f"{key.path}.")}
    return known


def _unknown_key(path: str, where: str) -> str:
    if gone := next((key for key in GONE if f"{path}.".startswith(f"{key}.")), None):
        return f"Setting {gone}{where} is gone: {GONE[gone]}."
    known = _known()
    leaf = path.rsplit(".", 1)[-1]
    same_leaf = [key for key in known if key.rsplit(".", 1)[-1] == leaf]
    near = same_leaf  # the right word in the wrong place
    if not near:
        by_leaf = {key.rsplit(".", 1)[-1]: key for key in known}
        near = nearest(path, (*known, *Settings.model_fields)) or [by_leaf[match] for match in nearest(leaf, by_leaf)]
    return f"Unknown setting {path}{where}{did_you_mean(near, '; `neucore-xl config show demo` lists all keys.')}"


def _refused(path: str, value: Any, where: str = "") -> str:
    key = _known()[path]
    if isinstance(value, int) and abs(value) >= 10**20:  # Python refuses to print thousands of digits
        shown = f"a number of {value.bit_length()} bits"
    else:
        shown = json.dumps(value, ensure_ascii=False, default=str)
        shown = shown if len(shown) <= 200 else f"{shown[:199]}…"
    hint = did_you_mean(nearest(shown.strip('"'), choices(key.annotation)), ".")
    return f"{path} must be {key.allowed}, not {shown}{where}{hint}"


def _explain(error: ValidationError) -> str:
    """The first thing pydantic refuses, as a sentence in the words of the tree."""
    known = _known()
    first = error.errors()[0]
    if first["type"] == "value_error":  # a check across several keys: the schema's own sentence
        return str(first["ctx"]["error"]) if "ctx" in first else first["msg"]
    parts = [str(part) for part in first["loc"]]
    # A union reports a location for each alternative; the longest known key of the location is the one meant.
    for length in range(len(parts), 0, -1):
        path = ".".join(parts[:length])
        if path in known:
            return _refused(path, first["input"])
    return f"{'.'.join(parts)}: {first['msg']}."
