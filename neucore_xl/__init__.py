"""neucore-xl: composed image retrieval at scale (CLIP backbones, planned fusion sequences, sharded training).

>>> from neucore_xl import load_run
>>> model = load_run("runs/b16").to("auto")
>>> gallery = model.encode_images(["a.jpg", "b.jpg"])
>>> model.search("query.jpg", "the same dog, but on grass", gallery)

The public names are loaded when they are first asked for: importing the package imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from neucore_xl.encoding.gallery import Gallery
    from neucore_xl.errors import UserError
    from neucore_xl.runs.system import Hit, System, load_run

__version__ = "0.1.0"
__all__ = ["Gallery", "Hit", "System", "UserError", "load_run"]

_ROOMS = {
    "Gallery": "encoding.gallery",
    "Hit": "runs.system",
    "System": "runs.system",
    "UserError": "errors",
    "load_run": "runs.system",
}


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_ROOMS[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
