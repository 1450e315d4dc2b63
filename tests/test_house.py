"""What holds the house together: import direction, current pages, the two commands, no trace of a workplace."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path

import grimp
import pytest
import yaml

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def tracked() -> list[Path]:
    done = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True, check=False, timeout=60
    )
    if done.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_imports_go_in_one_direction():
    script = "from importlinter.cli import lint_imports; import sys; sys.exit(lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert re.search(r"[1-9]\d* kept, 0 broken", done.stdout)


def imports_of(package: str) -> dict[str, set[str]]:
    """Module → modules of the package that it imports: inside functions too, and for type checkers alone.

    The package's own ``__init__`` does not count as imported: it hands out, late, what stands on files that read the
    version from it.
    """
    graph = grimp.build_graph(package, cache_dir=None)
    return {module: graph.find_modules_directly_imported_by(module) - {package} for module in graph.modules}


def circles(imports: Mapping[str, set[str]]) -> list[str]:
    """Every circle that is left when the last import of each circle found so far is taken away."""
    left = {module: set(imported) for module, imported in imports.items()}
    found = []
    while True:
        try:
            TopologicalSorter(left).prepare()
        except CycleError as error:
            circle = error.args[1][::-1]  # each imports the next, the last one the first
            found.append(" → ".join(circle))
            left[circle[0]].remove(circle[1])
        else:
            return found


def test_no_two_files_import_each_other_not_even_by_a_detour():
    imports = imports_of("neucore_xl")
    assert len(imports) > 100
    assert circles(imports) == []


def test_circles_of_imports_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    package = tmp_path / "ring_of_files"
    package.mkdir()
    for name, text in {
        "__init__": "import ring_of_files.a\nversion = 1\n",
        "a": "from ring_of_files import b, version\n",
        "b": "def late():\n    import ring_of_files.c\n",
        "c": "from ring_of_files.a import x\nfrom ring_of_files import typed\n",
        "typed": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ring_of_files.c import x\n",
        "apart": "import ring_of_files.a\n",
    }.items():
        (package / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    found = [circle.replace("ring_of_files.", "").split(" → ") for circle in circles(imports_of("ring_of_files"))]
    assert all(circle[0] == circle[-1] for circle in found)
    links = sorted(sorted(pairwise(circle)) for circle in found)
    assert links == [[("a", "b"), ("b", "c"), ("c", "a")], [("c", "typed"), ("typed", "c")]]


def test_the_architecture_page_shows_the_tree_and_the_contract_as_they_are():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    tree, floors = re.findall(r"^```\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    layers = tools["importlinter"]["contracts"][0]["layers"]
    shown_layers = [sorted(line.split(" | ")) for line in floors.splitlines()]
    assert shown_layers == [sorted(re.split(" [|:] ", layer)) for layer in layers]

    package = tree[: tree.index("\nds_configs/")]
    shown = set(re.findall(r"([a-z_]+(?:/|\.py))", package)) - {"neucore_xl/"}
    there = {f"{folder.name}/" for folder in folders() if folder.name != "neucore_xl"} | {"recipes/"}
    there |= {path.name for path in (ROOT / "neucore_xl").glob("*.py") if path.name != "__init__.py"}
    assert shown == there


def folders() -> list[Path]:
    """Every folder of the package that holds code."""
    return sorted({path.parent for path in (ROOT / "neucore_xl").rglob("*.py")})


def test_a_folder_of_the_package_can_be_read_at_a_glance():
    """One file per system, and one per part of the generated world: these two may grow."""
    full = {
        str(folder.relative_to(ROOT)): count
        for folder in folders()
        if folder.name not in ("composers", "shapes")
        if (count := sum(path.name != "__init__.py" for path in folder.glob("*.py"))) > 16
    }
    assert full == {}, "give what belongs together a folder of its own"


def links(page: Path) -> set[Path]:
    """The files that a page links to."""
    targets = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    return {(page.parent / target).resolve() for target in targets if "://" not in target}


def test_every_page_can_be_reached():
    linked = {target for page in PAGES for target in links(page) if target != page}
    assert {str(page.relative_to(ROOT)) for page in PAGES if page not in linked} <= {"README.md"}


def test_the_readme_has_one_sentence_a_table_and_the_first_run_before_line_40():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:40]
    text = "\n".join(lines)
    assert lines[0].startswith("# ")
    assert "|---|" in text
    assert "git clone" in text
    assert re.search(r"^make demo\b", text, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path):
    assert {str(target) for target in links(page) if not target.exists()} == set()


def test_the_promised_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    assert {"setup", "demo", "test", "check", "clean"} <= targets
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony
    assert targets == set(phony.group(1).split()), "a target that is no file must be phony"


def test_ci_is_an_executable_strict_script():
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert "set -euo pipefail" in script.read_text(encoding="utf-8")
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0


def test_pre_commit_runs_the_tools_of_the_environment():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    assert {hook["id"] for hook in hooks} == {"ruff-check", "ruff-format", "mypy", "lint-imports"}
    assert all(hook["entry"].startswith(".venv/bin/") for hook in hooks)


def test_the_licence_is_the_whole_apache_licence():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_no_file_names_a_machine_of_ours():
    """Paths of the machine that something was written on help nobody else."""
    private = re.compile(rb"(?<![\w.])/(?:work|root|home)/\w")
    found = {
        str(path.relative_to(ROOT))
        for path in tracked()
        if path.suffix in {".py", ".md", ".yaml", ".yml", ".toml", ".json", ".html", ""} and path != Path(__file__)
        if private.search(path.read_bytes())
    }
    assert found == set()


def test_every_package_file_is_a_room_one_can_hold_in_the_head():
    long = {
        str(path.relative_to(ROOT)): count
        for path in (ROOT / "neucore_xl").rglob("*.py")
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > 400
    }
    assert long == {}, "split a file that holds two ideas"


# Named by a page or a test for what it says of them: a user's own file, and one that is not there.
NOT_OURS = {"slurm/site.sh", "ds_configs/zero4.json"}


def test_files_that_texts_name_exist():
    """A page or docstring that names a file of the project by its path is kept when the file moves."""
    folders = "neucore_xl|tests|benchmarks|eval|slurm|ds_configs|docs|examples"
    named = re.compile(rf"(?<![\w/.-])(?:{folders})/[\w/.-]*\w\.(?:py|md|ya?ml|jsonl?|sh|sbatch)\b")
    missing = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in tracked()
        if path.suffix in {".py", ".md", ".toml", ".yaml", ".yml", ".sh", ".sbatch", ""}
        for name in named.findall(path.read_text(encoding="utf-8", errors="replace"))
        if name not in NOT_OURS and not (ROOT / name).exists()
    }
    assert missing == set()
