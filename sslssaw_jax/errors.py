"""The parent of all errors that a user can fix, and an output that shows them everywhere."""

import io
import sys


class UserError(Exception):
    """An error whose message names what is wrong and the remedy.

    Commands print the message without a traceback.
    """


def escape_output() -> None:
    """Escape what the output's encoding lacks, such as ü in ASCII.

    A command would fail at its last line otherwise, its work done.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
