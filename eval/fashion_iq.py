"""Evaluate a run on Fashion-IQ.

Without switches two lines are reported from one encoding: the CLIP line of work (original gallery, reference kept,
captions 12, macro average; written to DIR) and the other camp (val gallery, reference dropped; DIR/val-drop-12-macro).
With any switch given, one line: the given switches, the others as in the first line.
"""

from __future__ import annotations

from collections.abc import Sequence

from scores import context, guarded, meet, open_run, parser, settings_of, source

from neucore_xl import terminal


def main(arguments: Sequence[str] | None = None) -> None:
    p = parser(__doc__ or "", "python eval/fashion_iq.py --run-dir runs/xl --data data/fashion-iq --out runs/xl/val")
    p.add_argument("--split", default="val", help="a labelled split (default: val)")
    p.add_argument("--gallery", choices=("original", "val"), help="all images of the split, or those of its pairs")
    p.add_argument("--reference", choices=("keep", "drop"), help="leave the reference in the ranking, or take it out")
    p.add_argument(
        "--captions",
        choices=("12", "21", "both", "mean"),
        help="captions joined in order, in reverse, each a query of its own, or the mean of both queries' scores",
    )
    p.add_argument("--average", choices=("macro", "micro"), help="over categories, or over queries")
    options = p.parse_args(arguments)

    from neucore_xl.data.datasets import dataset_of, open_split
    from neucore_xl.errors import UserError
    from neucore_xl.evaluation.fashion_iq import DEFAULT_LINES, Line, evaluate_lines
    from neucore_xl.evaluation.result import prepare_output

    switches = ("gallery", "reference", "captions", "average")
    given = {name: getattr(options, name) for name in switches if getattr(options, name)}
    lines = (Line(**given),) if given else DEFAULT_LINES
    folders = [options.out if i == 0 else options.out / line.name for i, line in enumerate(lines)]
    settings = settings_of(options, "fashion-iq")
    dataset_of(settings.data.name)  # an override may name another
    captions = lines[0].captions
    split = open_split(
        "fashion-iq",
        options.data,
        options.split,
        categories=settings.data.categories,
        captions="both" if captions in ("both", "mean") else captions,
        empty_text=settings.data.empty_text,
    )
    if not any(t.target for t in split.triplets):
        raise UserError(f"the labels of split {options.split} are hidden: evaluate val.")

    def prepare() -> None:
        for folder in folders:
            prepare_output(folder, run=source(options), force=options.force)

    world = meet(settings)
    world.on_main(prepare)

    console = terminal.console()
    system = open_run(options, settings, world, split)
    chunks = system.scores(split)
    if not world.is_main:
        return
    results = evaluate_lines(split, chunks, lines)
    made = context(system)
    for folder, result in zip(folders, results, strict=True):
        described = result.with_context(**made)
        described.print(console)
        console.print(str(described.save(folder, force=options.force)), soft_wrap=True)


if __name__ == "__main__":
    guarded(main)
