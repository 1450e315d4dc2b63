"""The exception that means "the user can mend this": the command line prints it as one sentence, without a trace."""

import errno
import os

# Exit codes of a training job that was ended on purpose, beside 0 (finished), 1 and 2 (see ``UserError``).
REQUEUE = 75  # saved; to be started again: a warning signal, or the end of the time it was given
STOPPED = 76  # saved; not to be started again: somebody put a file `stop` into the run folder


class UserError(Exception):
    """Wrong input, found before the work starts.

    The message says what is wrong, where (file, line, key or id) and what to do. The command line prints
    it and exits with ``exit_code`` (2: wrong call or wrong input).
    """

    exit_code = 2
    everybodys = False  # raised by all processes of a job alike: one of them says it


# Where the machine or a path and not the program is to blame.
_MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG}


def one_sentence(error: UserError | OSError) -> tuple[str, int] | None:
    """What a command prints and its exit code, or None for a fault of the program, which keeps its trace.

    A `UserError` speaks for itself; a full disk or a folder that refuses writing gets a sentence and exit code 1.
    """
    if isinstance(error, UserError):
        return str(error), error.exit_code
    if error.errno not in _MACHINE:
        return None
    where = f": {error.filename}" if error.filename else ""
    return f"{os.strerror(error.errno)}{where}; free space or choose another folder, nothing finished is lost.", 1
