"""From a run folder to scores, on real parts: a tiny random CLIP, concat and neucore-xl."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from neucore_xl.config.schema import EvaluationSettings, Settings
from neucore_xl.data.datasets import open_from_settings
from neucore_xl.encoding.encoder import Encoder
from neucore_xl.errors import UserError
from neucore_xl.language.vocabulary import Vocabulary
from neucore_xl.runs.checkpoints.weights import stored_state
from neucore_xl.runs.folder import RunFolder
from neucore_xl.runs.system import System, assemble, frozen_fingerprint, load_run
from neucore_xl.training.optim import parameter_groups
from tests.support.saving import save_weights

Change = Callable[[Settings, dict], Settings]


def begin(settings: Settings, path: Path) -> System:
    """A run folder with a vocabulary and no checkpoint."""
    parts = assemble(settings)
    folder = RunFolder(path)
    with folder.claim(settings):
        folder.write_vocabulary(parts.vocabulary)
    return parts


def store(parts: System, path: Path, step: int, *, best: bool = False) -> None:
    state = stored_state(parts.composer, parts.backbone)
    save_weights(RunFolder(path).checkpoints, step, state, parts.identity, best=best, keep=9)


def disturb(parts: System, amount: float) -> None:
    with torch.no_grad():
        for parameter in parts.composer.parameters():
            if parameter.requires_grad:
                parameter.add_(amount * torch.randn_like(parameter))


def scores(system: System, *, batch_size: int = 4, chunk: int = 3) -> np.ndarray:
    """All scores [4, 6] of the validation split, encoded and scored in chunks."""
    split = open_from_settings(system.settings.data, "val")
    options = system.settings.evaluation.model_copy(update={"batch_size": batch_size, "chunk": chunk})
    system = replace(system, settings=system.settings.model_copy(update={"evaluation": options}))
    chunks = list(system.scores(split)[""])
    assert [start for start, _ in chunks] == list(range(0, 4, chunk))
    assert all(part.dtype == np.float32 for _, part in chunks)
    whole = np.concatenate([part for _, part in chunks])
    assert whole.shape == (4, 6)
    return whole


@pytest.mark.parametrize("row", ["concat", "neucore-xl"])
def test_a_loaded_run_scores_like_the_one_that_was_saved(
    settings: Settings, change: Change, tmp_path: Path, row: str
) -> None:
    settings = change(settings, {"model": {"name": row}})
    parts = begin(settings, tmp_path / "run")
    torch.manual_seed(1)
    disturb(parts, 0.2)
    store(parts, tmp_path / "run", 7)
    run = load_run(tmp_path / "run")
    assert (run.settings, run.checkpoint.step) == (settings, 7)
    assert not run.composer.training
    parts.composer.eval()
    expected = scores(parts)
    np.testing.assert_allclose(scores(run), expected, rtol=0, atol=0)
    np.testing.assert_allclose(scores(run, batch_size=3, chunk=4), expected, rtol=1e-5, atol=1e-6)
    fresh = change(settings, {"train": {"cache_features": False}})
    pixels = load_run(tmp_path / "run", settings=fresh)
    np.testing.assert_allclose(scores(pixels), expected, rtol=1e-4, atol=1e-5)


def test_encoding_keeps_the_order_and_the_mode(settings: Settings) -> None:
    system = assemble(settings)
    split = open_from_settings(settings.data, "val")
    scorer = system.prepare([split])
    images, collator, names = scorer.inputs.images, scorer.collator(split), split.galleries[""].names

    def encoder(size: int) -> Encoder:
        return replace(scorer.encoder, options=EvaluationSettings(batch_size=size))

    system.composer.train()
    forward, backward = encoder(4).gallery(images, names), encoder(2).gallery(images, names[::-1])
    assert system.composer.training
    for name, tensor in forward.items():
        torch.testing.assert_close(tensor, backward[name].flip(0))
        assert tensor.dtype == torch.float32
        assert not tensor.requires_grad
    queries = encoder(3).queries(collator, split.triplets)
    single = encoder(1).queries(collator, split.triplets[2:3])
    for name, tensor in single.items():
        torch.testing.assert_close(tensor[0], queries[name][2])


def test_evaluation_in_bf16_is_close_and_fp32_is_the_default(settings: Settings, change: Change) -> None:
    settings = change(settings, {"model": {"name": "neucore-xl"}})
    system = assemble(settings)
    disturb(system, 0.2)
    split = open_from_settings(settings.data, "val")
    halves: list[bool] = []
    system.composer.register_forward_pre_hook(lambda *_: halves.append(torch.is_autocast_enabled("cpu")))
    expected = scores(system)
    assert halves
    assert not any(halves)
    halves.clear()
    half = replace(system, settings=change(settings, {"evaluation": {"precision": "bf16"}}))
    found = scores(half)
    assert halves
    assert all(halves)
    assert found.dtype == np.float32
    assert not np.array_equal(found, expected)
    np.testing.assert_allclose(found, expected, atol=0.05)
    features = half.prepare([split]).encoder.gallery(half.prepare([split]).inputs.images, ["val-0"])
    assert all(t.dtype == torch.float32 for t in features.values())


def test_assembling_twice_gives_the_same_weights_and_leaves_the_random_state(
    settings: Settings, change: Change
) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, second = assemble(settings), assemble(settings)
    assert torch.equal(torch.get_rng_state(), state)
    assert first.identity == second.identity
    for name, tensor in first.composer.state_dict().items():
        assert torch.equal(tensor, second.composer.state_dict()[name]), name
    other = assemble(change(settings, {"train": {"seed": 1}}))
    assert other.identity != first.identity, "random towers are drawn from the seed"


def test_the_vocabulary_is_of_the_training_sentences(settings: Settings) -> None:
    assert {"dog", "chair", "beach"} <= set(assemble(settings).vocabulary.names)
    assert assemble(settings, Vocabulary(["sun"])).vocabulary.names == ("sun",)


def test_best_last_and_steps(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "run"
    parts = begin(settings, path)
    store(parts, path, 1, best=True)
    store(parts, path, 2)
    assert load_run(path).checkpoint.step == 1
    assert load_run(path, checkpoint="last").checkpoint.step == 2
    assert load_run(path, checkpoint="2").checkpoint.step == 2
    with pytest.raises(UserError, match=r"no checkpoint of step 3 .*there are: 1, 2"):
        load_run(path, checkpoint="3")
    with pytest.raises(UserError, match="best, last or a step number"):
        load_run(path, checkpoint="newest")


def test_a_run_without_parts_is_refused(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "run"
    with pytest.raises(UserError, match="no run folder"):
        load_run(path)
    with pytest.raises(UserError, match="no run folder"):
        load_run(path, settings=settings)
    with RunFolder(path).claim(settings):
        pass
    with pytest.raises(UserError, match=r"no vocabulary\.json"):
        load_run(path)
    RunFolder(path).write_vocabulary(Vocabulary(["dog"]))
    with pytest.raises(UserError, match="no usable checkpoint"):
        load_run(path)


def test_the_vocabulary_of_another_run_is_refused(settings: Settings, tmp_path: Path) -> None:
    store(begin(settings, tmp_path / "run"), tmp_path / "run", 1)
    RunFolder(tmp_path / "run").write_vocabulary(Vocabulary(["alien"]))
    with pytest.raises(UserError, match="another vocabulary"):
        load_run(tmp_path / "run")


def test_a_checkpoint_of_another_model_or_backbone_is_refused(
    settings: Settings, change: Change, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    store(begin(settings, path), path, 1)
    with pytest.raises(UserError, match=r"of model 'concat', but model\.name is 'residual'"):
        load_run(path, settings=change(settings, {"model": {"name": "residual"}}))
    with pytest.raises(UserError, match="backbone differs"):
        load_run(path, settings=change(settings, {"train": {"seed": 3}}))
    with pytest.raises(UserError, match=r"another model: .* is \[16.* there and \[24.* here"):
        load_run(path, settings=change(settings, {"model": {"width": 24}}))


def test_a_damaged_best_is_named_not_replaced(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "run"
    parts = begin(settings, path)
    store(parts, path, 1)
    store(parts, path, 2, best=True)
    (path / "checkpoints" / "step-00000002" / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"step-00000002 is damaged .*model\.safetensors has 0 bytes"):
        load_run(path)
    assert load_run(path, checkpoint="last").checkpoint.step == 1


def test_partly_trained_towers_are_stored_and_known_again(settings: Settings, change: Change, tmp_path: Path) -> None:
    settings = change(settings, {"backbone": {"freeze": {"image": 1, "text": 99}}})
    path = tmp_path / "run"
    parts = begin(settings, path)
    before = frozen_fingerprint(parts.backbone)
    disturb(parts, 0.1)
    assert frozen_fingerprint(parts.backbone) == before == parts.backbone_fingerprint
    store(parts, path, 1)
    run = load_run(path)
    for name, tensor in parts.backbone.state_dict().items():
        assert torch.equal(tensor, run.backbone.state_dict()[name]), name
    stored = run.checkpoint.weights()
    assert any("visual" in name for name in stored)
    assert not any("token_embedding" in name for name in stored)


def test_adapters_are_stored_without_their_towers_and_known_again(
    settings: Settings, change: Change, tmp_path: Path
) -> None:
    plain = assemble(settings).backbone_fingerprint
    settings = change(settings, {"backbone": {"lora": {"rank": 2}}})
    path = tmp_path / "run"
    parts = begin(settings, path)
    adapters = {n for n, p in parts.composer.named_parameters() if p.requires_grad and n.startswith("backbone.")}
    assert len(adapters) == 2 * 2 * 4
    assert all(".lora_" in name for name in adapters)
    groups = {g["name"]: g["params"] for g in parameter_groups(parts.composer, parts.backbone, settings.train)}
    assert len(groups["backbone"]) == len(adapters)
    disturb(parts, 0.1)
    assert frozen_fingerprint(parts.backbone) == parts.backbone_fingerprint == plain
    store(parts, path, 1)
    run = load_run(path)
    assert {n for n in run.checkpoint.weights() if n.startswith("backbone.")} == adapters
    np.testing.assert_array_equal(scores(run), scores(parts))
    with pytest.raises(UserError, match="checkpoint of another model"):
        load_run(path, settings=change(settings, {"backbone": {"lora": {"rank": 3}}}))


def test_the_manifest_names_what_it_belongs_to(settings: Settings, tmp_path: Path) -> None:
    parts = begin(settings, tmp_path / "run")
    store(parts, tmp_path / "run", 1)
    path = tmp_path / "run" / "checkpoints" / "step-00000001" / "manifest.json"
    assert json.loads(path.read_text())["identity"] == {
        "row": "concat",
        "backbone": parts.backbone.fingerprint(),
        "vocabulary": parts.vocabulary.fingerprint(),
    }


def test_an_unknown_system_is_refused_before_anything_is_built(
    settings: Settings, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neucore_xl.runs.system.build_vocabulary", lambda *_: pytest.fail("sentences were read"))
    monkeypatch.setattr("neucore_xl.runs.system.build_backbone", lambda *_: pytest.fail("towers were built"))
    with pytest.raises(UserError, match=r"no system 'residul'; did you mean residual\?"):
        assemble(change(settings, {"model": {"name": "residul"}}))
