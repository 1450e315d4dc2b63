"""Pictures that were encoded to be searched: their names, their features, and the system that made them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from os.path import abspath
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from neucore_xl import files
from neucore_xl.errors import UserError
from neucore_xl.jsonfile import parse_json, text_list
from neucore_xl.models.features import FeatureSet, TargetFeatures

FORMAT = "neucore-xl gallery 1"


@dataclass(frozen=True, repr=False, eq=False)
class Gallery:
    """G encoded pictures; ``System.encode_images`` makes one, ``System.search`` ranks it.

    ``names``: the paths as they were given, in their order. ``features``: what the system's composer made of them,
    named tensors of G rows in fp32, on the CPU unless ``to`` moved them. ``system``: the fingerprint of the system
    whose features these are; no other one can search them.
    """

    names: tuple[str, ...]
    features: TargetFeatures
    system: str

    def __post_init__(self) -> None:
        if len(self.names) != self.features.rows:
            raise ValueError(f"{len(self.names)} names, but features of {self.features.rows} pictures")

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"Gallery({len(self)} pictures)"

    def to(self, device: torch.device | str) -> Gallery:
        """The same with its features on ``device``: worth it for many searches on a GPU."""
        return Gallery(self.names, self.features.map(lambda t: t.to(device)), self.system)

    def save(self, path: Path | str) -> None:
        """Write it to ``path`` (safetensors), in one step; a file that is there is replaced.

        Raises ``UserError`` where the folder is missing or refuses to be written, or the disk is full.
        """
        path = Path(path)
        header = {"format": FORMAT, "system": self.system, "names": json.dumps(self.names)}
        tensors = {name: t.detach().cpu().contiguous() for name, t in self.features.items()}
        with files.disk_errors("saving a gallery", path.parent):
            files.write_bytes(path, safetensors.torch.save(tensors, header))

    @staticmethod
    def load(path: Path | str) -> Gallery:
        """What ``save`` wrote, on the CPU; raises ``UserError`` for a file that is missing, damaged or no gallery."""
        try:
            if not Path(path).is_file():  # a pipe would be waited for
                raise UserError(f"{path} does not exist or is no file: give what Gallery.save wrote.")
            with safetensors.safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
                if header.get("format") != FORMAT:
                    raise UserError(f"{path} is no gallery: make one with Gallery.save.")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, safetensors.SafetensorError) as error:
            raise UserError(f"{path} cannot be read as a gallery ({error}): encode its pictures again.") from error
        names = text_list(parse_json(header.get("names", ""), f"{path}: names", list), f"{path}: names")
        try:
            return Gallery(tuple(names), FeatureSet(tensors), header["system"])
        except (ValueError, KeyError, IndexError) as error:  # no rows, no system, or not as many as there are names
            raise UserError(f"{path} is no whole gallery ({error}): encode its pictures again.") from error


def check_pictures(paths: Sequence[Path | str]) -> tuple[str, ...]:
    """The names of the pictures ``paths``, before anything is read.

    Raises ``UserError`` for no picture at all, for files that are not there (all are named), and for files that are
    given twice.
    """
    if isinstance(paths, str | Path):
        raise UserError(f"encode_images takes a list of pictures, not the one path {paths}: put it into a list.")
    names = tuple(str(path) for path in paths)
    if not names:
        raise UserError("no picture to encode: give the paths of one picture or more.")
    if missing := [name for name in dict.fromkeys(names) if not Path(name).is_file()]:
        raise UserError(f"{_counted(len(missing))} not there, so none was encoded: {', '.join(missing)}.")
    twice = [name for name, count in Counter(map(abspath, names)).items() if count > 1]
    if twice:
        raise UserError(f"{_counted(len(twice))} given more than once, so none was encoded: {', '.join(twice)}.")
    return names


def _counted(count: int) -> str:
    return "1 picture is" if count == 1 else f"{count} pictures are"
