"""Entries as tables: rows of systems with their marks, then lines that are only for reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Literal

from neucore_xl.comparison.layouts import Layout, layouts
from neucore_xl.comparison.published import WORDS, human, published
from neucore_xl.comparison.results import CAPTIONS, Entry
from neucore_xl.evaluation.result import protocol_line

Style = Literal["", "best", "second", "grey"]


@dataclass(frozen=True)
class Cell:
    """One cell, and how it is marked."""

    text: str
    style: Style = ""


@dataclass(frozen=True)
class Grid:
    """A table ready to be written: the first column is text, the others are figures."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class Row:
    """One system: its runs, one a seed."""

    name: str
    runs: tuple[Entry, ...]

    @property
    def first(self) -> Entry:
        """The run of the first seed."""
        return self.runs[0]

    def value(self, measure: str) -> float | None:
        """The measure averaged over seeds, in percent; None where a run lacks it."""
        values = [run.metrics.get(measure) for run in self.runs]
        known = [value for value in values if value is not None]
        return mean(known) if len(known) == len(values) else None

    @property
    def spread(self) -> float | None:
        """Standard deviation of the headline over seeds; None of one seed."""
        return stdev(run.score for run in self.runs) if len(self.runs) > 1 else None


def rows_of(entries: Sequence[Entry]) -> list[Row]:
    """A row a system, the highest headline first."""
    by_name: dict[str, list[Entry]] = {}
    for entry in entries:
        by_name.setdefault(entry.system, []).append(entry)
    rows = [Row(name, tuple(sorted(runs, key=lambda run: run.seed))) for name, runs in by_name.items()]
    return sorted(rows, key=lambda row: -mean(run.score for run in row.runs))


def heading(entries: Sequence[Entry]) -> list[str]:
    """What stands above the tables: captions in place of pictures, where it is so; the protocol; the features."""
    first = entries[0]
    budgets = list(dict.fromkeys(_budget(entry) for entry in entries if entry.budget))
    return [
        *([CAPTIONS] if first.captions else []),
        f"{protocol_line(first.protocol)} · {first.n_queries} queries",
        f"backbone: {_backbone(first)}" + (f" · budget: {'; '.join(budgets)}" if budgets else ""),
    ]


def grids(entries: Sequence[Entry], *, with_published: bool = False) -> list[Grid]:
    """The tables of ``entries`` (of one dataset): measures in the layout of the papers, then tests and cost."""
    rows, first = rows_of(entries), entries[0]
    made = [
        _measures(layout, rows, first, with_published=with_published)
        for layout in layouts(first.dataset, list(first.metrics))
    ]
    return [made[0], _tests_and_cost(rows), *made[1:]]


def empty_grid(dataset: str, systems: Sequence[str], categories: Sequence[str] = ("dress", "shirt", "toptee")) -> Grid:
    """The main table of ``dataset`` where nothing was measured."""
    measures = [f"{c}/R@{k}" for c in categories for k in (10, 50)] + ["R@10", "R@50", "mean"]
    layout = layouts(dataset, measures)[0]
    lines = tuple((Cell(name), *(Cell("") for _ in layout.columns)) for name in systems)
    return Grid("Not measured", ("system", *(title for _, title in layout.columns)), lines)


def notes(entries: Sequence[Entry]) -> list[str]:
    """Sentences below the tables: how to read them, and what is not alike."""
    rows = rows_of(entries)
    seeds = max(len(row.runs) for row in rows)
    several = seeds > 1
    out = [
        f"Percent, mean over {'up to ' if any(len(r.runs) != seeds for r in rows) else ''}"
        f"{seeds} seed{'s' if several else ''}; best bold, second best underlined."
        + (" ± is the standard deviation over seeds." if several else "")
    ]
    if any(row.first.over_seeds for row in rows):
        out.append(
            "Intervals: 95 %, bootstrap over queries, each query's value averaged over seeds. p: sign flips, query by "
            "query against the strongest, corrected for the number of systems (Holm); the strongest was chosen on the "
            "same queries."
        )
    fewer = [
        f"`{row.name}` {len(row.runs)} ({row.first.one_seed or 'not all are finished'})"
        for row in rows
        if len(row.runs) < seeds
    ]
    if fewer:
        out.append(f"Fewer seeds: {', '.join(fewer)}.")
    if len({_budget(row.first) for row in rows if row.first.budget}) > 1:
        out.append("Budgets differ: " + ", ".join(f"`{r.name}` {_budget(r.first)}" for r in rows if r.first.budget))
    return out


def _measures(layout: Layout, rows: Sequence[Row], first: Entry, *, with_published: bool) -> Grid:
    marks = [_marks([row.value(measure) for row in rows]) for measure, _ in layout.columns]
    lines = []
    for place, row in enumerate(rows):
        cells = [Cell(_figure(row.value(m)), marks[i][place]) for i, (m, _) in enumerate(layout.columns)]
        lines.append((Cell(row.name), *cells))
    if first.chance:
        lines += _reference(layout, [("chance", first.chance)])
    if (people := human(first.dataset)) is not None:
        lines += _reference(layout, [(people.named, people.metrics)])
    if with_published:
        printed = _reference(layout, [(line.named, line.metrics) for line in published(first.dataset)])
        if printed:
            lines.append((Cell(f"{WORDS}:", "grey"), *(Cell("") for _ in layout.columns)))
        lines += printed
    return Grid(layout.title, ("system", *(title for _, title in layout.columns)), tuple(lines))


def _reference(layout: Layout, lines: Sequence[tuple[str, Mapping[str, float]]]) -> list[tuple[Cell, ...]]:
    """Grey lines of a table, of those (label, metrics) that have one of its measures."""
    found = []
    for label, metrics in lines:
        figures = [metrics.get(measure) for measure, _ in layout.columns]
        if any(figure is not None for figure in figures):
            found.append((Cell(label, "grey"), *(Cell(_figure(figure), "grey") for figure in figures)))
    return found


def _tests_and_cost(rows: Sequence[Row]) -> Grid:
    headline = rows[0].first.headline
    header = (
        "system", headline, "95 %", "from the strongest", "p (Holm)", "parameters of heads", "trained", "s / epoch",
        "ms / query", "seeds",
    )  # fmt: skip
    marks = _marks([row.value(headline) for row in rows])
    lines = []
    for row, mark in zip(rows, marks, strict=True):
        over, first = row.first.over_seeds, row.first
        against = over.against if over else None
        spread = "" if row.spread is None else f" ± {row.spread:.2f}"
        lines.append(
            (
                Cell(row.name),
                Cell(_figure(row.value(headline)) + spread, mark),
                Cell(_interval(over.headline.low, over.headline.high) if over else ""),
                Cell(
                    f"{against.difference.estimate:+.2f} "
                    + _interval(against.difference.low, against.difference.high, sign="+")
                    if against
                    else ("strongest" if over else "")
                ),
                Cell(_p(against.p_holm) if against else ""),
                Cell(_count(first.parameters.get("heads"))),
                Cell(_count(first.parameters.get("trained"))),
                Cell(_epoch(row)),
                Cell(_time(row, lambda run: run.ms_per_query)),
                Cell(str(len(row.runs))),
            )
        )
    return Grid("Headline, tests and cost", header, tuple(lines))


def _marks(values: Sequence[float | None]) -> list[Style]:
    """The best and the second best value, as they are printed; equals share a mark. One system alone has none."""
    printed = [None if value is None else round(value, 2) for value in values]
    order = sorted({value for value in printed if value is not None}, reverse=True)
    if len(values) < 2 or len(order) < 2:
        return [""] * len(values)
    styles: dict[float | None, Style] = {order[0]: "best", order[1]: "second"}
    return [styles.get(value, "") for value in printed]


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _interval(low: float | None, high: float | None, sign: str = "") -> str:
    return "" if low is None or high is None else f"[{low:{sign}.2f}, {high:{sign}.2f}]"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _count(number: int | None) -> str:
    if number is None:
        return ""
    return f"{number / 1e6:.2f} M" if number >= 1e5 else f"{number:,}"


def _time(row: Row, of: Callable[[Entry], float | None]) -> str:
    values = [value for run in row.runs if (value := of(run)) is not None]
    return f"{mean(values):.3g}" if values else ""


def _epoch(row: Row) -> str:
    """Seconds per epoch; of a closed form, which has no epochs, those of the whole run where they are known."""
    if row.first.budget:
        return _time(row, lambda run: run.seconds_per_epoch)
    whole = _time(row, lambda run: run.wall_seconds)
    return f"{whole} in all" if whole else ""


def _budget(entry: Entry) -> str:
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in entry.budget.items())


def _backbone(entry: Entry) -> str:
    known = {k: v for k, v in entry.features.items() if v is not None and k not in ("backbone", "weights")}
    parts = [f"{key.replace('_', ' ')} {value}" for key, value in known.items()]
    return ", ".join([str(entry.features.get("backbone", "?")), *parts])
