"""Evaluate a run on CIRR: every measure of a labelled split, or the two submission files of test1."""

from __future__ import annotations

from collections.abc import Sequence

from scores import context, guarded, meet, open_run, parser, settings_of, source

from neucore_xl import terminal
from neucore_xl.errors import UserError


def main(arguments: Sequence[str] | None = None) -> None:
    p = parser(__doc__ or "", "python eval/cirr.py --run-dir runs/xl --data data/cirr --split val --out runs/xl/val")
    p.add_argument("--split", default="val", help="val, or test1, whose labels are hidden (default: val)")
    p.add_argument("--labels", choices=("hard", "soft"), help="labels that count as found (default: hard)")
    options = p.parse_args(arguments)

    from neucore_xl.data.datasets import dataset_of, open_split
    from neucore_xl.evaluation import submission
    from neucore_xl.evaluation.result import prepare_output

    settings = settings_of(options, "cirr")
    dataset_of(settings.data.name)  # an override may name another
    split = open_split("cirr", options.data, options.split, empty_text=settings.data.empty_text)
    labelled = any(t.target for t in split.triplets)
    if options.labels and not labelled:
        raise UserError(f"--labels {options.labels}: the labels of {options.split} are hidden; leave --labels out.")

    def prepare() -> None:
        prepare_output(options.out, run=source(options), force=options.force)
        if not labelled:
            submission.refuse_existing(options.out, split, force=options.force)

    world = meet(settings)
    world.on_main(prepare)

    console = terminal.console()
    system = open_run(options, settings, world, split)
    chunks = system.scores(split)[""]
    if not world.is_main:
        return
    if labelled:
        from neucore_xl.evaluation.cirr import evaluate

        result = evaluate(split, chunks, labels=options.labels or "hard").with_context(**context(system))
        result.print(console)
        written = [result.save(options.out, force=options.force)]
    else:
        written = list(submission.write(options.out, split, chunks, force=options.force))
        console.print(f"{options.split} carries no labels: files for the evaluation server, checked.")
    for path in written:
        console.print(str(path), soft_wrap=True)


if __name__ == "__main__":
    guarded(main)
