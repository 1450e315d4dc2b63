"""Reading files that torch wrote, whoever made them: nothing in them is run.

Such a file is a pickle, which can call any function when it is loaded. torch reads it with ``weights_only``: tensors,
plain containers, and the classes it is told to allow. DeepSpeed asks for the opposite in every place where it reads;
inside ``weights_only()`` torch overrules it. Its shards need three classes, whose construction does nothing but
keep the values it is given:

- ``LossScaler``: an object with numbers. Its ``__init__`` assigns one attribute, it has no ``__setstate__``.
- ``ZeroStageEnum``: an enumeration of the integers 0 to 3. Looking one up makes nothing; another value is an error.
- ``fragment_address``: a data class of two integers.

No other class is allowed, also none that torch or another library has allowed for itself in this process (meshes of
devices, every exception); a file that names one is refused with a sentence that names both.
"""

from __future__ import annotations

import os
import pickle
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from torch import load  # the function itself: ``convert`` puts its own in its place

from neucore_xl.errors import UserError

T = TypeVar("T")

CLASSES = (
    "deepspeed.runtime.fp16.loss_scaler.LossScaler",
    "deepspeed.runtime.zero.config.ZeroStageEnum",
    "deepspeed.utils.tensor_fragment.fragment_address",
)
_FORCE, _FORBID = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
_OTHER = "it holds something else than tensors and plain values"
_NAMED = re.compile(r"GLOBAL (\S+)|module (\S+) is blocked")


@contextmanager
def weights_only() -> Iterator[None]:
    """Inside, every ``torch.load``, with whatever arguments, builds tensors, plain containers and ``CLASSES`` alone.

    Processes that are forked or started inside inherit the first part of it: torch reads it from the environment.
    """
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    before = {name: os.environ.pop(name, None) for name in (_FORCE, _FORBID)}  # torch refuses to be told both
    os.environ[_FORCE] = "1"
    try:
        with _allowed(LossScaler, ZeroStageEnum, fragment_address):
            yield
    finally:
        del os.environ[_FORCE]
        os.environ.update({name: value for name, value in before.items() if value is not None})


@contextmanager
def _allowed(*classes: type) -> Iterator[None]:
    """Inside, torch's reader takes ``classes`` and what it always takes, whatever was added elsewhere."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(list(classes))
    try:
        yield
    finally:
        added = [c for c in torch.serialization.get_safe_globals() if c not in classes]  # by imports inside
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals([*before, *added])


def read(path: Path, expect: type[T]) -> T:
    """What ``torch.save`` put into ``path``, of type ``expect``, on the CPU: tensors and plain containers.

    Raises ``UserError`` naming the file when it is damaged, cannot be read or holds anything else.
    """
    with _allowed():
        return _read(path, expect)


def read_shard(path: Path, expect: type[T]) -> T:
    """``read`` for the files of DeepSpeed and the universal form, which may hold ``CLASSES`` too."""
    with weights_only():
        return _read(path, expect)


def _read(path: Path, expect: type[T]) -> T:
    if not path.is_file():  # nor a pipe, which would be waited for
        raise UserError(f"{path} is not there, or not a file: use another checkpoint.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of files that torch did not write
            content = load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}): check the disk and try again.") from error
    except pickle.UnpicklingError as error:
        found = _NAMED.search(str(error))
        raise UserError(_refusal(path, found[1] or found[2]) if found else _damage(path, _OTHER)) from error
    except Exception as error:  # bytes at random make torch's reader raise anything
        raise UserError(_damage(path, error)) from error
    if not isinstance(content, expect):
        raise UserError(_damage(path, f"it holds a {type(content).__name__} where a {expect.__name__} is expected"))
    return content


def problems(paths: Sequence[Path]) -> list[str]:
    """A sentence for every file among ``paths`` that ``read_shard`` would refuse for what it names; loads none."""
    found = []
    for path in paths:
        if not path.is_file():
            found.append(f"{path} is not there, or not a file.")
            continue
        try:
            with _allowed():
                names = set(torch.serialization.get_unsafe_globals_in_checkpoint(str(path))).difference(CLASSES)
        except Exception as error:
            found.append(_damage(path, error))
            continue
        if names:
            found.append(_refusal(path, ", ".join(sorted(names))))
    return found


def check(paths: Sequence[Path]) -> None:
    """Raise the first of ``problems`` as a ``UserError``, before a library reads ``paths`` and says less of it."""
    for path in paths:
        for problem in problems([path]):
            raise UserError(problem)


def files_of(folder: Path) -> list[Path]:
    """The files below ``folder`` that torch reads."""
    return sorted(folder.rglob("*.pt"))


@contextmanager
def taking_in(checkpoint: Path) -> Iterator[None]:
    """Inside, a program takes in what a checkpoint holds; content of another form becomes a ``UserError``.

    What the machine refuses (memory, the network, the disk) passes through.
    """
    try:
        yield
    except (UserError, OSError):
        raise
    except Exception as error:
        if isinstance(error, RuntimeError | MemoryError) and type(error) is not RuntimeError:
            raise  # out of memory, a lost process
        said = _OTHER if isinstance(error, pickle.UnpicklingError) else f"{type(error).__name__}: {_first(error)}"
        raise UserError(f"checkpoint {checkpoint} cannot be loaded ({said}): use another one.") from error


def _refusal(path: Path, names: str) -> str:
    return (
        f"{path} names {names}, which no checkpoint of neucore-xl holds and which could run code: nothing of it was "
        "loaded; use a checkpoint of people you trust."
    )


def _damage(path: Path, what: Exception | str) -> str:
    return f"{path} is damaged ({_first(what)}): use another checkpoint."


def _first(what: Exception | str) -> str:
    lines = str(what).strip().splitlines() or [type(what).__name__]
    return lines[0][:200].rstrip(".")
