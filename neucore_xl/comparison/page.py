"""The page of results: a section a data set, from small results files that are kept beside the page."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from neucore_xl.comparison.plot import svg
from neucore_xl.comparison.render import markdown
from neucore_xl.comparison.results import CAPTIONS, Entry, read_results, write_small_results
from neucore_xl.comparison.table import empty_grid, grids, heading, notes, rows_of
from neucore_xl.errors import UserError, did_you_mean, nearest
from neucore_xl.files import output_file
from neucore_xl.jsonfile import read_text
from neucore_xl.progress import duration

MARK = "Written by `neucore-xl results"  # how the command recognises its own page


class Section(BaseModel):
    """One data set: ``name`` is that of its results file, ``command`` the one that makes it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    title: str
    dataset: str
    command: str
    needs: str = ""  # what has to be there first, e.g. the pictures, as a sentence
    remarks: str = ""  # Markdown, below the table


class Sections(BaseModel):
    """The whole page; ``systems`` are the rows of a table that was not measured."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    introduction: str
    systems: list[str]
    sections: list[Section]


def read_sections(path: Path) -> Sections:
    """The sections that ``path`` describes; raises ``UserError`` for what is no such file."""
    try:
        return Sections.model_validate(yaml.safe_load(read_text(path, missing="describe the page's sections there")))
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML ({' '.join(str(error).split())[:200]}): mend it.") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise UserError(f"{path}: `{'.'.join(map(str, first['loc']))}`: {first['msg'].lower()}; mend it.") from None


def take_results(content: Sections, name: str, source: Path, folder: Path) -> None:
    """Keep the results file ``source`` as that of section ``name`` in ``folder``; an older one is replaced.

    Raises ``UserError`` for an unknown section, and for a file of another dataset or that is no results file.
    """
    found = next((section for section in content.sections if section.name == name), None)
    if found is None:
        names = [section.name for section in content.sections]
        raise UserError(
            f"--from {name}=…: no section {name!r}{did_you_mean(nearest(name, names), '')} "
            f"(there are {', '.join(names)})."
        )
    entries = read_results(source)
    if not entries or entries[0].dataset != found.dataset:
        what = entries[0].dataset if entries else "nothing"
        raise UserError(f"{source} holds results of {what}, but section {name} is of {found.dataset}.")
    write_small_results(folder / f"{name}.json", entries)


def page_text(content: Sections, folder: Path) -> str:
    """The page as Markdown; ``folder`` holds a results file ``NAME.json`` for each section that was measured."""
    parts = [
        f"# Results\n\n<!-- {MARK}` from the files in {folder.name}/; a test keeps it current. Do not edit. -->",
        content.introduction.strip(),
    ]
    for section in content.sections:
        parts.append(f"## {section.title}")
        entries = _entries(section, folder)
        parts += _measured(section, entries, folder) if entries else _not_measured(section, content.systems)
        if section.remarks:
            parts.append(section.remarks.strip())
    return "\n\n".join(parts) + "\n"


def draw_plots(content: Sections, folder: Path) -> list[Path]:
    """One plot a measured section, as ``NAME.svg`` beside its file; returns their paths."""
    drawn = []
    for section in content.sections:
        if entries := _entries(section, folder):
            path = folder / f"{section.name}.svg"
            picture = svg(entries)
            with output_file(path, keep_same=True) as temporary:
                temporary.write_bytes(picture)
            drawn.append(path)
    return drawn


def _entries(section: Section, folder: Path) -> list[Entry]:
    path = folder / f"{section.name}.json"
    return read_results(path) if os.path.lexists(path) else []


def _measured(section: Section, entries: Sequence[Entry], folder: Path) -> list[str]:
    first, *rest = heading(entries)
    parts = [f"**{first}**" if first == CAPTIONS else _wrapped(first), *map(_wrapped, rest)]
    recall, tests, *_ = grids(entries)
    parts += [markdown(recall).rstrip(), markdown(tests).rstrip(), *map(_wrapped, notes(entries))]
    parts.append(f"![{section.title}]({folder.name}/{section.name}.svg)")
    parts.append(_wrapped(_how(entries)))
    parts.append(_code(section.command))
    best = rows_of(entries)[0]
    parts.append(f"One cell, `{best.name}` with seed {best.first.seed}:\n\n{_code(best.first.command)}")
    return parts


def _not_measured(section: Section, systems: Sequence[str]) -> list[str]:
    needs = f" {section.needs.strip()}" if section.needs else ""
    return [
        _wrapped(f"Not measured.{needs} This command fills the table:"),
        _code(section.command),
        markdown(empty_grid(section.dataset, systems)).rstrip(),
    ]


def _how(entries: Sequence[Entry]) -> str:
    """Commit, machine and time of a section's runs, as a sentence."""
    revisions = sorted({_revision(entry) for entry in entries})
    seconds = [s for entry in entries if (s := entry.wall_seconds or entry.train_seconds) is not None]
    devices = sorted({entry.device for entry in entries if entry.device})
    said = [f"{len(entries)} runs", f"commit {', '.join(revisions)}"]
    if seconds:
        said.append(f"{duration(sum(seconds))} of training")
    if devices:
        said.append(f"timed on {'; '.join(devices)}")
    return ", ".join(said) + "."


def _revision(entry: Entry) -> str:
    git = entry.environment.get("git")
    if not isinstance(git, dict) or not isinstance(git.get("revision"), str):
        return "unknown"
    return f"`{git['revision'][:7]}`" + (" (with changes)" if git.get("dirty") else "")


def _code(command: str) -> str:
    return f"```bash\n{command.strip()}\n```"


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)
