"""The settings of a job, whose dataset is known and can do what they ask of it.

``config`` types a tree and lies below this room: it cannot know which datasets there are, and a run whose dataset is
not registered in this process may still be opened. What reads a recipe's dataset loads its settings here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from neucore_xl.config.load import load_settings
from neucore_xl.config.schema import Settings
from neucore_xl.data.datasets import dataset_names, dataset_of
from neucore_xl.errors import UserError, did_you_mean, nearest


def job_settings(recipe: str, overrides: Sequence[str] = ()) -> Settings:
    """``config.load.load_settings``, checked by ``check_dataset``; raises ``UserError`` as both do."""
    return check_dataset(load_settings(recipe, overrides))


def check_dataset(settings: Settings) -> Settings:
    """``settings``, if their dataset is registered and has what they ask of it.

    Raises ``UserError`` for an unknown ``data.name`` (with the nearest one), for negatives from the subsets of a
    dataset that has none, and for batches of one category of a dataset that has no categories.
    """
    data, names = settings.data, dataset_names()
    if data.name not in names:
        shown, hint = json.dumps(data.name, ensure_ascii=False), did_you_mean(nearest(data.name, names), ".")
        raise UserError(f"data.name must be one of {', '.join(names)}, not {shown}{hint}")
    dataset = dataset_of(data.name)
    if settings.loss.subset_negatives and not dataset.subsets:
        raise UserError(
            f"loss.subset_negatives={settings.loss.subset_negatives} needs image sets such as those of CIRR, "
            f"but data.name={data.name} has none: set it to 0."
        )
    if data.one_category_per_batch and not dataset.categories:
        raise UserError(
            f"data.one_category_per_batch needs categories such as those of Fashion-IQ, but data.name={data.name} "
            "has none: set it to false."
        )
    return settings
