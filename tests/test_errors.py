"""Output of commands cannot control a terminal, and a mistake is one line."""

from pathlib import Path

import pytest

from sslssaw_jax.errors import UserError, ends_in_one_line, printable

ROOT = Path(__file__).parents[1]


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


@pytest.mark.parametrize("error", [UserError("no \x1b[31mclip"), FileNotFoundError(2, "no clip", "a.mp4")])
def test_a_command_ends_with_the_message_of_a_mistake_and_with_other_errors_as_they_are(
    error: Exception,
) -> None:
    @ends_in_one_line()
    def command(error: Exception) -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        command(error)
    assert ended.value.code == f"error: {error}" and ended.value.__cause__ is error
    with pytest.raises(KeyError):
        command(KeyError("a fault of the program"))


def test_every_command_makes_its_output_printable() -> None:
    files = [ROOT / "run.py", *(ROOT / "sslssaw_jax").rglob("*.py"), *(ROOT / "tfds_builders").rglob("*.py")]
    ends = {
        file: file.read_text(encoding="utf-8").partition('if __name__ == "__main__":')[2] for file in files
    }
    commands = {file for file, end in ends.items() if end} - {ROOT / "sslssaw_jax" / "__main__.py"}
    assert len(commands) > 10
    assert [file for file in commands if "    set_up_output()\n" not in ends[file]] == []
