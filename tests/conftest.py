"""Fixtures that every room's tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# No example is judged by the clock: a machine at work on something else is no fault of the code.
settings.register_profile(
    "house",
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=bool(os.environ.get("CI")),  # a change is not refused for a fault that an example found elsewhere
)
settings.load_profile("house")

REPOSITORY = Path(__file__).resolve().parent.parent
pytest_plugins = [
    f"tests.support.{name}" for name in ("forks", "small_cirr", "spoiled", "strange", "tiny_runs", "towers")
]


# The longest first: a worker that takes one of these last keeps the other waiting.
LONGEST = (
    "distributed/test_parity.py",
    "distributed/test_jobs.py",
    "attacks/test_kills.py",
    "evaluation/test_scripts.py",
    "test_recipes.py",
    "sizing/test_plan.py",
    "sizing/test_plan_states.py",
    "runs/checkpoints/test_sharded_resume.py",
    "attacks/test_servers.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the files of tests for the workers of pytest-xdist, each of which does whole files."""

    def place(item: pytest.Item) -> int:
        path = item.path.relative_to(REPOSITORY / "tests").as_posix()
        return LONGEST.index(path) if path in LONGEST else len(LONGEST)

    items.sort(key=place)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the real annotations; tests that need it are skipped where it is absent."""
    path = Path(os.environ.get("NEUCORE_SHARED", REPOSITORY.parent / "shared"))
    if not (path / "data").is_dir():
        pytest.skip(f"no real annotations at {path} (set NEUCORE_SHARED to the folder that holds data/cirr)")
    return path / "data"


@pytest.fixture(scope="session", autouse=True)
def _no_test_touches_the_users_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Settings without ``train.cache_dir`` compute into a folder of the session, in child processes too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("user-cache")))
        yield


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence encoder as transformers writes it: three random layers, 28 wide, thirteen words."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "dog", "make", "it", "two", "more", "cats"]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(vocab_file=str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    BertModel(
        BertConfig(
            vocab_size=len(words), hidden_size=28, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32,
            max_position_embeddings=12,
        ),
        add_pooling_layer=False,
    ).save_pretrained(folder)  # fmt: skip
    return folder
