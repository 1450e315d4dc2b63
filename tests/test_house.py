"""What holds the house together: import direction, current pages, the two commands, no trace of a workplace."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

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


def test_the_readme_has_one_sentence_a_table_and_the_first_run_before_line_40():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:40]
    text = "\n".join(lines)
    assert lines[0].startswith("# ")
    assert "|---|" in text
    assert "git clone" in text
    assert re.search(r"^make demo\b", text, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


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
