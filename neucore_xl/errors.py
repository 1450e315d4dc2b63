"""The exception that means "the user can mend this": the command line prints it as one sentence, without a trace."""


class UserError(Exception):
    """Wrong input, found before the work starts.

    The message says what is wrong, where (file, line, key or id) and what to do. The command line prints
    it and exits with ``exit_code`` (2: wrong call or wrong input).
    """

    exit_code = 2
