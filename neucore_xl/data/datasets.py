"""Every dataset by name. A new one is a file that reads it and one ``register(Dataset(...))``, here or anywhere else.

What is registered here is all that the project knows about a dataset's files: the doctor, the preparation of sequences,
training and validation look it up by ``data.name`` and nothing else. How it is scored is registered beside the
measures (``neucore_xl.evaluation.protocols``).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from neucore_xl.data import cirr, fashion_iq
from neucore_xl.data.doctor import cirr as cirr_doctor
from neucore_xl.data.doctor import fashion_iq as fashion_iq_doctor
from neucore_xl.data.switches import Captions, EmptyText, GalleryKind, Switches, require_known
from neucore_xl.data.triplets import Split
from neucore_xl.errors import UserError

if TYPE_CHECKING:
    from neucore_xl.config.schema import DataSettings
    from neucore_xl.data.doctor.report import Findings


@dataclass(frozen=True)
class Dataset:
    """What a dataset tells about itself; the first four are needed.

    ``name``: the value of ``data.name``. ``title``: how people write it. ``splits``: the names of the splits that
    lie below a root, () where it holds none in this format. ``open``: one of them; raises ``UserError`` for a split
    that is missing and a row that cannot be read, and opens no picture.

    ``sentences``: every sentence that a model may be given of a split; None: the texts of ``open``. ``examine``: what
    the doctor collects below a root; None: what ``open`` yields and the checks that all datasets share.
    ``subsets``: triplets carry an image set (``loss.subset_negatives`` needs one). ``categories``: there are several
    galleries (``data.one_category_per_batch`` needs them).
    """

    name: str
    title: str
    splits: Callable[[Path], Sequence[str]]
    open: Callable[[Path, str, Switches], Split]
    sentences: Callable[[Path, str], list[str]] | None = None
    examine: Callable[[Path], Findings] | None = None
    subsets: bool = False
    categories: bool = False


_REGISTERED: dict[str, Dataset] = {}


def register(dataset: Dataset) -> Dataset:
    """Make ``dataset`` known by its name, for this process and whatever it does next; returns it.

    Raises ``UserError`` for a name that another dataset has.
    """
    if _REGISTERED.get(dataset.name, dataset) != dataset:
        raise UserError(f"A dataset {dataset.name!r} is registered already; give yours another name.")
    _REGISTERED[dataset.name] = dataset
    return dataset


def dataset_names() -> tuple[str, ...]:
    """Every value that ``data.name`` may have, in the order of registration."""
    return tuple(_REGISTERED)


def dataset_of(name: str) -> Dataset:
    """The dataset called ``name``; raises ``UserError`` with the nearest name for one that is not registered."""
    require_known("dataset", name, dataset_names())
    return _REGISTERED[name]


def datasets_in(root: Path) -> list[Dataset]:
    """The datasets of whose format there are splits below ``root``, in the order of registration."""
    return [dataset for dataset in _REGISTERED.values() if dataset.splits(root)]


def open_split(
    name: str,
    root: Path | str,
    split: str,
    *,
    categories: Sequence[str] | None = None,
    captions: Captions = "12",
    gallery: GalleryKind = "original",
    empty_text: EmptyText = "refuse",
) -> Split:
    """``split`` of the dataset ``name`` below ``root``, read as ``Switches`` says; no image is opened.

    Raises ``UserError`` for an unknown name or switch, a missing folder or split, and every row that cannot be read.
    """
    root = Path(root)
    dataset = dataset_of(name)
    switches = Switches(None if categories is None else tuple(categories), captions, gallery, empty_text)
    require_root(root)
    return dataset.open(root, split, switches)


def open_from_settings(settings: DataSettings, split: str) -> Split:
    """``split`` as the settings of a run describe it; raises as ``open_split`` does."""
    dataset = dataset_of(settings.name)
    require_root(settings.root)
    return dataset.open(settings.root, split, Switches.of(settings))


def require_root(root: Path) -> None:
    """Raises ``UserError`` unless ``root`` is a folder."""
    if not os.path.isdir(root):  # noqa: PTH112 (a Path raises for a name that is too long)
        raise UserError(f"The data folder {root} does not exist; set data.root to the folder that holds captions/.")


register(Dataset("cirr", "CIRR", cirr.splits_in, cirr.open_split, examine=cirr_doctor.collect, subsets=True))
register(
    Dataset(
        "fashion-iq",
        "Fashion-IQ",
        fashion_iq.split_names,
        fashion_iq.open_split,
        sentences=fashion_iq.sentences,
        examine=fashion_iq_doctor.collect,
        categories=True,
    )
)
