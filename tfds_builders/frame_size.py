"""The size of frames as an argument of commands."""

import argparse


def frame_size(text: str) -> tuple[int, int]:
    """Return height and width of `WIDTHxHEIGHT`.

    Raises:
        ArgumentTypeError: The text is something else.
    """
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; expected WIDTHxHEIGHT such as 210x260")
    return int(height), int(width)
