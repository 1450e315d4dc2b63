"""One of several processes that do jobs of ``benchmarks/parity.py``: ``parity_worker.py JOBS OUT``.

JOBS is a JSON list of recipe and overrides; rank 0 writes what it saw of each to ``OUT/<number>.pt``.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import parity

if __name__ == "__main__":
    jobs, out = Path(sys.argv[1]), sys.argv[2]
    asked = [parity.Job(recipe, overrides) for recipe, overrides in json.loads(jobs.read_text())]
    rank, ranks, port = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"))
    parity.work(rank, asked, ranks, out, port)
