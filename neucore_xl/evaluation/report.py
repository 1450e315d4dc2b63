"""A self-contained HTML page: the table of systems, then queries with their ranked images and the target marked."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from neucore_xl.data.images import load_rgb
from neucore_xl.data.triplets import Split
from neucore_xl.errors import UserError
from neucore_xl.estimates import Estimate
from neucore_xl.evaluation.ranking import ABSENT, UNRANKED, Scores, columns, rank_of_target, top_k
from neucore_xl.evaluation.result import protocol_line
from neucore_xl.files import output_file
from neucore_xl.language.sequence import FusionSequence

Thumbnails = Literal["embed", "link"]
TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Ranking:
    """One system's answer to one query: its best images in order, and the target's rank (None: not ranked)."""

    images: tuple[str, ...]
    target_rank: int | None = None


@dataclass(frozen=True)
class ReportRow:
    """One query of the page; ``rankings`` by the name of the system."""

    id: str
    reference: str
    text: str
    target: str | None
    rankings: Mapping[str, Ranking]
    sequence: FusionSequence | None = None


@dataclass(frozen=True)
class SystemRow:
    """One line of the table: percent by measure, and optionally what it is behind or ahead of, with its interval."""

    name: str
    metrics: Mapping[str, float]
    difference: Estimate | None = None
    notes: str = ""
    marks: frozenset[str] = field(default_factory=frozenset)  # measures in which it is best; filled in by write_page


def rows_from_scores(
    split: Split,
    queries: Sequence[int],
    scores: Mapping[str, Scores],
    *,
    top: int = 8,
    reference: Literal["drop", "keep"] = "drop",
    sequences: Mapping[str, FusionSequence] | None = None,
) -> list[ReportRow]:
    """Report rows of the triplets ``queries`` (indices into ``split.triplets``).

    Args:
        scores: system → ``[len(queries), G]`` over the gallery of the triplets, which must be one gallery.
        top: images shown per system.
        reference: whether the query's own reference is among the ranked images.
        sequences: sentence → its planned edits, shown where given.
    """
    triplets = [split.triplets[i] for i in queries]
    if len({t.category or "" for t in triplets}) > 1:
        raise ValueError("the queries of one call must share a gallery")
    names = split.galleries[(triplets[0].category or "") if triplets else next(iter(split.galleries))].names
    out = columns([t.reference for t in triplets], names) if reference == "drop" else None
    target = columns([t.target for t in triplets], names)
    rankings: list[dict[str, Ranking]] = [{} for _ in triplets]
    for system, values in scores.items():
        best, ranks = top_k(values, top, out), rank_of_target(values, target, out)
        for i in range(len(triplets)):
            shown = tuple(names[c] for c in best[i] if c != ABSENT)
            rankings[i][system] = Ranking(shown, None if ranks[i] == UNRANKED else int(ranks[i]))
    return [
        ReportRow(t.id, t.reference, t.text, t.target, rankings[i], (sequences or {}).get(t.text))
        for i, t in enumerate(triplets)
    ]


def evenly(n: int, count: int) -> list[int]:
    """``count`` of ``n`` indices at equal distances, so that nobody picks the queries that are shown."""
    return [int(i) for i in np.unique(np.linspace(0, n - 1, min(n, count)).round())] if n else []


def write_page(
    path: Path,
    rows: Sequence[ReportRow],
    *,
    title: str,
    image_path: Callable[[str], Path],
    systems: Sequence[SystemRow] = (),
    protocol: Mapping[str, Any] | None = None,
    measures: Sequence[str] | None = None,
    headline: str = "mean",
    introduction: str = "",
    difference_label: str = "difference",
    thumbnails: Thumbnails = "embed",
    side: int = 160,
) -> Path:
    """Write the page to ``path`` atomically (an earlier page is replaced); returns ``path``.

    Args:
        rows: the queries, in the order shown.
        image_path: name of an image → its file; a file that cannot be read leaves a named gap on the page.
        systems: lines of the table; ``measures`` are its columns (default: all of the first line but mAP and those
            of single categories).
        protocol: printed below the table.
        difference_label: column title of ``SystemRow.difference``.
        thumbnails: ``embed`` puts small JPEGs of at most ``side`` pixels into the page, ``link`` points to the
            files, relative to the page.

    Raises:
        UserError: the page cannot be written.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    @cache
    def source(name: str) -> str | None:
        try:
            file = image_path(name)
            if thumbnails == "embed":
                return _embedded(file, side)
        except (KeyError, UserError):
            return None
        return Path(os.path.relpath(file, path.parent)).as_posix() if file.exists() else None

    if measures is None:
        measures = [m for m in (systems[0].metrics if systems else ()) if not m.startswith("mAP") and "/" not in m]
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    html = environment.get_template("report.html").render(
        title=title,
        introduction=introduction,
        systems=_with_marks(systems, measures),
        measures=measures,
        headline=headline,
        difference_label=difference_label if any(s.difference for s in systems) else "",
        protocol=protocol_line(protocol) if protocol else "",
        rows=rows,
        source=source,
    )
    with output_file(path) as temporary:
        temporary.write_text(html, encoding="utf-8", errors="replace")  # half a character is "?"
    return path


def _with_marks(systems: Sequence[SystemRow], measures: Sequence[str]) -> list[SystemRow]:
    best = {m: max((s.metrics[m] for s in systems if m in s.metrics), default=None) for m in measures}
    return [
        SystemRow(
            s.name,
            s.metrics,
            s.difference,
            s.notes,
            frozenset(m for m in measures if len(systems) > 1 and m in s.metrics and s.metrics[m] == best[m]),
        )
        for s in systems
    ]


def _embedded(file: Path, side: int) -> str:
    image = load_rgb(file)
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
