"""Generate a whole benchmark: annotations, the truth about their sentences, descriptions, pictures; all or nothing."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock

from neucore_xl.errors import UserError
from neucore_xl.files import locked
from neucore_xl.jsonfile import read_json
from neucore_xl.language.sequence import FusionSequence
from neucore_xl.language.sequence_file import write_sequences
from neucore_xl.progress import track
from neucore_xl.shapes import write_cirr, write_fashion_iq
from neucore_xl.shapes.describe import describe
from neucore_xl.shapes.draw import render
from neucore_xl.shapes.plan import MINIMUM, Plan, plan_split
from neucore_xl.shapes.scene import CATEGORY_PALETTES, Palette, Scene
from neucore_xl.workers import process_pool

VERSION = 5  # raised whenever the same call gives other files
BATCH = 64  # images that a worker draws at a time
SMALL = 512  # below this many images starting worker processes costs more than it saves
PLANNER = "truth"  # who planned the sequences, as their file says it

Job = tuple[str, Scene]  # (file, what it shows)


@dataclass(frozen=True)
class Layout:
    """A file format to write in; galleries are by category, with the key "" where there is but one.

    ``splits``: what its train, val and test are called. ``write(root, plans, split, key)`` writes the annotations and
    returns the truth; ``image(split, category, index)`` is the path of a picture below the root.
    """

    splits: tuple[str, str, str]
    palettes: Mapping[str, Palette]
    write: Callable[[Path, Mapping[str, Plan], str, str], Iterable[FusionSequence]]
    image: Callable[[str, str, int], str]


LAYOUTS = {
    "cirr": Layout(
        write_cirr.SPLITS,
        {"": Palette()},
        lambda root, plans, split, key: write_cirr.write_split(root, plans[""], split, key),
        lambda split, _, index: "img_raw/" + write_cirr.image_path(split, index).removeprefix("./"),
    ),
    "fashion-iq": Layout(
        write_fashion_iq.SPLITS, CATEGORY_PALETTES, write_fashion_iq.write_split, write_fashion_iq.image_path
    ),
}


@dataclass(frozen=True)
class GenerateSummary:
    """What a call wrote: images and pairs per split, files in all, wall-clock seconds (0 if it was there already)."""

    out: Path
    layout: str
    images: dict[str, int]
    pairs: dict[str, int]
    files: int
    seconds: float
    reused: bool = False


def generate(
    out: Path | str,
    *,
    layout: str,
    train: int,
    val: int,
    test: int,
    seed: int,
    size: int = 96,
    workers: int = 2,
    progress: bool = True,
) -> GenerateSummary:
    """Write a generated benchmark to the folder ``out`` in the file formats of CIRR rc2 or Fashion-IQ.

    Args:
        layout: a name of ``LAYOUTS``.
        train, val, test: images of each split (Fashion-IQ: of the three categories together). A split of 0 images is
            left out.
        seed: the same arguments give the same files, byte for byte, whatever ``workers``.
        size: side of the square pictures in pixels.
        workers: processes that draw.
        progress: show a progress bar.

    Everything is written beside ``out`` and takes its name at the end; what a killed call left there, the next one of
    the same ``out`` removes. If ``out`` was made by the same call, nothing is done.

    Raises:
        UserError: wrong arguments, ``out`` holds something else, or it cannot be written.
    """
    started = time.perf_counter()
    out = Path(out)
    counts = {"train": train, "val": val, "test": test}
    _check(layout, counts, size, workers)
    recipe = {
        "generator": "neucore-xl shapes",
        "version": VERSION,
        "layout": layout,
        **counts,
        "seed": seed,
        "size": size,
    }
    earlier = _earlier(out, recipe)
    if earlier is not None:
        return earlier
    whole = Path(os.path.abspath(out))  # noqa: PTH100 (links stay, and "." gets its name)
    try:
        whole.parent.mkdir(parents=True, exist_ok=True)
        with _unfinished(whole) as partial:
            earlier = _earlier(out, recipe)  # another process may have made it in the meantime
            if earlier is not None:
                return earlier
            images, pairs, jobs = _annotate(partial, layout, counts, seed)
            _draw(jobs, size, workers, progress)
            files = sum(p.is_file() for p in partial.rglob("*")) + 1  # and generated.json itself
            made = {**recipe, "images": images, "pairs": pairs, "files": files}
            (partial / "generated.json").write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
            partial.replace(whole)
    except OSError as error:
        raise UserError(
            f"{out} cannot be written ({error.strerror or error}); choose another folder or free some room."
        ) from None
    return GenerateSummary(out, layout, images, pairs, files, time.perf_counter() - started)


@contextmanager
def _unfinished(out: Path) -> Iterator[Path]:
    """An empty folder beside ``out`` that only this process writes to, and that is gone at the end.

    It lies beside a lock in a folder that is named after ``out``, so that the next call finds and removes what a
    killed one left. Raises ``UserError`` while another process holds the lock.
    """
    around = out.parent / f".{out.name}.partial"
    around.mkdir(exist_ok=True)
    try:
        with locked(around / "lock", wait=False):
            partial = around / "made"
            shutil.rmtree(partial, ignore_errors=True)
            try:
                partial.mkdir()
                yield partial
            finally:
                shutil.rmtree(around, ignore_errors=True)
    except filelock.Timeout:
        raise UserError(f"Another process is generating {out}; wait for it or name another folder.") from None


def write_truth(path: Path, sequences: Iterable[FusionSequence], seed: int) -> int:
    """Write the truth of distinct texts to ``path``; returns how many.

    A text that two pairs share is written once: the words decide the steps.
    """
    by_text: dict[str, FusionSequence] = {}
    for s in sequences:
        by_text.setdefault(s.text, s)
    write_sequences(path, by_text.values(), planner=PLANNER, settings={"generator": "shapes", "seed": seed})
    return len(by_text)


def _check(layout: str, counts: dict[str, int], size: int, workers: int) -> None:
    if layout not in LAYOUTS:
        raise UserError(f"layout must be one of {', '.join(LAYOUTS)}, not {layout!r}.")
    least = MINIMUM * len(LAYOUTS[layout].palettes)
    for name, count in counts.items():
        if count != 0 and count < least:
            raise UserError(f"{name} must be 0 or at least {least} images for the layout {layout}, not {count}.")
    if not any(counts.values()):
        raise UserError("Nothing to generate: train, val and test are all 0; ask for some images.")
    if not 16 <= size <= 1024:
        raise UserError(f"size must be from 16 to 1024 pixels, not {size}.")
    if workers < 1:
        raise UserError(f"workers must be at least 1, not {workers}.")


def _earlier(out: Path, recipe: dict[str, Any]) -> GenerateSummary | None:
    """The summary of the same call made before; None if ``out`` is free. UserError if it holds anything else."""
    if not out.exists():
        return None
    if not out.is_dir():
        raise UserError(f"{out} is a file; name a folder to generate into.")
    if not any(out.iterdir()):
        return None
    try:
        made = read_json(out / "generated.json", dict)
        summary = GenerateSummary(
            out,
            layout=str(made["layout"]),
            images=dict(made["images"]),
            pairs=dict(made["pairs"]),
            files=int(made["files"]),
            seconds=0.0,
            reused=True,
        )
    except (UserError, KeyError, TypeError, ValueError):
        raise UserError(f"{out} is not empty and was not generated here; name a new or an empty folder.") from None
    differing = [k for k, v in recipe.items() if made.get(k) != v]
    if differing:
        found = ", ".join(f"{k}={str(made.get(k))[:40]}" for k in differing)
        raise UserError(f"{out} was generated with other settings ({found}); name another folder or remove it first.")
    present = sum(p.is_file() for p in out.rglob("*"))
    if present < summary.files:
        raise UserError(
            f"{out} was generated by this call but {summary.files - present} files are gone; remove it first."
        )
    return summary


def _annotate(
    root: Path, layout: str, counts: dict[str, int], seed: int
) -> tuple[dict[str, int], dict[str, int], list[Job]]:
    """Plan every split and write all but the pictures; returns images and pairs per split and what is to be drawn."""
    images: dict[str, int] = {}
    pairs: dict[str, int] = {}
    jobs: list[Job] = []
    form = LAYOUTS[layout]
    for split, count in zip(form.splits, counts.values(), strict=True):
        if count == 0:
            continue
        key = f"{seed}/{layout}/{split}"
        plans: dict[str, Plan] = {}
        for k, (category, palette) in enumerate(form.palettes.items()):
            share = count // len(form.palettes) + (k < count % len(form.palettes))
            plans[category] = plan_split(f"{key}/{category}" if category else key, share, palette)
        truth = form.write(root, plans, split, key)
        write_truth(root / "truth" / f"sequences.{split}.jsonl", truth, seed)
        drawn = [(form.image(split, c, i), scene) for c, plan in plans.items() for i, scene in enumerate(plan.scenes)]
        _write_descriptions(root / "descriptions" / f"descriptions.{split}.csv", drawn, key)
        images[split] = len(drawn)
        pairs[split] = sum(len(p.queries) for p in plans.values())
        jobs += [(str(root / path), scene) for path, scene in drawn]
    return images, pairs, jobs


def _write_descriptions(path: Path, drawn: Sequence[Job], key: str) -> None:
    """``filepath,title`` with paths relative to the CSV file, so that the folder can be moved."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("filepath", "title"))
    for i, (image, scene) in enumerate(drawn):
        writer.writerow((f"../{image}", describe(scene, random.Random(f"{key}/describe/{i}"))))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.getvalue(), encoding="utf-8")


def _draw_batch(batch: Sequence[Job], size: int) -> int:
    for file, scene in batch:
        render(scene, size).save(file, "PNG", compress_level=1)
    return len(batch)


def _draw(jobs: Sequence[Job], size: int, workers: int, progress: bool) -> None:
    for folder in {str(Path(file).parent) for file, _ in jobs}:
        Path(folder).mkdir(parents=True, exist_ok=True)
    batches = [jobs[i : i + BATCH] for i in range(0, len(jobs), BATCH)]
    with track("drawing", len(jobs), shown=progress) as advance:
        for done in _drawn(batches, size, workers if len(jobs) >= SMALL else 1):
            advance(done)


def _drawn(batches: Sequence[Sequence[Job]], size: int, workers: int) -> Iterator[int]:
    """Draw the batches, yielding the number of pictures of each that is finished."""
    if workers == 1:
        for batch in batches:
            yield _draw_batch(batch, size)
        return
    with process_pool(workers) as pool:
        yield from pool.map(_draw_batch, batches, [size] * len(batches))
