"""The one exception for a user's mistake."""


class UserError(Exception):
    """A mistake of the user's: one line that says what was wrong, which flag, and what to do.

    `main.py` and the scripts print it without a traceback and exit with code 2.
    """
