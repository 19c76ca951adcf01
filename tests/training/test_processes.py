"""Two processes of two devices each, compared with one process of one device.

The system is a quick one: `test_sharding.py` trains the paper's models on several devices.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import ml_collections
import numpy as np
import pytest
from flax import nnx

from sslssaw_jax.config.checks import ConfigError
from sslssaw_jax.experiment import Experiment
from sslssaw_jax.systems import SYSTEMS, default_config, read_config
from sslssaw_jax.training.checkpoints import restore_params
from sslssaw_jax.training.processes import initialize_processes
from sslssaw_jax.types import TrainState
from sslssaw_jax.weights.initial_state import whole_variable
from sslssaw_jax.workdir import CHECKPOINTS, FINISHED, METRICS, SCORES
from tests.support.small_runs import ROOT, rows
from tests.support.toy_system import SYSTEM

# As run.py is called, and once more in a folder with a checkpoint from one process.
TWO_RUNS = """
import sys
from pathlib import Path
from absl import flags
import run
from sslssaw_jax.systems import SYSTEMS
from tests.support.toy_system import SYSTEM
from tests.training.test_processes import configuration
SYSTEMS["toy"] = SYSTEM
run.parse_flags([sys.argv[0], *sys.argv[3:]])
run.main([])
from sslssaw_jax.systems import read_config
from sslssaw_jax.experiment import Experiment
Experiment(read_config(configuration(Path(sys.argv[1]))), Path(sys.argv[2])).run("train")
from tests.training.test_processes import check_others_are_refused, check_whole_variable
check_whole_variable()
check_others_are_refused(Path(sys.argv[1]), Path(sys.argv[2]).parent)
"""
CONFIG_FILE = """
from pathlib import Path
from tests.training.test_processes import configuration
def get_config():
    return configuration(Path({data_dir!r}))
"""


def configuration(data_dir: Path) -> ml_collections.ConfigDict:
    """Return a quick system's one stage: six steps, a checkpoint after every third."""
    config = default_config("toy")
    config.data.update({"data_dir": str(data_dir), "image_size": 24, "max_frames": 32, "num_threads": 1})
    config.translate.update({"epochs": 2, "clips_per_batch": 8, "frame_budget": 160, "ema_decay": 0.5})
    config.translate.optim.update({"name": "sgd", "learning_rate": 0.05, "warmup_steps": 0})
    config.decode.update({"beams": 2, "max_new_tokens": 8})
    config.logging.every_steps, config.evaluation.num_heatmaps = 1, 2
    config.checkpoint.keep_latest = 2
    return config


@pytest.fixture(scope="module", autouse=True)
def toy() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(SYSTEMS, "toy", SYSTEM)
        yield


def check_whole_variable() -> None:
    """Fetch an array when each process holds half of it."""
    whole = np.arange(12.0).reshape(4, 3)
    mesh = jax.make_mesh((jax.device_count(),), ("fsdp",))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp"))
    table = jax.make_array_from_callback(whole.shape, split, lambda index: whole[index])
    assert jax.process_count() == 2 and not table.is_fully_addressable
    params = nnx.State({"table": nnx.Param(table)})
    state = TrainState(jax.numpy.int32(0), params, nnx.State({}), {})
    np.testing.assert_array_equal(whole_variable(state, ("table",)), whole)


def check_others_are_refused(data_dir: Path, folder: Path) -> None:
    """Start runs of which this process has another seed, or data of other content, than the first."""
    process = jax.process_index()
    other = folder / f"data{process}"
    shutil.copytree(data_dir, other)
    facts = other / "avatar_qa" / "1.0.0" / "dataset.json"
    facts.write_text(json.dumps(json.loads(facts.read_text()) | {"fingerprint": f"of process {process}"}))
    for place, seed, refused in ((data_dir, process, "config.seed"), (other, 0, "dataset")):
        config = configuration(place)
        config.seed, config.data.num_threads = seed, 1 + process
        with pytest.raises(ConfigError, match=f"process 1 differs from process 0 in {refused}: start all"):
            Experiment(read_config(config), folder / "refused").run("eval")


def interrupted(finished: Path, workdir: Path) -> Path:
    """Copy a finished run as it was after its first epoch."""
    of_the_end = shutil.ignore_patterns(FINISHED, METRICS, SCORES, "predictions*", "*.jpg")
    shutil.copytree(finished, workdir, ignore=of_the_end)
    last = max((workdir / CHECKPOINTS).iterdir(), key=lambda path: int(path.name))
    shutil.rmtree(last)
    return workdir


@pytest.fixture(scope="module")
def alone(tiny_data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the workdir of a run of this process."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    Experiment(read_config(configuration(tiny_data_dir)), workdir).run("train")
    return workdir


@pytest.fixture(scope="module")
def together(alone: Path, tiny_data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the workdirs of two runs of two processes: one new, one continued."""
    folder = tmp_path_factory.mktemp("together")
    (folder / "config.py").write_text(CONFIG_FILE.format(data_dir=str(tiny_data_dir)))
    goes_on = interrupted(alone, folder / "goes_on")
    held = socket.socket()  # until the end, so that no other process gets the port
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # as gRPC does
    held.bind(("localhost", 0))
    address = f"localhost:{held.getsockname()[1]}"
    flags = [f"--config={folder}/config.py", f"--workdir={folder}/whole"]
    command = [sys.executable, "-c", TWO_RUNS, str(tiny_data_dir), str(goes_on), *flags]
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2",
    }
    from_environment = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}
    flagged = [f"--coordinator_address={address}", "--num_processes=2", "--process_id=0"]
    processes = [
        subprocess.Popen(
            [*command, *more],
            env=environment | variables,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for more, variables in ((flagged, {}), ([], from_environment))
    ]
    outputs = [process.communicate() for process in processes]
    held.close()
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert ["BLEU-4" in output for output, _ in outputs] == [True, False], "the first process speaks for all"
    return {"whole": folder / "whole", "goes_on": goes_on}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["whole", "goes_on"])
def test_two_processes_train_as_one_does(name: str, alone: Path, together: dict[str, Path]) -> None:
    one, two = rows(alone / "log.jsonl"), rows(together[name] / "log.jsonl")
    assert [row["step"] for row in two] == [row["step"] for row in one]
    for key in ("loss", "grad_norm"):
        np.testing.assert_allclose([row[key] for row in two], [row[key] for row in one], rtol=2e-5)
    (*ours, _), (*theirs, _) = (restore_params(path / CHECKPOINTS) for path in (alone, together[name]))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(y, x, atol=2e-5), ours, theirs)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["whole", "goes_on"])
def test_two_processes_translate_each_clip_once_as_one_does(
    name: str, alone: Path, together: dict[str, Path]
) -> None:
    for split in ("dev", "test"):
        one, two = (rows(path / f"predictions.{split}.jsonl") for path in (alone, together[name]))
        scores = [[row.pop("score") for row in predictions] for predictions in (one, two)]
        assert two == one
        np.testing.assert_allclose(*scores, rtol=1e-4)
    assert json.loads((together[name] / "metrics.json").read_text()) == json.loads(
        (alone / "metrics.json").read_text()
    )
    pictures = [sorted(path.name for path in run.rglob("*.[jp][pn]g")) for run in (alone, together[name])]
    assert pictures[0] == pictures[1] and len(pictures[0]) == 2


@pytest.mark.slow
def test_one_process_goes_on_where_two_were(
    alone: Path, together: dict[str, Path], tiny_data_dir: Path, tmp_path: Path
) -> None:
    workdir = interrupted(together["whole"], tmp_path / "run")
    Experiment(read_config(configuration(tiny_data_dir)), workdir).run("train")
    one, again = rows(alone / "log.jsonl"), rows(workdir / "log.jsonl")
    np.testing.assert_allclose([row["loss"] for row in again], [row["loss"] for row in one], rtol=2e-5)
    assert [row["step"] for row in again] == [row["step"] for row in one]


@pytest.mark.parametrize(
    ("arguments", "variables", "message"),
    [
        (("host:1", 2, None), {}, "--process_id, too"),
        ((None, None, 1), {"JAX_NUM_PROCESSES": "2"}, "--coordinator_address, too"),
        (("host", 2, 0), {}, "coordinator_address is 'host'; it must be host:port"),
        (("host:1", 2, 2), {}, "process_id is 2; it must be 0 to 1"),
        ((None, None, None), {"JAX_NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES is 'two'"),
    ],
)
def test_settings_that_do_not_make_several_processes_are_an_error(
    arguments: tuple, variables: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message):
        initialize_processes(*arguments)


def test_a_launcher_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def initialize() -> None:
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    with pytest.raises(
        ConfigError,
        match=r"no launcher tells of the other processes.*defined.*--num_processes and --process_id",
    ):
        initialize_processes("auto", None, None)


@pytest.mark.parametrize(
    ("arguments", "variables", "asked"),
    [
        ((None, None, None), {}, None),
        ((None, None, None), {"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, None),  # a shell, not `srun`
        (("host:1", 1, 0), {}, None),
        ((None, None, None), {"SLURM_STEP_NUM_TASKS": "4"}, {}),
        ((None, None, None), {"OMPI_COMM_WORLD_SIZE": "2"}, {}),
        (("auto", None, None), {}, {}),
        (
            ("host:1", 2, None),
            {"JAX_PROCESS_ID": "1"},
            {"coordinator_address": "host:1", "num_processes": 2, "process_id": 1},
        ),
    ],
)
def test_a_process_waits_for_others_only_where_someone_counts_them(
    arguments: tuple, variables: dict[str, str], asked: dict | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[dict] = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **given: calls.append(given))
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    initialize_processes(*arguments)
    assert calls == ([] if asked is None else [asked])
