"""From Python: pictures of any path become a gallery, a picture and a sentence become a ranking, or one sentence."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import neucore_xl
from neucore_xl import Gallery, Hit, System, UserError
from neucore_xl.config.schema import Settings
from neucore_xl.data.datasets import open_from_settings
from neucore_xl.language.planners.controls import single
from neucore_xl.language.sequence_file import write_sequences
from neucore_xl.models.features import FeatureSet
from neucore_xl.runs.system import assemble

Change = Callable[[Settings, dict], Settings]


def disturbed(settings: Settings) -> System:
    """A system whose heads do not start as copies of the pretrained space."""
    system = assemble(settings)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in system.composer.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn_like(parameter))
    system.composer.eval()
    return system


def pictures(settings: Settings) -> dict[str, str]:
    """Path of every picture of the validation gallery, by name."""
    paths = open_from_settings(settings.data, "val").galleries[""].paths
    return {name: str(path) for name, path in paths.items()}


@pytest.fixture
def system(settings: Settings) -> System:
    return disturbed(settings)


@pytest.fixture
def gallery(system: System) -> Gallery:
    return system.encode_images(list(pictures(system.settings).values()))


@pytest.mark.parametrize("row", ["neucore-xl", "neucore", "residual"])
def test_a_search_gives_the_scores_of_the_evaluation(row: str, settings: Settings, change: Change) -> None:
    system = disturbed(change(settings, {"model": {"name": row}}))
    split = open_from_settings(settings.data, "val")
    expected = np.concatenate([scores for _, scores in system.scores(split)[""]])
    paths = pictures(settings)
    gallery = system.encode_images([paths[name] for name in split.galleries[""].names])
    assert all(t.dtype == torch.float32 and len(t) == len(gallery) == 6 for t in gallery.features.values())
    for triplet, row_of_scores in zip(split.triplets, expected, strict=True):
        ranking = system.search(paths[triplet.reference], triplet.text, gallery, top=None)
        assert [hit.score for hit in ranking] == sorted((hit.score for hit in ranking), reverse=True)
        found = {hit.name: hit.score for hit in ranking}
        np.testing.assert_allclose([found[name] for name in gallery.names], row_of_scores, rtol=1e-4, atol=1e-5)


def test_the_best_come_first_and_ties_keep_the_order_of_the_gallery(system: System, gallery: Gallery) -> None:
    query = gallery.names[0]
    whole = system.search(query, "make it red", gallery, top=99)
    assert len(whole) == 6
    assert system.search(query, "make it red", gallery, top=2) == whole[:2]
    assert isinstance(whole[0], Hit)
    twins = Gallery(("b", "a", "c"), gallery.features.select(torch.tensor([3, 3, 3])), gallery.system)
    assert [hit.name for hit in system.search(query, "make it red", twins)] == ["b", "a", "c"]


def test_a_gallery_is_saved_and_loaded_and_no_other_system_searches_it(
    system: System, gallery: Gallery, settings: Settings, change: Change, tmp_path: Path
) -> None:
    gallery.save(tmp_path / "gallery.safetensors")
    loaded = Gallery.load(tmp_path / "gallery.safetensors")
    query = gallery.names[2]
    assert system.search(query, "add a dog", loaded) == system.search(query, "add a dog", gallery)
    assert loaded.names == gallery.names
    other = assemble(settings)  # the same settings, other weights
    with pytest.raises(UserError, match=r"encoded by another system than System\(concat, untrained, on cpu\)"):
        other.search(query, "add a dog", loaded)
    padded = assemble(change(settings, {"data": {"target_pad": 2.0}}))
    assert padded.fingerprint != other.fingerprint, "other pixels are other features"
    (tmp_path / "broken").write_bytes((tmp_path / "gallery.safetensors").read_bytes()[:-40])
    with pytest.raises(UserError, match=r"broken cannot be read as a gallery"):
        Gallery.load(tmp_path / "broken")
    with pytest.raises(UserError, match=r"absent does not exist or is no file"):
        Gallery.load(tmp_path / "absent")
    with pytest.raises(UserError, match=r"nowhere"):
        gallery.save(tmp_path / "nowhere" / "gallery")
    assert (repr(loaded), len(loaded)) == ("Gallery(6 pictures)", 6)


def test_pictures_that_cannot_be_encoded(system: System, settings: Settings, tmp_path: Path) -> None:
    good, *_ = paths = list(pictures(settings).values())
    encoded: list[object] = []
    system.composer.register_forward_pre_hook(lambda module, given: encoded.append(given))
    cases = {
        r"^2 pictures are not there, so none was encoded: x\.jpg, y/z\.png\.$": [good, "x.jpg", "y/z.png"],
        rf"^1 picture is not there.*{tmp_path}\.$": [tmp_path],
        r"^1 picture is given more than once, so none was encoded: .*val-0\.png\.$": [*paths, os.path.relpath(good)],
        r"^no picture to encode": [],
        r"takes a list of pictures, not the one path": good,
    }
    for sentence, given in cases.items():
        with pytest.raises(UserError, match=sentence):
            system.encode_images(given)  # type: ignore[arg-type]
    assert encoded == []
    (tmp_path / "text.jpg").write_text("no picture")
    with pytest.raises(UserError, match=r"text\.jpg cannot be decoded"):
        system.encode_images([good, tmp_path / "text.jpg"])


def test_many_pictures_are_decoded_by_processes_in_their_order(settings: Settings, change: Change) -> None:
    paths = list(pictures(settings).values())[::-1]
    several = {"data": {"workers": 2}, "evaluation": {"batch_size": 2}}
    here, there = disturbed(settings), disturbed(change(settings, several))
    alone, shared = here.encode_images(paths), there.encode_images([Path(path) for path in paths])
    assert alone.names == shared.names == tuple(paths)
    for name, tensor in alone.features.items():
        torch.testing.assert_close(tensor, shared.features[name])


def test_searches_that_cannot_be_made(system: System, gallery: Gallery, tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no picture")
    query = gallery.names[0]
    empty = Gallery((), gallery.features.select(slice(0)), gallery.system)
    cases = {
        r"^the gallery is empty": (query, "a dog", empty, 10),
        r"^the sentence is empty": (query, " \n", gallery, 10),
        r"text\.jpg cannot be decoded": (tmp_path / "text.jpg", "a dog", gallery, 10),
        r"absent\.jpg does not exist": ("absent.jpg", "a dog", gallery, 10),
        r"^top is 0": (query, "a dog", gallery, 0),
    }
    for sentence, given in cases.items():
        with pytest.raises(UserError, match=sentence):
            system.search(*given)
    with pytest.raises(ValueError, match="2 names, but features of 1 pictures"):
        Gallery(("a", "b"), FeatureSet({"vector": torch.zeros(1, 4)}), "")


def test_a_device_that_is_not_there(system: System) -> None:
    assert system.to("auto") is system
    with pytest.raises(UserError, match=r"unknown device 'gpu'"):
        system.to("gpu")
    assert system.to("cpu").device == torch.device("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks what happens without a GPU")
def test_a_gpu_that_is_not_there(system: System) -> None:
    with pytest.raises(UserError, match=r"no device cuda: torch sees no GPU here; use `cpu` or `auto`"):
        system.to("cuda")


SENTENCE = "make the dog bigger and remove the cat"


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


@pytest.mark.parametrize("sequence", ["learned", "clauses", "single", "reordered", "shuffled"])
def test_sentences_are_planned_as_the_run_does(
    sequence: str, settings: Settings, change: Change, caplog: pytest.LogCaptureFixture
) -> None:
    system = disturbed(change(settings, {"model": {"name": "neucore-xl"}, "fusion": {"sequence": sequence}}))
    gallery = system.encode_images(list(pictures(settings).values()))
    rankings = [system.search(gallery.names[0], SENTENCE, gallery) for _ in range(2)]
    assert rankings[0] == rankings[1]
    expected = ["keeps its own steps"] if sequence == "shuffled" else []
    assert [any(part in text for part in expected) for text in said(caplog)] == [True] * len(expected)


def test_a_run_of_sequence_files_says_once_what_it_falls_back_to(
    settings: Settings, change: Change, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def ranked(tree: dict[str, object], *sentences: str) -> list[list[Hit]]:
        system = disturbed(change(settings, {"model": {"name": "neucore-xl"}, "fusion": tree}))
        gallery = system.encode_images(list(pictures(settings).values()))
        return [system.search(gallery.names[0], sentence, gallery) for sentence in sentences]

    file = tmp_path / "llm.jsonl"
    write_sequences(file, single([SENTENCE]).values(), planner="llm", settings={})
    other, third = "remove the cat and add two chairs", "same but on a beach"
    one, clauses = ranked({"sequence": "single"}, SENTENCE), ranked({"sequence": "clauses"}, SENTENCE, other)
    assert one[0] != clauses[0]
    assert said(caplog) == []
    from_file = ranked({"sequence": "llm", "file": str(file)}, SENTENCE, other, third)
    assert from_file[0] == one[0], "what the file holds is taken from it"
    assert from_file[1] == clauses[1]
    (warning,) = said(caplog)
    assert "fusion.sequence=llm" in warning
    assert "planned by the clause planner" in warning
    caplog.clear()
    without = ranked({"sequence": "llm", "file": str(tmp_path / "gone.jsonl")}, SENTENCE, other)
    assert without == clauses
    (warning,) = said(caplog)
    assert "gone.jsonl" in warning
    caplog.clear()
    assert ranked({"sequence": "oracle"}, SENTENCE) == clauses[:1]
    (warning,) = said(caplog)
    assert "truth" in warning


def test_the_package_shows_its_names_and_loads_torch_only_for_them() -> None:
    script = """
import sys
import neucore_xl
assert set(neucore_xl.__all__) <= set(dir(neucore_xl)), dir(neucore_xl)
assert neucore_xl.UserError.__name__ == "UserError"
assert not {"torch", "numpy", "spacy", "open_clip"} & set(sys.modules), sorted(sys.modules)
from neucore_xl import load_run
assert "torch" in sys.modules and load_run.__module__ == "neucore_xl.runs.system"
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in neucore_xl.__all__:
        assert getattr(neucore_xl, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'load_runs'"):
        neucore_xl.load_runs  # noqa: B018
