"""What commands tell a user: errors that he can fix, warnings, and characters that his terminal lacks."""

import sys
import warnings


class UserError(Exception):
    """An error whose message names what is wrong and the remedy.

    Commands print the message without a traceback.
    """


def set_up_output() -> None:
    """Make any text printable, and warnings one line."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
