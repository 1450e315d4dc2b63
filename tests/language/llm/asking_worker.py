"""``asking_worker.py LOG WORDS…``: `neucore-xl WORDS…`, every sentence that the model is asked written to LOG."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence

from neucore_xl.cli import main
from neucore_xl.language.llm.answers import Answer
from neucore_xl.language.llm.local import LocalWriter

if __name__ == "__main__":
    log = sys.argv[1]
    pause = float(os.environ.get("PAUSE", "0"))
    write = LocalWriter.write

    def noted(self: LocalWriter, texts: Sequence[str]) -> Iterator[list[Answer]]:
        for portion in write(self, texts):
            with open(log, "a", encoding="utf-8") as out:  # noqa: PTH123
                out.writelines(json.dumps(answer.text) + "\n" for answer in portion)
            yield portion
            time.sleep(pause)

    LocalWriter.write = noted  # type: ignore[method-assign]
    main(sys.argv[2:])
