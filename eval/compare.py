"""Compare two evaluated systems query by query: the difference in the headline measure with a bootstrap interval.

A and B are output folders of eval/cirr.py or eval/fashion_iq.py (they hold metrics.json and per_query.npz).
The difference is A - B in percent points; queries are resampled in pairs, within categories for a macro average.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from scores import Parser, guarded

from neucore_xl import terminal
from neucore_xl.errors import UserError


def main(arguments: Sequence[str] | None = None) -> None:
    p = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("a", type=Path, metavar="A")
    p.add_argument("b", type=Path, metavar="B")
    p.add_argument("--confidence", type=float, default=0.95, help="of the interval, between 0 and 1 (default: 0.95)")
    p.add_argument("--resamples", type=int, default=9999, help="default: 9999")
    p.add_argument("--method", choices=("percentile", "BCa"), default="percentile", help="default: percentile")
    p.add_argument("--seed", type=int, default=0, help="default: 0")
    p.add_argument("--json", type=Path, metavar="FILE", help="also write the comparison as JSON (a new file)")
    options = p.parse_args(arguments)
    if not 0 < options.confidence < 1 or not 1 <= options.resamples <= 1_000_000:
        raise UserError("--confidence lies between 0 and 1, and --resamples from 1 to 1,000,000.")
    if not 0 <= options.seed < 2**32:
        raise UserError("--seed lies between 0 and 4,294,967,295.")
    if options.json is not None and os.path.lexists(options.json):
        raise UserError(f"{options.json} is there already: choose another --json.")

    from rich.table import Table

    from neucore_xl.evaluation.compare import compare, load
    from neucore_xl.evaluation.result import protocol_line
    from neucore_xl.files import output_json

    a, b = load(options.a), load(options.b)
    found = compare(
        a, b, confidence=options.confidence, resamples=options.resamples, method=options.method, seed=options.seed
    )
    console = terminal.console()
    console.print(protocol_line(a.protocol))
    for name in ("preprocessing",):
        if a.protocol.get(name) != b.protocol.get(name):
            console.print(f"note: {name} differs: {a.protocol.get(name)} against {b.protocol.get(name)}")
    table = Table("measure", str(options.a), str(options.b), "A - B")
    for measure in a.metrics:
        if measure in b.metrics:
            x, y = a.metrics[measure], b.metrics[measure]
            table.add_row(measure, f"{x:.2f}", f"{y:.2f}", f"{x - y:+.2f}")
    console.print(table)
    verdict = "more than chance" if found.excludes_zero else "not more than chance"
    console.print(
        f"{a.headline}: A - B = {found.signed()} ({found.confidence:.0%}, {found.method}, {found.resamples} paired "
        f"resamples of {a.n_queries} queries): {verdict}",
    )
    if options.json is not None:
        record = {"a": str(options.a), "b": str(options.b), "measure": a.headline, **found.to_json()}
        output_json(options.json, record)


if __name__ == "__main__":
    guarded(main)
