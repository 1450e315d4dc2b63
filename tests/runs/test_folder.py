from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from neucore_xl import files
from neucore_xl.config import schema
from neucore_xl.config.load import load_file
from neucore_xl.config.schema import Settings
from neucore_xl.errors import UserError
from neucore_xl.language.vocabulary import Vocabulary
from neucore_xl.runs import folder
from neucore_xl.runs.environment import data_fingerprint, git_revision, version_of
from neucore_xl.runs.folder import MAY_DIFFER, RunFolder, differences
from neucore_xl.runs.system import load_run

Change = Callable[[Settings, dict], Settings]


def test_a_new_folder_explains_itself(settings: Settings, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "deep" / "run")
    assert not run.exists
    with run.claim(settings, command=["neucore-xl", "train", "my recipe"]) as claimed:
        assert claimed is run
    assert load_file(run.path / "config.yaml") == settings == run.settings()
    environment = run.environment()
    assert environment["command"] == "neucore-xl train 'my recipe'"
    assert environment["packages"]["torch"]
    assert environment["data"]["fingerprint"] == data_fingerprint(settings.data.root)
    assert environment["host"]["cpus"] == os.cpu_count()
    assert set(environment["git"] or {"revision": 0, "dirty": 0}) == {"revision", "dirty"}
    assert "resumed" not in environment


def test_going_on_is_recorded_with_what_changed(settings: Settings, change: Change, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    with run.claim(settings, command=["first"]):
        pass
    with run.claim(change(settings, {"train": {"log_every": 7}}), command=["second"]):
        pass
    assert run.settings() == settings
    environment = run.environment()
    assert environment["command"] == "first"
    (again,) = environment["resumed"]
    assert again["command"] == "second"
    assert again["changed"] == {"train.log_every": {"old": 10, "new": 7}}


def test_another_config_is_refused_naming_every_key(settings: Settings, change: Change, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    with run.claim(settings):
        pass
    other = change(settings, {"train": {"lr": 0.1, "log_every": 3}, "model": {"name": "neucore"}})
    before = (run.path / "config.yaml").read_bytes()
    with pytest.raises(UserError) as caught, run.claim(other):
        raise AssertionError("the folder must not be handed out")
    message = str(caught.value)
    assert "train.lr was 0.0005, now 0.1" in message
    assert "model.name was concat, now neucore" in message
    assert "log_every" not in message
    assert "\n" not in message
    assert (run.path / "config.yaml").read_bytes() == before
    with run.claim(settings):
        pass


def test_differences_reach_into_every_section(settings: Settings, change: Change) -> None:
    other = change(settings, {"backbone": {"freeze": {"image": 2}}})
    assert ("backbone.freeze", "all", None) in differences(settings, other)
    assert ("backbone.freeze.image", None, 2) in differences(settings, other)
    assert differences(settings, settings) == []


def test_keys_that_may_differ_exist(settings: Settings) -> None:
    assert set(folder._flat(settings.model_dump(mode="json"))) >= MAY_DIFFER


def test_changed_annotations_are_refused(settings: Settings, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    with run.claim(settings):
        pass
    path = settings.data.root / "captions" / "cap.rc2.train.json"
    path.write_text(path.read_text().replace("dog", "hog"))
    with pytest.raises(UserError, match="annotations under"), run.claim(settings):
        raise AssertionError


def test_a_moved_data_folder_is_the_same_data(settings: Settings, change: Change, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    with run.claim(settings):
        pass
    moved = settings.data.root.rename(tmp_path / "moved")
    with run.claim(change(settings, {"data": {"root": str(moved)}})):
        pass


def test_a_foreign_folder_is_left_alone(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("x")
    with (
        pytest.raises(UserError, match=r"not empty and not a run folder.*chapter\.tex"),
        RunFolder(tmp_path / "thesis").claim(settings),
    ):
        raise AssertionError
    assert [p.name for p in (tmp_path / "thesis").iterdir()] == ["chapter.tex"]


def test_a_folder_whose_creation_was_killed_is_begun_again(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(tmp_path / "run")

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_bytes", crash)
        with pytest.raises(KeyboardInterrupt), run.claim(settings):
            raise AssertionError
    (run.path / "environment.json").write_text("{}")  # as a kill between the two files leaves it
    assert not run.exists
    with run.claim(settings):
        assert run.exists


def test_a_path_below_a_file_and_a_closed_folder_are_refused(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UserError, match="choose another folder"), RunFolder(path).claim(settings):
            raise AssertionError

    def closed(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", closed)
    with pytest.raises(UserError, match="no permission"), RunFolder(tmp_path / "closed").claim(settings):
        raise AssertionError


def test_reading_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run folder at"):
        RunFolder(tmp_path / "none").settings()
    with pytest.raises(UserError, match="is not a run folder"):
        RunFolder(tmp_path).settings()


def test_vocabulary_round_trip(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert run.vocabulary() is None
    run.write_vocabulary(Vocabulary(["dog", "cat"], [2, 1]))
    assert run.vocabulary() == Vocabulary(["dog", "cat"])


def test_a_run_is_in_use_within_this_process(settings: Settings, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    with (
        run.claim(settings),
        pytest.raises(UserError, match=f"in use by process {os.getpid()}"),
        RunFolder(run.path).claim(settings),
    ):
        raise AssertionError
    with run.claim(settings):
        pass


def test_another_process_is_kept_out_until_it_is_killed(settings: Settings, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    context = multiprocessing.get_context("fork")
    held = context.Event()

    def train() -> None:
        with RunFolder(run.path).claim(settings):
            held.set()
            time.sleep(600)

    process = context.Process(target=train)
    process.start()
    assert held.wait(60)
    with pytest.raises(UserError, match=f"in use by process {process.pid}"), run.claim(settings):
        raise AssertionError
    process.kill()
    process.join()
    assert (run.path / ".owner.json").exists(), "SIGKILL leaves the note behind; only the lock decides"
    with run.claim(settings):
        pass


def test_data_fingerprint_is_of_names_and_contents(settings: Settings, tmp_path: Path) -> None:
    root = settings.data.root
    before = data_fingerprint(root)
    assert before == data_fingerprint(root)
    assert data_fingerprint(tmp_path / "none") is None
    path = root / "image_splits" / "split.rc2.val.json"
    content = json.loads(path.read_text())
    path.rename(root / "image_splits" / "split.rc2.other.json")
    renamed = data_fingerprint(root)
    (root / "image_splits" / "split.rc2.other.json").write_text(json.dumps({**content, "x": "y"}))
    assert len({before, renamed, data_fingerprint(root)}) == 3


def test_git_revision_of_the_checkout() -> None:
    found = git_revision()
    if found is None:
        pytest.skip("the package is not in a checkout")
    assert len(found["revision"]) == 40
    assert isinstance(found["dirty"], bool)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc on this system")
def test_a_folder_that_cannot_be_made_is_one_sentence(settings: Settings) -> None:
    with (
        pytest.raises(UserError, match=r"^/proc/runs/a cannot be made .*: choose another folder\.$"),
        RunFolder("/proc/runs/a").claim(settings),
    ):
        pass


def test_a_setting_that_is_gone_is_named_with_what_replaced_it(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(tmp_path / "run")
    with run.claim(settings):
        pass
    config = run.path / "config.yaml"
    config.write_text(config.read_text().replace("  warmup_steps: 200", "  warmup: 200"))
    environment = run.environment()
    with pytest.raises(
        UserError, match=rf"^Unknown setting train\.warmup in {config}; did you mean train\.warmup_steps"
    ):
        run.settings()
    environment["packages"]["neucore-xl"] = "0.0.7"
    files.write_json(run.path / "environment.json", environment)
    monkeypatch.setitem(schema.GONE, "train.warmup", "set train.warmup_steps")
    here = version_of("neucore-xl")
    sentence = (
        f"Setting train.warmup in {config} (begun with neucore-xl 0.0.7, this is {here}) is gone: "
        "set train.warmup_steps."
    )
    with pytest.raises(UserError) as caught:
        load_run(run.path)
    assert str(caught.value) == sentence
