"""Each mistake on the command line is answered in one message, before anything heavy is imported."""

import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags
from ml_collections import config_flags

from configs import demo
from sslssaw_jax.config.checks import ConfigError
from sslssaw_jax.config.flags import check_config_file, explain_flags

ROOT = Path(__file__).parents[2]
LIST = r"there are configs/ablations\.py, .*configs/demo\.py"
FILES = [  # arguments, what the error says
    ([], rf"--config names no file; {LIST}"),
    (["--workdir=x", "--config"], "--config names no file"),
    (["--config=demo"], rf"--config=demo: no such file; did you mean --config=configs/demo\.py\? {LIST}"),
    (["--config=config/demo.py"], r"no such file; did you mean --config=configs/demo\.py\?"),
    (["--config=nothing.py"], rf"no such file; {LIST}.*; run from the folder {ROOT}"),
    (["configs/demo.py"], r"configs/demo\.py: put --config= before it: --config=configs/demo\.py"),
    ([f"--config={ROOT}/configs/demo.py:toy"], r"demo\.py has no variants: leave :toy out"),
    (
        [f"--config={ROOT}/configs/demo.py", "--config.system=slrt"],
        r"its own configuration, .* for ssl_ssaw: use --config=configs/ablations\.py:BASE/slrt",
    ),
    (
        [f"--config={ROOT}/configs/demo.py", "--config.system=question_only"],
        r"use --config=configs/question_only\.py",
    ),
]
FLAGS = [
    (
        "--config.translate.epoch=3",
        "--config.translate.epoch is unknown; did you mean --config.translate.epochs?",
    ),
    ("--translate.epochs=3", "--translate.epochs is unknown; did you mean --config.translate.epochs?"),
    (
        "--epochs=3",
        "--epochs is unknown; did you mean --config.gloss2text.epochs or --config.pretrain.epochs or "
        "--config.recognize.epochs or --config.text2gloss.epochs or --config.translate.epochs or "
        "--config.warm_start.epochs?",
    ),
    (
        "--config.model.fusion.knid=ssaw",
        "--config.model.fusion.knid is unknown; did you mean --config.model.fusion.kind?",
    ),
    ("--config.fusionn.kind=x", "--config.fusionn.kind is unknown; did you mean --config.model.fusion.kind?"),
    (
        "--config.translte.epochs=3",
        "--config.translte.epochs is unknown; did you mean --config.translate.epochs?",
    ),
    (
        "--config.model.layers=3",
        "--config.model.layers is unknown; did you mean --config.model.mbert.num_layers?",
    ),
    ("--config.optim.lr=1", "--config.optim.lr is unknown"),
    ("--zzzzz=3", "--zzzzz is unknown"),
]
FAR = ("data.batch_size", "translate.lr", "translate.optim.lr", "data.workers", "pretrain.lr")


@pytest.mark.parametrize(("arguments", "words"), FILES)
def test_a_wrong_configuration_file_is_named_with_those_that_there_are(arguments, words) -> None:
    with pytest.raises(ConfigError, match=words):
        check_config_file(arguments, ROOT)


def test_installed_files_are_named_without_their_folder(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"no such file; there are configs/[\w.]*$"):
        check_config_file(["--config=nothing.py"], tmp_path)


def test_a_right_configuration_file_is_accepted() -> None:
    check_config_file([f"--config={ROOT}/configs/demo.py", "--config.seed=1"], ROOT)
    check_config_file([f"--config={ROOT}/configs/demo.py", "--config.system=ssl_ssaw"], ROOT)
    check_config_file(["--config", f"{ROOT}/configs/phoenix_stage2.py:toy"], ROOT)
    check_config_file(["--help"], ROOT)


def refusal(argument: str) -> str:
    values, argv, tree = flags.FlagValues(), ["run.py", argument], demo.get_config()
    with pytest.raises(Exception) as error:
        config_flags.DEFINE_config_dict("config", tree, flag_values=values, sys_argv=argv)
        values(argv)
    return explain_flags(error.value, argv[1:], tree)


@pytest.mark.parametrize(("argument", "message"), FLAGS)
def test_an_unknown_flag_is_named_with_the_nearest_setting(argument, message) -> None:
    assert refusal(argument) == message


def test_one_letter_too_few_is_every_setting_that_ends_so() -> None:
    assert refusal("--epoch=3") == refusal("--epochs=3").replace("epochs is", "epoch is")


@pytest.mark.parametrize("key", FAR)
def test_a_flag_like_no_setting_is_answered_with_those_of_its_group(key) -> None:
    """`data.cache` is not what `data.batch_size` means, though most of their letters agree."""
    group = f"config.{key.rpartition('.')[0]}"
    assert refusal(f"--config.{key}=3").startswith(f"--config.{key} is unknown; known in {group}: ")


def test_a_value_of_the_wrong_type_is_named_with_closed_quotes() -> None:
    message = refusal("--config.translate.epochs=three")
    assert message.startswith("flag --config.translate.epochs=three: ") and message.endswith("'three'")


def test_run_py_answers_without_a_traceback_whatever_the_encoding(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "run.py"), "--config=dämo"]
    done = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONIOENCODING": "ascii"}, capture_output=True, text=True
    )
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith(
        r"error: --config=d\xe4mo: no such file; did you mean --config=configs/demo.py? "
    )


def test_ctrl_c_is_no_traceback() -> None:
    code = (
        "import warnings; from sslssaw_jax.errors import set_up_output; set_up_output()\n"
        "warnings.warn('look out'); raise KeyboardInterrupt"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (-2, "warning: look out\n\nstopped\n")
