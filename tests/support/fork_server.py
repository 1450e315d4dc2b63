"""A process that imports what training needs once and forks for every order: ``python fork_server.py ORDERS NEWS``.

ORDERS and NEWS are numbers of open pipes with one JSON object a line. An order is a command line of Python, without
``python``, as ``forks.py`` writes it. What is forked runs that command as ``__main__`` with an environment, a folder,
output and a session of its own, and ends as an interpreter does: it waits for its threads, calls what ``atexit`` knows
and leaves the exit code. Only the modules are not taken down one by one, which costs more than a fork.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

# What one of these processes would import; nobody has started a thread afterwards, and so a fork is safe.
PRELOADED = (
    "datasets",
    "deepspeed",
    "neucore_xl.cli",
    "neucore_xl.language.llm.local",
    "neucore_xl.runs.checkpoints.universal",
    "neucore_xl.sizing.blank",
    "neucore_xl.training.run",
    "spacy",
    "torch._inductor.compile_fx",  # every engine of DeepSpeed imports it on the way: 1.5 seconds of a core
    "transformers.models.auto.modeling_auto",
    "transformers.models.llama.modeling_llama",
)
CONTEXT_LENGTHS = (12, 16, 24)  # of the tests' towers


def warm() -> None:
    """Do what the first of many does alone: PIL finds its formats, OmegaConf builds its grammar, CLIP reads merges."""
    from PIL import Image

    from neucore_xl.config.load import load_settings
    from neucore_xl.models.towers import _bpe_tokenizer

    Image.init()
    load_settings("demo", ["data.name=cirr"])
    for context_length in CONTEXT_LENGTHS:
        _bpe_tokenizer(context_length)


def load_pipelines() -> None:
    """Load the spaCy pipelines that every training loads, a second of a core each; a machine may have none."""
    from neucore_xl.errors import UserError
    from neucore_xl.language.spacy_pipeline import load_pipeline

    for parse in (False, True):
        with suppress(UserError):
            load_pipeline("auto", parse=parse)


def serve(orders: int, news: int) -> dict[str, Any] | None:
    """Fork for every line of ``orders`` until its end; returns the order in such a process, and at the end None."""
    wakes, wake = os.pipe()
    for end in (wakes, wake):
        os.set_blocking(end, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    running: dict[int, int] = {}  # pid: number of the order
    rest = b""
    while True:
        ready = select.select([orders, wakes], [], [])[0]
        if wakes in ready:
            os.read(wakes, 4096)
            for pid in list(running):
                if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                    _tell(news, number=running.pop(pid), code=os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        if orders in ready:
            got = os.read(orders, 65_536)
            *lines, rest = (rest + got).split(b"\n")
            if not got or b"null" in lines:
                break
            for line in lines:
                order: dict[str, Any] = json.loads(line)
                pid = os.fork()
                if pid == 0:
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    os.setsid()
                    _tell(news, number=order["number"], pid=os.getpid())
                    for pipe in (orders, news, wakes, wake):
                        os.close(pipe)
                    return order
                running[pid] = order["number"]
    for pid in running:
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return None


def _tell(news: int, **what: int) -> None:
    os.write(news, json.dumps(what).encode() + b"\n")  # shorter than what a pipe takes in one piece


def become(order: dict[str, Any]) -> None:
    """Take the order's streams, environment and folder, and run its command."""
    for number, path, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, order["out"], os.O_WRONLY | os.O_CREAT | os.O_APPEND),
        (2, order["err"], os.O_WRONLY | os.O_CREAT | os.O_APPEND),
    ):
        opened = os.open(path, flags)
        os.dup2(opened, number)
        os.close(opened)
    os.environ.clear()
    os.environ.update(order["environment"])
    os.chdir(order["folder"])
    first, *words = order["command"]
    if first == "-m":
        name, *words = words
        sys.argv = [name, *words]
        sys.path[0] = order["folder"]
        sys.modules.pop(name, None)  # else runpy warns of a module that was imported before it was run
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    else:
        sys.argv = [first, *words]
        sys.path[0] = str(Path(first).resolve().parent)
        runpy.run_path(first, run_name="__main__")


def leave(order: dict[str, Any]) -> NoReturn:
    """Run the order and end with its exit code."""
    code: object = 0
    try:
        become(order)
    except SystemExit as error:
        code = error.code
    except BaseException:  # as the interpreter does, whatever it is
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    if not isinstance(code, int | None):
        print(code, file=sys.stderr)
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


if __name__ == "__main__":
    for module in PRELOADED:
        importlib.import_module(module)
    warm()
    load_pipelines()
    threads = len(os.listdir("/proc/self/task"))  # noqa: PTH208
    if threads > 1:
        sys.exit(f"{threads} threads run after the imports: what is forked now may never end")
    gc.freeze()  # pages that nobody's collection touches stay shared
    wanted = serve(int(sys.argv[1]), int(sys.argv[2]))
    if wanted is not None:
        leave(wanted)
