"""What commands print cannot steer a terminal."""

import pytest

from sslssaw_jax.errors import UserError, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("two\nlines\tand für 明天 ½", "two\nlines\tand für 明天 ½"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("over\rwritten\x08", r"over\rwritten\x08"),
        ("\x9b31m\x7f\x00", r"\x9b31m\x7f\x00"),
        ("safe\u202egpj.exe\u2066", r"safe\u202egpj.exe\u2066"),
        ("\udcff", r"\udcff"),
    ],
)
def test_control_characters_are_shown_and_not_sent(text: str, shown: str) -> None:
    assert printable(text) == shown == str(UserError(text))
    shown.encode()
