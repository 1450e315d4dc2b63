"""Reading pickled arrays, whoever made them: a pickle can call any function, and here it can make arrays alone.

CIRR's ResNet-152 features come as pickles. Admitted are numpy's arrays of numbers and plain torch tensors; anything
else that a pickle names is refused by name before it is looked up.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from neucore_xl.errors import UserError
from neucore_xl.jsonfile import read_bytes

_LIMIT = 1 << 38  # bytes of a file


def read_arrays(path: Path) -> Any:
    """What is pickled in ``path``: numbers, texts, plain containers, numpy arrays, torch tensors.

    Raises ``UserError`` naming the file when it is damaged, cannot be read or names anything else.
    """
    raw = read_bytes(path, limit=_LIMIT, missing="check its path")
    try:
        return _Arrays(io.BytesIO(raw)).load()
    except _Foreign as error:
        raise UserError(
            f"{path} names {error}, which is no array and could run code: nothing of it was loaded; take features of "
            "people you trust, as safetensors or npz."
        ) from None
    except Exception as error:  # bytes at random make pickle raise anything
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".")
        raise UserError(f"{path} is damaged or no pickle ({reason}): fetch it again.") from None


class _Foreign(Exception):
    """The name of something that no pickled array names."""


class _Arrays(pickle.Unpickler):
    """Makes arrays and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy._core", "numpy.core")  # numpy 2 and 1
        found = _admitted().get((module, name))
        if found is None:
            raise _Foreign(f"{module}.{name}")
        return found

    def persistent_load(self, pid: Any) -> Any:
        raise _Foreign("something outside of the file")


def _admitted() -> dict[tuple[str, str], Callable[..., Any]]:
    multiarray, numeric = _numpy_part("multiarray"), _numpy_part("numeric")
    return {
        ("numpy.core.multiarray", "_reconstruct"): multiarray._reconstruct,
        ("numpy.core.numeric", "_frombuffer"): numeric._frombuffer,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): _latin1,
        ("collections", "OrderedDict"): OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): _tensor,
        ("torch.storage", "_load_from_bytes"): _storage,
    }


def _numpy_part(name: str) -> Any:
    core = getattr(np, "_core", None) or np.core
    return getattr(core, name)


def _latin1(text: str, encoding: str) -> bytes:
    """How old pickles write bytes."""
    if encoding != "latin1":
        raise _Foreign(f"the encoding {encoding!r}")
    return text.encode("latin1")


def _storage(raw: bytes) -> Any:
    """The numbers of a torch tensor, by torch's own reader of tensors alone."""
    import torch

    return torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)


def _tensor(storage: Any, offset: int, size: Any, stride: Any, *rest: Any) -> Any:
    from torch._utils import _rebuild_tensor_v2

    return _rebuild_tensor_v2(storage, offset, size, stride, False, OrderedDict())
