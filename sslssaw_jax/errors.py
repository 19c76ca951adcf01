"""What commands tell a user: errors that he can fix, warnings, and characters that his terminal lacks."""

import sys
import warnings
from typing import Any


class UserError(Exception):
    """An error whose message names what is wrong and the remedy.

    Commands print the message without a traceback.
    """


def set_up_output() -> None:
    """Make any text printable, and a warning or Ctrl-C one line."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    sys.excepthook = _without_interrupt


def _without_interrupt(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    if issubclass(kind, KeyboardInterrupt):
        print("\nstopped", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)
