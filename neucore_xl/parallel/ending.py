"""The exit code of a job, past launchers that do not pass one on.

torchrun and accelerate launch end with 1 whatever their processes ended with, and end the others as soon as one has
left with anything but 0; srun does the latter too. So where NEUCORE_EXIT_FILE names a file, rank 0 writes the code
there, and the processes that leave together, in order, leave with 0: whoever started them reads the file.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

VARIABLE = "NEUCORE_EXIT_FILE"


def hand_over(code: int, rank: int, *, patience: float = 10.0) -> int:
    """What the process should exit with, having ended in order (not by a fault of the program) with ``code``.

    Without the variable that is ``code``. With it, rank 0 writes ``code`` and leaves with 0; another rank leaves with
    0 once the file is there, or with ``code`` after ``patience`` seconds, which ends the job if rank 0 goes on alone.
    """
    name = os.environ.get(VARIABLE)
    if not name:
        return code
    path = Path(name)
    if rank == 0:
        return 0 if _write(path, code) else code
    end = time.monotonic() + patience
    while code and not path.exists() and time.monotonic() < end:
        time.sleep(0.1)
    return 0 if path.exists() else code


def _write(path: Path, code: int) -> bool:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        temporary.write_text(f"{code}\n", encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        print(f"the exit code {code} could not be written to {path}: {error.strerror}", file=sys.stderr)
        return False
    return True
