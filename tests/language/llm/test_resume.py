"""Whole processes of ``prepare sequences --planner llm``: killed, sharded, merged; and what the command refuses."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from loopback import Loopback, serving
from tiny import save_tiny

from neucore_xl.cli import main
from neucore_xl.errors import UserError
from neucore_xl.language.llm.prompt import load_prompt
from neucore_xl.language.llm.store import SentenceStore
from neucore_xl.language.sequence_file import read_sequences
from neucore_xl.prepare.llm import LlmOptions, stored_identity
from tests.support.forks import Fork, Forks, clean_environment

WORKER = Path(__file__).resolve().parent / "asking_worker.py"
CAPTIONS = {
    "train": [
        *(f"add {i} dogs and remove the cat" for i in range(40)),
        "add 1 dogs and remove the cat",
        'naïve 🐱 {"steps": []}',
    ],
    "val": [f"zoom in {i} times" for i in range(20)] + ["add 2 dogs and remove the cat"],
}
SENTENCES = list(dict.fromkeys(t for texts in CAPTIONS.values() for t in texts))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Annotations in CIRR's layout with 61 distinct sentences in two splits."""
    folder = tmp_path / "data"
    for split, captions in CAPTIONS.items():
        for name in ("captions", "image_splits"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        names = [f"{split}-{i}-0-img0" for i in range(6)]
        images = json.dumps({n: f"./{split}/{n}.png" for n in names})
        (folder / "image_splits" / f"split.rc2.{split}.json").write_text(images)
        rows = [
            {
                "pairid": i, "reference": names[0], "target_hard": names[1], "target_soft": {names[1]: 1.0},
                "caption": caption, "img_set": {"id": 0, "members": names, "reference_rank": 0, "target_rank": 1},
            }
            for i, caption in enumerate(captions)
        ]  # fmt: skip
        (folder / "captions" / f"cap.rc2.{split}.json").write_text(json.dumps(rows))
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model") / "tiny")


def words(root: Path, model: Path, *more: str) -> list[str]:
    asked = [
        "--planner",
        "llm",
        "--model",
        str(model),
        "--device",
        "cpu",
        "--batch-size",
        "4",
        "--max-new-tokens",
        "24",
    ]
    return ["prepare", "sequences", str(root), *asked, *more]


def start(forks: Forks, log: Path, arguments: Sequence[str], pause: float = 0.0) -> Fork:
    return forks.start([WORKER, log, *arguments], environment=clean_environment(PAUSE=str(pause)))


def finish(process: Fork) -> str:
    try:
        assert process.wait() == 0, process.said()
    finally:
        process.kill()
    return process.said()


def asked_of(log: Path) -> list[str]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def stored(root: Path) -> set[str]:
    (folder,) = (root / "sequences").glob("llm-*")
    store = SentenceStore(folder.parent, json.loads((folder / "identity.json").read_text()))
    return set(SENTENCES) - set(store.pending(SENTENCES))


def test_what_does_not_belong_together_is_refused_before_the_work(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = ["--endpoint", "http://127.0.0.1:9/v1"]
    llm = ["--planner", "llm"]
    here, truth = [str(root)], ["--score", "truth.jsonl"]
    for given, said in (
        ([*here, "--model", "m"], "--model belongs to --planner llm"),
        ([*here, "--shard", "0/2", "--merge"], "--shard and --merge belong to --planner llm"),
        ([*here, *llm], "--planner llm needs --model"),
        ([*here, *llm, "--model", "m", *url, "--batch-size", "4"], "--batch-size belongs to a model of this process"),
        ([*here, *llm, "--model", "m", "--parallel", "4"], "--parallel belongs to --endpoint"),
        ([*here, *llm, "--model", "m", "--shard", "2/2"], "--shard '2/2' is not I/N"),
        ([*truth, *llm, "--model", "m", "--limit", "4"], "--limit belongs to a folder of annotations"),
        ([*truth, "--predicted", "f", *llm, "--model", "m"], "--model belongs to a planner, not to --predicted"),
        ([*here, *llm, "--model", "m", "--prompt", "none.yaml"], "cannot read the prompt none.yaml"),
        ([*here, *llm, "--model", "m", "--merge"], "holds no sentences of m with these options"),
        ([str(tmp_path / "no"), *llm, "--model", "m"], "does not exist"),
        ([*here, *llm, "--model", "m", "--split", "test1"], "test1"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["prepare", "sequences", *given])
        assert ended.value.code == 2
        printed = capsys.readouterr().err
        assert printed.startswith("error: ")
        assert said in printed
        assert printed.count("\n") == 1
    assert not (root / "sequences").exists()


def test_through_a_server_to_the_file(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["prepare", "sequences", str(root), "--planner", "llm", "--model", "tiny", "--max-new-tokens", "64"]

    def run(server: Loopback, *more: str) -> str:
        with pytest.raises(SystemExit) as ended:
            main([*arguments, "--endpoint", server.url, *more])
        assert ended.value.code == 0
        return " ".join(capsys.readouterr().out.split())

    with serving() as server:
        said = run(server, "--limit", "7", "--parallel", "2")
        assert "planned now: 7 sentences" in said
        assert list(read_sequences(root / "sequences" / "llm.first7.jsonl").by_text) == SENTENCES[:7]
        said = run(server, "--split", "val")
        assert f"planned now: {len(CAPTIONS['val']) - 1} sentences" in said  # one was among the first seven
        said = run(server, "--shard", "1/3")
        assert "still to be planned by other shards" in said
        assert not (root / "sequences" / "llm.jsonl").exists()
        before = set(server.asked)
        said = run(server)
        assert len(set(server.asked)) == len(server.asked) - server.asked.count("Make it red.") + 1
        assert "61 distinct sentences" in said
        assert before < set(server.asked)
        path = root / "sequences" / "llm.jsonl"
        read = read_sequences(path)
        assert list(read.by_text) == SENTENCES
        assert read.settings["prompt"].startswith("edit-steps.v")
        first = path.read_bytes()
        path.unlink()
    run(server, "--merge")  # nobody answers there any more, and nobody has to
    assert path.read_bytes() == first
    identity = stored_identity(root, LlmOptions("tiny", endpoint="x", max_new_tokens=64))
    assert identity["writer"]["decoding"]["response_format"] == "json_schema"

    path.write_text(path.read_text(encoding="utf-8").replace("edit-steps", "other"), encoding="utf-8")
    with serving() as server, pytest.raises(SystemExit):
        main([*arguments, "--endpoint", server.url])
    assert "was planned by another model, prompt or planner" in capsys.readouterr().err
    assert set(server.asked) == {"Make it red."}


def test_a_model_is_scored_with_what_it_cost(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth, scores = tmp_path / "truth.jsonl", tmp_path / "score.json"
    with pytest.raises(SystemExit):
        main(["prepare", "sequences", str(root), "--out", str(truth), "--split", "val"])
    with serving() as server:
        asked = ["--planner", "llm", "--model", "tiny", "--endpoint", server.url]
        with pytest.raises(SystemExit) as ended:
            main(["prepare", "sequences", "--score", str(truth), *asked, "--json", str(scores)])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert "valid answers" in printed
    assert "seconds a sentence" in printed
    found = json.loads(scores.read_text())
    assert found["sentences"] == found["rates"]["sentences"] == len(CAPTIONS["val"])
    assert found["rates"]["tokens"]["value"] == 3
    assert found["rates"]["prompt_tokens"]["value"] == 7
    assert not list(tmp_path.rglob("llm-*"))  # nothing is stored of a score


def test_two_stores_of_one_model_are_told_apart_by_revision(root: Path) -> None:
    identities = []
    for revision in ("sha256:1", "sha256:2"):
        decoding = {"form": "arrays", "max_new_tokens": 256}
        writer = {"model": "tiny", "revision": revision, "prompt": load_prompt().version, "decoding": decoding}
        identities.append({"writer": writer, "max_steps": 6})
    for identity in identities:
        SentenceStore(root / "sequences", identity).open()
    with pytest.raises(UserError, match="several folders hold sentences of /models/tiny"):
        stored_identity(root, LlmOptions("/models/tiny"))
    assert stored_identity(root, LlmOptions("/models/tiny", revision="sha256:2")) == identities[1]


@pytest.mark.slow
def test_killed_and_resumed_is_as_never_killed(root: Path, model: Path, forks: Forks, tmp_path: Path) -> None:
    """Slow: three whole processes, one of them killed at work."""
    first, second, third = (tmp_path / f"{name}.log" for name in ("first", "second", "third"))
    process = start(forks, first, words(root, model), pause=0.5)
    try:
        while len(list((root / "sequences").glob("llm-*/part-*.parquet"))) < 4:
            assert process.poll() is None, process.said()
            time.sleep(0.02)
    finally:
        process.kill()
    kept = stored(root)
    assert 16 <= len(kept) < len(SENTENCES)
    assert len(set(asked_of(first)) - kept) <= 4  # the portion that was being stored
    path = root / "sequences" / "llm.jsonl"
    assert not path.exists()

    said = finish(start(forks, second, words(root, model)))
    assert f"planned now: {len(SENTENCES) - len(kept)} sentences" in said
    assert sorted(asked_of(second)) == sorted(set(SENTENCES) - kept)
    assert list(read_sequences(path).by_text) == SENTENCES

    unbroken = tmp_path / "unbroken.jsonl"
    (root / "sequences").rename(tmp_path / "moved")
    finish(start(forks, third, words(root, model, "--out", str(unbroken))))
    assert sorted(asked_of(third)) == sorted(SENTENCES)
    assert unbroken.read_bytes() == (tmp_path / "moved" / "llm.jsonl").read_bytes()


@pytest.mark.slow
def test_two_shards_at_a_time_and_whoever_is_last_merges(root: Path, model: Path, forks: Forks, tmp_path: Path) -> None:
    """Slow: two whole processes at once, which race for the merge."""
    logs = [tmp_path / f"{i}.log" for i in range(2)]
    processes = [start(forks, log, words(root, model, "--shard", f"{i}/2")) for i, log in enumerate(logs)]
    said = [finish(process) for process in processes]
    assert [sorted(asked_of(log)) for log in logs] == [sorted(SENTENCES[0::2]), sorted(SENTENCES[1::2])]
    merged = [str(root / "sequences" / "llm.jsonl") in text for text in said]
    assert any(merged)
    assert all(m or "still to be planned by other shards" in text for m, text in zip(merged, said, strict=True))
    assert list(read_sequences(root / "sequences" / "llm.jsonl").by_text) == SENTENCES
