"""What commands tell users: errors that they can fix, warnings, and characters that a terminal lacks."""

import re
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

# colours, titles and pasted commands of a terminal, the direction of writing, and what cannot be encoded
_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


class UserError(Exception):
    """An error whose message names what is wrong and the remedy.

    Commands print the message without a traceback.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


def printable(text: str) -> str:
    """Return a text for the terminal, with control characters as escapes."""
    return _CONTROL.sub(lambda character: ascii(character[0])[1:-1], text)


def listed(names: Iterable[object], most: int = 3) -> str:
    """Return the first names of many."""
    texts = [str(name) for name in names]
    return ", ".join(texts[:most]) + ", ..." * (len(texts) > most)


@contextmanager
def ends_in_one_line() -> Iterator[None]:
    """End a command with a message about a mistake, without a traceback."""
    try:
        yield
    except (UserError, OSError) as error:
        raise SystemExit(f"error: {error}") from error


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
