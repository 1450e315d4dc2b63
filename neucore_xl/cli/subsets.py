"""``neucore-xl data subsets``: a folder of pictures becomes annotation files to fill in, by the procedure of CIRR."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neucore_xl import terminal
from neucore_xl.cli import numbers

if TYPE_CHECKING:  # help needs no settings
    from neucore_xl.config.schema import Settings

SHOWN = 10  # files that are named on the terminal; the record beside the annotations names all


def subsets(
    images: Annotated[Path, typer.Argument(help="Folder of pictures, and of folders of pictures.")],
    out: Annotated[Path, typer.Argument(help="New folder for annotations in CIRR's layout.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", show_default=False, help="Settings, such as evaluation.batch_size=512."),
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(help="Whose features tell what is similar: as backbone.name.", show_default=False)
    ] = None,
    pretrained: Annotated[
        str | None, typer.Option(help="Its weights: as backbone.pretrained.", show_default=False)
    ] = None,
    number: Annotated[
        int | None,
        typer.Option(
            "--subsets", min=1, max=numbers.IMAGES, help="How many, over all splits; without it all that there are."
        ),
    ] = None,
    val: Annotated[float, numbers.share(0.0, 0.9, "Share of pictures and subsets for val.")] = 0.1,
    test: Annotated[float, numbers.share(0.0, 0.9, "Share of pictures and subsets for test1.")] = 0.1,
    seed: Annotated[int, typer.Option(min=0, max=numbers.SEED, help="Deals pictures and picks first images.")] = 0,
    near_identical: Annotated[float, numbers.share(-1.0, 2.0, "Cosine from which it is the first one again.")] = 0.94,
    step: Annotated[float, numbers.share(0.0, 2.0, "Skip what is this close to the last added.")] = 0.002,
    top: Annotated[int, typer.Option(min=5, max=1000, help="Most similar images that are looked at.")] = 20,
    distinct: Annotated[
        bool, typer.Option("--distinct", help="Skip what is near-identical to any member, not to the first alone.")
    ] = False,
    max_shared: Annotated[int, typer.Option(min=0, max=6, help="Images that two subsets may have in common.")] = 2,
) -> None:
    """Form subsets of six similar pictures below IMAGES, and nine pairs of each with empty captions to fill in.

    Follows section 4.1 of the CIRR paper. The same command again goes on where it was stopped.
    """
    settings = _settings(overrides or [], backbone, pretrained)

    from neucore_xl.data.subsets.draft import RECORD, check_free
    from neucore_xl.data.subsets.folder import pictures_below
    from neucore_xl.data.subsets.plan import Plan
    from neucore_xl.data.subsets.procedure import Rule

    check_free(out, images)
    pictures = pictures_below(images)
    plan = Plan(number, val, test, seed, Rule(near_identical, step, top, distinct), max_shared)
    plan.check(len(pictures.names), f"{len(pictures.names)} pictures are below {images}")

    import torch

    from neucore_xl.encoding.similar import make_subsets
    from neucore_xl.models.backbone import build_backbone
    from neucore_xl.parallel.device import resolve_device

    device = resolve_device(settings.train.device)
    torch.manual_seed(settings.train.seed)  # towers without weights are random, and the same every time
    made = make_subsets(pictures, out, settings, build_backbone(settings.backbone).to(device), plan)
    _say_left_out(made.skipped, pictures.others, out / RECORD)
    for split in made.chosen:
        c = made.counts(split)
        wanted = c["subsets"] if number is None else plan.dealt(number)[split]
        of_them = f" of {wanted}, no more can be formed" if c["subsets"] < wanted else ""
        terminal.say(
            f"{split}: {c['subsets']} subsets{of_them}, {c['pairs']} pairs, {c['images']} images "
            f"({c['first_images_tried']} first images: {c['discarded']} discarded, {c['overlapping']} overlapping)"
        )
    terminal.say(f"write every `caption` in {out / 'captions'}, then: neucore-xl data doctor cirr {out}")


def _settings(overrides: Sequence[str], backbone: str | None, pretrained: str | None) -> Settings:
    """The defaults under ``overrides`` and the backbone; a folder or hub model brings weights of its own."""
    from neucore_xl.config.load import with_overrides
    from neucore_xl.config.schema import Settings

    options = [] if backbone is None else [f"backbone.name={backbone}"]
    if backbone is not None and ":" in backbone:
        options.append("backbone.pretrained=null")
    if pretrained is not None:
        options.append(f"backbone.pretrained={pretrained}")
    return with_overrides(Settings(), [*options, *overrides])


def _say_left_out(skipped: Mapping[str, str], others: Mapping[str, int], record: Path) -> None:
    for name, why in list(skipped.items())[:SHOWN]:
        terminal.say(f"skipped {name}: {why}")
    if skipped:
        all_of_them = f", all in {record}" if len(skipped) > SHOWN else ""
        terminal.say(f"{len(skipped)} pictures were skipped{all_of_them}")
    if others:
        endings = ", ".join(f"{count} {ending or 'without an ending'}" for ending, count in others.items())
        terminal.say(f"left aside, no pictures by their names: {endings}")
