"""DeepSpeed's converter to the universal form, reading pickles as ``trusted`` does: ``python -m …convert OPTIONS``.

Names of parameters become names of folders there, so a name that leads out of the folder is refused as well.
"""

from __future__ import annotations

import multiprocessing
import sys
from pathlib import Path
from typing import Any

import torch

from neucore_xl.errors import UserError
from neucore_xl.jsonfile import file_name
from neucore_xl.runs.checkpoints.trusted import read_shard, weights_only


def main() -> None:
    """Convert as the options of ``deepspeed.checkpoint.ds_to_universal`` say; a refused file is one sentence."""
    from deepspeed.checkpoint import ds_to_universal

    multiprocessing.set_start_method("fork", force=True)  # its workers read as this process does
    with weights_only():
        torch.load = _load  # type: ignore[assignment]
        try:
            ds_to_universal.main(ds_to_universal.parse_arguments())
        except UserError as error:
            sys.exit(str(error))


def _load(path: Path | str, **_: Any) -> Any:
    content = read_shard(Path(path), object)
    _check_names(content, str(path))
    return content


def _check_names(content: Any, where: str) -> None:
    if isinstance(content, dict):
        for name in content:
            if isinstance(name, str):
                file_name(name, where)
        content = list(content.values())
    if isinstance(content, list | tuple):
        for value in content:
            _check_names(value, where)


if __name__ == "__main__":
    main()
