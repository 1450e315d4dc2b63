"""Bars of the headline with their intervals, as SVG that is equal to the byte for equal results."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from neucore_xl.comparison.layouts import CIRR_MEAN
from neucore_xl.comparison.published import human
from neucore_xl.comparison.results import CAPTIONS, Entry
from neucore_xl.comparison.table import rows_of
from neucore_xl.errors import UserError

_SETTINGS: Any = {"svg.hashsalt": "neucore-xl", "svg.fonttype": "none", "font.family": "DejaVu Sans", "font.size": 9}
_BAR, _STRONGEST, _LINE = "#7f9dbf", "#2c5d94", "#555555"


def check_library() -> None:
    """Raise ``UserError`` where matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UserError(
            "plots need matplotlib: python -m pip install 'neucore-xl[plots]', or add --no-plot for the tables alone"
        ) from None


def svg(entries: Sequence[Entry]) -> bytes:
    """The plot of ``entries``: a bar a system, the strongest at the top; chance as a dotted line, people as a dashed.

    Whiskers are the 95 % intervals over queries, dots the single seeds. Raises ``UserError`` without matplotlib.
    """
    check_library()
    import matplotlib as mpl
    from matplotlib.figure import Figure

    rows, first = rows_of(entries), entries[0]
    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(7.0, 1.0 + 0.26 * len(rows)), layout="constrained")
        axes = figure.subplots()
        for place, row in enumerate(rows):
            value, over = row.value(first.headline) or 0.0, row.first.over_seeds
            axes.barh(place, value, color=_STRONGEST if place == 0 else _BAR, height=0.7)
            if over and over.headline.low is not None and over.headline.high is not None:
                ends = [[value - over.headline.low], [over.headline.high - value]]
                axes.errorbar(value, place, xerr=ends, color="black", capsize=2, linewidth=1)
            if len(row.runs) > 1:
                axes.plot([r.score for r in row.runs], [place] * len(row.runs), ".", color="black", markersize=3)
        for line, style in ((first.chance.get(first.headline), ":"), (_people(first), "--")):
            if line is not None:
                axes.axvline(line, color=_LINE, linestyle=style, linewidth=1)
        axes.set_yticks(range(len(rows)), [row.name for row in rows])
        axes.invert_yaxis()
        axes.set_xlabel((CIRR_MEAN if first.dataset == "cirr" else first.headline) + ", %")
        axes.set_title(f"{first.dataset}, {first.n_queries} queries" + (f", {CAPTIONS}" if first.captions else ""))
        axes.spines[["top", "right"]].set_visible(False)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def _people(entry: Entry) -> float | None:
    line = human(entry.dataset)
    return line.metrics.get(entry.headline) if line else None
