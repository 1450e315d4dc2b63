"""How a process ends: what is said of an error, by which of many processes, and the exit code, past any launcher.

torchrun and accelerate launch end with 1 whatever their processes ended with, and end the others as soon as one has
left with anything but 0; srun does the latter too. So where NEUCORE_EXIT_FILE names a file, rank 0 writes the code
there, and the processes that leave together, in order, leave with 0: whoever started them reads the file.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from pathlib import Path
from typing import NoReturn

from neucore_xl import terminal
from neucore_xl.errors import UserError, one_sentence

VARIABLE = "NEUCORE_EXIT_FILE"


def ended(error: Exception, rank: int | None = None, *, before: int | None = None, name: str = "error") -> int:
    """The exit code of a process that ``error`` ends; its sentence, behind ``name``, goes to standard error once.

    While the processes have not met they fail alike, and the one with ``before`` 0 speaks (default: with ``rank`` 0;
    with the local rank one a node does). Later what happens to a process is its own to tell, and rank 0 tells what
    happens on all. ``UserError.on_all_ranks`` says it where an error knows better.

    A fault of the program has no sentence: it is raised again with its trace. Where others wait for this process the
    trace is printed and the process ends here and now, with 1.
    """
    rank = rank_at_start() if rank is None else rank
    said = one_sentence(error) if isinstance(error, UserError | OSError) else None
    if said is not None:
        alike = getattr(error, "on_all_ranks", None)
        first = rank if _met() or before is None else before
        if first == 0 or alike is False or (alike is None and _met()):
            terminal.say(f"{name}: {said[0]}", stderr=True)
        return said[1]
    if not _met():
        raise error
    traceback.print_exception(error)
    return leave(1)


def hand_over(code: int, rank: int | None = None, *, patience: float = 10.0) -> int:
    """What the process should exit with, having ended in order (not by a fault of the program) with ``code``.

    Without the variable that is ``code``. With it, rank 0 writes ``code`` and leaves with 0; another rank leaves with
    0 once the file is there, or with ``code`` after ``patience`` seconds, which ends the job if rank 0 goes on alone.
    """
    name = os.environ.get(VARIABLE)
    if not name:
        return code
    path = Path(name)
    if (rank_at_start() if rank is None else rank) == 0:
        return 0 if _write(path, code) else code
    end = time.monotonic() + patience
    while code and not path.exists() and time.monotonic() < end:
        time.sleep(0.1)
    return 0 if path.exists() else code


def leave(code: int) -> NoReturn:
    """End now: others may wait for this process, and a process group whose members are gone cannot be left."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def rank_at_start() -> int:
    """The number that a launcher gave this process, before anything was asked of the launcher; 0 where it gave none."""
    text = os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or ""
    return int(text) if text.isdecimal() else 0


def _met() -> bool:
    """Whether this process has met others (which takes torch: it is not imported to be asked)."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return False
    return bool(torch.distributed.get_world_size() > 1)


def _write(path: Path, code: int) -> bool:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        temporary.write_text(f"{code}\n", encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        terminal.say(f"the exit code {code} could not be written to {path}: {error.strerror}", stderr=True)
        return False
    return True
