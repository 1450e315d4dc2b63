"""``neucore-xl checkpoint``: look into checkpoints, check them, bring them to other forms."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neucore_xl import terminal
from neucore_xl.errors import UserError

if TYPE_CHECKING:  # torch is imported by the commands, not by their help
    from neucore_xl.runs.checkpoints.checkpoint import Checkpoint

app = typer.Typer(help="Look into checkpoints, check and convert them.", no_args_is_help=True)

Where = Annotated[Path, typer.Argument(metavar="RUN|CHECKPOINT", help="Run folder, or one checkpoint folder in it.")]
Which = Annotated[str, typer.Option("--checkpoint", help="Of a run: best, last or a step number.")]
Force = Annotated[bool, typer.Option("--force", help="Replace what is there.")]


@app.command()
def inspect(where: Where) -> None:
    """Say what a checkpoint is: step, strategy, processes, files, metrics; of a run: all its checkpoints."""
    from neucore_xl.runs.checkpoints import universal
    from neucore_xl.runs.checkpoints.find import paths_of, readable

    for path in paths_of(where):
        found = readable(path)
        if isinstance(found, str):
            terminal.say(f"{path}: {found}")
            continue
        sizes = {name: entry["bytes"] for name, entry in found.manifest["files"].items()}
        stage = f", ZeRO stage {found.zero_stage}" if found.sharded else ""
        version = found.manifest.get("parallel", {}).get("deepspeed")
        terminal.say(f"{path}")
        terminal.say(f"  step        {found.step}")
        terminal.say(f"  strategy    {found.strategy}{stage}{f', DeepSpeed {version}' if version else ''}")
        terminal.say(f"  world size  {found.world_size}")
        terminal.say(f"  files       {len(sizes)}, {_size(sum(sizes.values()))}")
        for name, size in sizes.items():
            terminal.say(f"    {name}  {_size(size)}")
        if universal.is_whole(path / universal.FOLDER):
            terminal.say("  universal   yes: any number of processes goes on from it at once")
        for name, value in found.metrics.items():
            terminal.say(f"  {name}  {value:.2f}")
        identity = found.identity
        terminal.say(f"  system      {identity.row}")
        terminal.say(f"  backbone    {identity.backbone}")
        terminal.say(f"  vocabulary  {identity.vocabulary}")


@app.command()
def verify(where: Where) -> None:
    """Compare every file with its checksum; exit 0 if all are whole, 1 if one is damaged or could run code.

    What the system refuses to read is named (exit 2), and the others are compared all the same.
    """
    from neucore_xl.runs.checkpoints import trusted
    from neucore_xl.runs.checkpoints.find import paths_of, problems_of

    code = 0
    for path in paths_of(where):
        try:
            problems = problems_of(path)
        except UserError as error:
            terminal.say(f"not compared: {error}")
            code = 2
            continue
        for problem in problems:
            terminal.say(f"damaged: {problem}")
        refused = [] if problems else trusted.problems(trusted.files_of(path))
        for problem in refused:
            terminal.say(f"not to be loaded: {problem}")
        if problems or refused:
            code = max(code, 1)
        else:
            terminal.say(f"{path}: whole")
    raise typer.Exit(code)


@app.command()
def reshard(where: Where, which: Which = "last", force: Force = False) -> None:
    """Prepare a ZeRO checkpoint for another number of processes or another stage (training does it by itself)."""
    from neucore_xl.parallel.world import World
    from neucore_xl.runs.checkpoints.universal import FOLDER, altered, is_whole, universal_folder

    found = _chosen(where, which)
    if not found.zero_stage:
        raise UserError(f"{found.path} is not sharded: any number of processes goes on from it as it is.")
    if not force and is_whole(found.path / FOLDER) and not altered(found.path / FOLDER, World()):
        terminal.say(f"{found.path / FOLDER} is there already")
        return
    terminal.say(f"{universal_folder(found, World(), force=force)} is ready for any number of processes and any stage")


@app.command()
def export(
    where: Where,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="One .safetensors file to write.")] = None,
    clip: Annotated[
        Path | None, typer.Option("--clip", metavar="FILE", help="The CLIP part, for open_clip (.safetensors, .pt).")
    ] = None,
    which: Which = "best",
    force: Force = False,
) -> None:
    """Write the model as one file that evaluation and a notebook load; its CLIP as one that open_clip loads."""
    from neucore_xl.runs.checkpoints import export as exporting
    from neucore_xl.runs.folder import RunFolder
    from neucore_xl.runs.system import load_run

    if out is None and clip is None:
        raise UserError("nothing to write: give --out FILE, --clip FILE or both.")
    for file in (out, clip):
        if file is not None:
            exporting.check_out(file, force=force)
    found = _chosen(where, which)
    folder = RunFolder(found.path.parent.parent)
    settings, vocabulary = folder.settings(), folder.vocabulary()
    if vocabulary is None:
        raise UserError(f"run {folder.path} has no vocabulary.json: it was stopped before training; train it again.")
    if out is not None:
        tensors = exporting.export_weights(found, settings, vocabulary, out, force=force)
        terminal.say(f"{out}: {tensors} tensors, {_size(out.stat().st_size)}, step {found.step}")
    if clip is not None:
        system = load_run(folder.path, checkpoint=str(found.step))
        tensors = exporting.export_clip(system.backbone, clip, force=force)
        terminal.say(f"{clip}: {tensors} tensors, {_size(clip.stat().st_size)}, {settings.backbone.name}")


def _chosen(where: Path, which: str) -> Checkpoint:
    from neucore_xl.runs.checkpoints.find import chosen

    return chosen(where, which)


def _size(count: int) -> str:
    size = float(count)
    for unit in ("bytes", "KB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
