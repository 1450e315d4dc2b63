"""The run folder: everything that explains a run, and a lock so that only one process trains in it."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import filelock

from neucore_xl import files
from neucore_xl.config.load import dump_yaml, load_file
from neucore_xl.config.schema import Settings
from neucore_xl.errors import UserError
from neucore_xl.jsonfile import BadContent, read_json, regular
from neucore_xl.language.vocabulary import Vocabulary
from neucore_xl.runs.environment import NAME as ENVIRONMENT
from neucore_xl.runs.environment import describe, read_environment, version_of

log = logging.getLogger(__name__)

# What may differ when a run goes on: where it computes and what it writes, never what it computes.
MAY_DIFFER = frozenset(
    {
        "data.root",
        "data.workers",
        "backbone.activation_checkpointing",
        "train.device",
        "train.compile",
        "train.micro_batch",
        "train.strategy",
        "train.deepspeed",
        "train.world_size",
        "train.wall_minutes",
        "train.hang_minutes",
        "train.cache_features",
        "train.cache_dir",
        "train.log_every",
        "train.checkpoint_every",
        "train.keep_checkpoints",
        "evaluation.batch_size",
        "evaluation.chunk",
    }
)
START = "start.json"
EARLY = {".lock", ".owner.json", ENVIRONMENT}  # what a start that was killed may leave without a config.yaml


class RunFolder:
    """``config.yaml``, ``environment.json``, ``vocabulary.json``, ``start.json``, ``log.jsonl``, ``tensorboard/``,
    ``checkpoints/``.

    Reading needs no lock. Training works inside ``with folder.claim(settings): …``.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def exists(self) -> bool:
        """Whether a run was begun here."""
        return (self.path / "config.yaml").is_file()

    def check(self, settings: Settings) -> None:
        """Raise ``UserError`` where ``claim`` would because of what the folder holds; nothing is written or held."""
        if not self.exists:
            self._refuse_strangers()
            return
        self._same_settings(settings)
        if recorded := self.environment():
            self._same_contents(settings, recorded, describe(settings, []))

    @contextmanager
    def claim(self, settings: Settings, *, command: Sequence[str] | None = None) -> Iterator[RunFolder]:
        """Hold the folder: create it, or check that it is this run's. The lock dies with the process.

        Raises ``UserError`` when another process trains in it, when it belongs to another config or other
        annotations (the differing keys are named), when it holds something else, or cannot be written.
        """
        with ExitStack() as stack:
            with files.disk_errors("creating the run folder", self.path):
                self._refuse_strangers()  # before the lock file is put there
                self.path.mkdir(parents=True, exist_ok=True)
                try:
                    stack.enter_context(files.locked(self.path / ".lock", wait=False))
                except filelock.Timeout:
                    raise UserError(
                        f"run folder {self.path} is in use{self._owner()}: wait for it, or give another --run-dir."
                    ) from None
            owner = self.path / ".owner.json"
            with files.disk_errors("writing the run folder", self.path):
                files.remove_leftovers(self.path)
                files.write_json(owner, {"host": socket.gethostname(), "pid": os.getpid()})
                stack.callback(owner.unlink, missing_ok=True)
                self._begin(settings, list(command if command is not None else sys.argv))
            yield self

    def _begin(self, settings: Settings, command: list[str]) -> None:
        if not self.exists:
            files.write_json(self.path / ENVIRONMENT, describe(settings, command))
            # Last, since it is what makes the folder a run.
            files.write_text(self.path / "config.yaml", dump_yaml(settings))
            return
        changed = self._same_settings(settings)
        now = describe(settings, command)
        environment = self._recorded(now)
        self._same_contents(settings, environment, now)
        now["changed"] = {key: {"old": old, "new": new} for key, old, new in changed}
        environment.setdefault("resumed", []).append(now)
        files.write_json(self.path / ENVIRONMENT, environment)

    def _same_settings(self, settings: Settings) -> list[tuple[str, Any, Any]]:
        """What differs in ``settings`` and may; raises ``UserError`` where anything else differs."""
        changed = differences(self.settings(), settings)
        if refused := [c for c in changed if c[0] not in MAY_DIFFER]:
            listed = "; ".join(f"{key} was {old}, now {new}" for key, old, new in refused)
            raise UserError(f"run folder {self.path} is of another config ({listed}): give another --run-dir.")
        return changed

    def _same_contents(self, settings: Settings, environment: dict[str, Any], now: dict[str, Any]) -> None:
        """Raise ``UserError`` where annotations or sequence files are not those of ``environment``."""
        if environment["data"]["fingerprint"] != now["data"]["fingerprint"]:
            raise UserError(
                f"the annotations under {settings.data.root} are not those that run {self.path} was begun with: "
                "restore them, or give another --run-dir."
            )
        if _contents(environment) != _contents(now):
            raise UserError(
                f"the sequence files are not those that run {self.path} was begun with: restore them, or give another "
                "--run-dir."
            )

    def _recorded(self, now: dict[str, Any]) -> dict[str, Any]:
        """What was recorded when the run was begun, or ``now`` where that is lost, which a warning says.

        The settings and, later, vocabulary and frozen weights are compared all the same. Raises ``UserError`` where
        the system refuses to read it.
        """
        path = self.path / ENVIRONMENT
        found = regular(path)
        problem = f"{path} {found}" if isinstance(found, str) else None
        if problem is None:
            try:
                return read_environment(path)
            except BadContent as error:
                problem = str(error).rstrip(".")
        kept = f" It is kept as {files.set_aside(path).name}." if os.path.lexists(path) else ""
        log.warning(
            "%s: whether the annotations under %s are those that the run was begun with is not known any more; it goes "
            "on with them and records them anew.%s",
            problem, now["data"]["root"], kept,
        )  # fmt: skip
        return {**now, "recorded": f"when the run went on, since {problem}"}

    def _refuse_strangers(self) -> None:
        if self.exists or not self.path.is_dir():
            return
        names = sorted(p.name for p in self.path.iterdir())
        strangers = [n for n in names if n not in EARLY and not n.startswith(files.TEMPORARY)]
        if strangers:
            raise UserError(
                f"{self.path} is not empty and not a run folder (it holds {strangers[0]}): give another --run-dir."
            )

    def _owner(self) -> str:
        try:
            owner = read_json(self.path / ".owner.json", dict)
            return f" by process {owner['pid']} on {owner['host']}"
        except (UserError, KeyError):
            return ""

    def settings(self) -> Settings:
        """The resolved settings; raises ``UserError`` when this is no run folder, or a setting is unknown here."""
        if not self.path.is_dir():
            raise UserError(f"no run folder at {self.path}: give the folder that was --run-dir when it was trained.")
        if not self.exists:
            raise UserError(f"{self.path} is not a run folder (it has no config.yaml).")
        begun, here = (self.environment().get("packages") or {}).get("neucore-xl"), version_of("neucore-xl")
        note = f" (begun with neucore-xl {begun}, this is {here})" if begun and begun != here else ""
        return load_file(self.path / "config.yaml", note)

    def environment(self) -> dict[str, Any]:
        """The content of ``environment.json``, ``{}`` if it is missing or damaged."""
        try:
            return read_environment(self.path / ENVIRONMENT)
        except UserError:
            return {}

    def write_vocabulary(self, vocabulary: Vocabulary) -> None:
        """Store the vocabulary in one step."""
        with files.disk_errors("writing vocabulary.json", self.path):
            files.write_json(self.path / "vocabulary.json", vocabulary.to_json())

    def write_start(self, report: Mapping[str, Any]) -> None:
        """Store what was found before the first step (``runs.fitting``) in one step."""
        with files.disk_errors("writing start.json", self.path):
            files.write_json(self.path / START, dict(report))

    def start(self) -> dict[str, Any] | None:
        """What ``write_start`` stored; None where nothing was fitted, or the file is damaged: it decides nothing."""
        try:
            return read_json(self.path / START, dict) if (self.path / START).is_file() else None
        except UserError as error:
            log.warning("%s", error)
            return None

    def vocabulary(self) -> Vocabulary | None:
        """The stored vocabulary, or None if the run was stopped before it was written."""
        path = self.path / "vocabulary.json"
        return Vocabulary.load(path) if path.is_file() else None


def differences(old: Settings, new: Settings) -> list[tuple[str, Any, Any]]:
    """(dotted key, old value, new value) of every setting that differs, in the order of the tree."""
    before, after = _flat(old.model_dump(mode="json")), _flat(new.model_dump(mode="json"))
    return [(k, before.get(k), after.get(k)) for k in dict.fromkeys([*before, *after]) if before.get(k) != after.get(k)]


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def _contents(environment: dict[str, Any]) -> list[str]:
    """Digests of the sequence files, whatever they are called."""
    return sorted(f["sha256"] for f in environment.get("sequences") or [])
