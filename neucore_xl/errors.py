"""The exception that means "the user can mend this", and the words that such sentences share.

The command line prints it as one sentence, without a trace.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher, get_close_matches

from neucore_xl.terminal import printable

# Exit codes of a training job that was ended on purpose, beside 0 (finished), 1 and 2 (see ``UserError``).
REQUEUE = 75  # saved; to be started again: a warning signal, or the end of the time it was given
STOPPED = 76  # saved; not to be started again: somebody put a file `stop` into the run folder


class UserError(Exception):
    """Wrong input, found before the work starts.

    The message says what is wrong, where (file, line, key or id) and what to do. The command line prints
    it and exits with ``exit_code`` (2: wrong call or wrong input).
    """

    exit_code = 2
    # Whether all processes of a job raise it alike, so that one of them says it, or (False) no other knows of it.
    on_all_ranks: bool | None = None  # None: all raise it until the processes have met, one of them later


# Where the machine or a path and not the program is to blame.
_MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG}


def one_sentence(error: UserError | OSError) -> tuple[str, int] | None:
    """What a command prints and its exit code, or None for a fault of the program, which keeps its trace.

    A `UserError` speaks for itself; a full disk or a folder that refuses writing gets a sentence and exit code 1.
    Control characters of names and words that the sentence repeats are escapes in it.
    """
    if isinstance(error, UserError):
        return printable(error), error.exit_code
    if error.errno not in _MACHINE:
        return None
    where = f": {printable(error.filename)}" if error.filename else ""
    return f"{os.strerror(error.errno)}{where}; free space or choose another folder, nothing finished is lost.", 1


def check_arguments(arguments: Sequence[str]) -> None:
    """Raise ``UserError`` for an argument of a command that is empty or not UTF-8.

    An empty path would be the folder that the command runs in. Libraries fail at bytes that are no text, some of them
    after the work.
    """
    for before, argument in zip(("", *arguments), arguments, strict=False):
        if not argument:
            after = f" after {before}" if before else ""
            raise UserError(f"an argument{after} is empty: perhaps a variable of the shell is not set.")
        if any("\ud800" <= c <= "\udfff" for c in argument):
            raise UserError(
                f"the argument {argument} is not UTF-8 text: rename what it names (a link of another name will do), or "
                "set LC_ALL to a locale in UTF-8."
            )


def nearest(word: str, among: Iterable[str], *, cutoff: float = 0.6) -> list[str]:
    """The entry of ``among`` most similar to ``word``, with up to two others as similar; empty where none is near.

    Capitals do not count. ``cutoff`` is difflib's least similarity, in [0, 1]; with 0 something is always near.
    """
    plain = {entry.lower(): entry for entry in among}
    matches = get_close_matches(word.lower(), plain, n=3, cutoff=cutoff)
    ratios = [SequenceMatcher(None, match, word.lower()).ratio() for match in matches]
    return [plain[match] for match, ratio in zip(matches, ratios, strict=True) if ratio >= ratios[0] - 0.01]


def did_you_mean(near: Sequence[str], otherwise: str = "") -> str:
    """How a sentence about an unknown word goes on: ``; did you mean a or b?``, or ``otherwise`` where none is near."""
    return f"; did you mean {' or '.join(near)}?" if near else otherwise
