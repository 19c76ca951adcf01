"""Mistakes on the command line of `run.py`."""

import logging
import sys
from pathlib import Path

import pytest
from absl import flags
from absl.logging import use_absl_handler
from absl.testing import flagsaver

import run
from tests.support.small_runs import ROOT


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.data.data_dir=nowhere"], "python -m tfds_builders.prepare avatar_qa --data_dir=nowhere"),
        (["--config.model.fusionn.kind=ssaw"], "did you mean --config.model.fusion.kind?"),
        (["--config.model.fusion.kind=sum"], "allowed: ssaw, concat, lstm, tcn"),
        (
            ["--config.data.data_dir={data_dir}", "--config.model.mbart.weights=./a"],
            "weights trim --model=facebook/mbart-large-cc25",
        ),
    ],
)
def test_a_mistake_is_answered_in_one_message(
    arguments: list[str], message: str, tiny_data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [argument.format(data_dir=tiny_data_dir) for argument in arguments]
    command = ["run.py", f"--config={ROOT}/configs/demo.py", *arguments]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", command)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as ended:
        flags.FLAGS.unparse_flags()
        run.main(run.parse_flags(command))
    assert isinstance(ended.value.code, str)  # printed to stderr, with status 1
    assert ended.value.code.startswith("error: ") and message in ended.value.code
    assert not list(tmp_path.iterdir())


def test_a_gpu_that_jax_cannot_use_is_not_passed_over_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, bridge = logging.getLogger(), logging.getLogger("jax._src.xla_bridge")
    level = root.level
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    monkeypatch.chdir(tmp_path)
    use_absl_handler()  # as absl's own main does
    command = ["run.py", f"--config={ROOT}/configs/demo.py", "--config.data.data_dir=nowhere"]
    monkeypatch.setattr(sys, "argv", command)
    try:
        with flagsaver.flagsaver():
            flags.FLAGS.unparse_flags()
            with pytest.raises(SystemExit):
                run.main(run.parse_flags(command))
            assert bridge.isEnabledFor(logging.WARNING) and not bridge.isEnabledFor(logging.INFO)
            assert not logging.getLogger("absl").isEnabledFor(logging.ERROR)
    finally:
        root.setLevel(level)
