import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from sslssaw_jax import __main__ as command

ROOT = Path(__file__).parents[1]


@pytest.fixture
def calls(monkeypatch):
    """What the command would run: modules with their arguments."""
    found = []
    monkeypatch.setattr(command, "_run", lambda module, arguments: found.append((module, *arguments)))
    return found


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["prepare", "avatar_qa", "--overwrite"], ("tfds_builders.prepare", "avatar_qa", "--overwrite")),
        (["train", "--config=configs/demo.py"], ("run", "--config=configs/demo.py")),
        (["eval", "--workdir=runs/demo"], ("run", "--mode=eval", "--workdir=runs/demo")),
        (["export", "--help"], ("sslssaw_jax.weights", "export", "--help")),
        (["translate", "a.mp4", "--question", "-?"], ("sslssaw_jax.inference", "a.mp4", "--question", "-?")),
    ],
)
def test_arguments_are_passed_on(calls, arguments, expected):
    command.main(arguments)
    assert calls == [expected]


@pytest.mark.parametrize("mark", ["=", " "])
def test_demo_prepares_its_dataset_and_trains_from_any_folder(calls, tmp_path, monkeypatch, mark):
    monkeypatch.chdir(tmp_path)
    command.main(["demo", *f"--config.data.data_dir{mark}here".split()])
    prepare, (module, config, folder) = calls
    assert prepare == ("tfds_builders.prepare", "avatar_qa", "--data_dir=here")
    assert (module, folder) == ("run", "--config.data.data_dir=here")
    assert (tmp_path / config.removeprefix("--config=")).read_text().count("def get_config")


@pytest.mark.parametrize("mark", ["=", " "])
def test_the_installed_configurations_are_found_outside_of_a_clone(calls, tmp_path, monkeypatch, mark):
    monkeypatch.chdir(tmp_path)
    command.main(["train", *f"--config{mark}configs/phoenix_stage2.py:toy".split(), "--workdir=configs"])
    ((_, config, workdir),) = calls
    path, _, variant = config.removeprefix("--config=").partition(":")
    assert (tmp_path / path).exists() and variant == "toy"
    assert workdir == "--workdir=configs"


@pytest.mark.parametrize("value", ["configs_mine/demo.py", "configs/demo.py", "configs/mine.py:toy"])
def test_own_configurations_are_left_where_they_are(calls, tmp_path, monkeypatch, value):
    own = tmp_path / value.partition(":")[0]
    own.parent.mkdir()
    own.touch()
    monkeypatch.chdir(tmp_path)
    command.main(["train", f"--config={value}"])
    assert calls == [("run", f"--config={value}")]


def test_a_folder_of_own_configurations_hides_no_installed_one(calls, tmp_path, monkeypatch):
    (tmp_path / "configs").mkdir()
    monkeypatch.chdir(tmp_path)
    command.main(["train", "--config=configs/demo.py"])
    command.main(["train", "--config=configs/dem.py"])  # run.py names the nearest
    assert calls == [("run", f"--config={ROOT}/configs/demo.py"), ("run", "--config=configs/dem.py")]


def test_a_run_py_in_the_current_folder_is_not_run(tmp_path):
    (tmp_path / "run.py").write_text("print('not this one')")
    train = [sys.executable, "-m", "sslssaw_jax", "train", "--config=nothing.py"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(train, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout == "" and done.stderr.startswith("error: --config=nothing.py: no such file; ")


def test_every_command_is_a_module_that_runs():
    for name, one in command.COMMANDS.items():
        spec = find_spec(one.module)
        assert spec, name
        if spec.submodule_search_locations:
            spec = find_spec(f"{one.module}.__main__")
        assert spec and spec.origin, name
        assert 'if __name__ == "__main__":' in Path(spec.origin).read_text(), name


def test_an_unknown_command_is_refused(capsys):
    with pytest.raises(SystemExit):
        command.main(["translat"])
    assert "invalid choice: 'translat'" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--help"], ["translate", "--help"]])
def test_help_imports_nothing_heavy(arguments):
    script = f"""
import sys
from pathlib import Path
from sslssaw_jax.__main__ import main
try:
    main({arguments})
finally:
    heavy = "numpy", "jax", "flax", "cv2", "tensorflow_datasets", "matplotlib", "huggingface_hub", "orbax"
    assert not set(heavy) & sys.modules.keys(), set(heavy) & sys.modules.keys()
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.startswith("usage: sslssaw")
