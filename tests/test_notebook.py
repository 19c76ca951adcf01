import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from sslssaw_jax.inference.demo import DEMO, EXAMPLES

ROOT = Path(__file__).parents[1]
# only the demo's last stage, shrunk as in the tests of whole runs
CONFIG = """
from pathlib import Path
from tests.support.small_runs import shipped, shrink

def get_config():
    config = shrink(shipped("demo"), Path("data").resolve())
    config.init_from, config.warm_start.epochs, config.evaluation.num_heatmaps = None, 0, 1
    return config
"""


def test_a_refused_drive_leaves_the_run_in_the_runtime(monkeypatch, capsys):
    class MessageError(Exception):
        """The error that Colab raises, which is a class of its own."""

    def refuse(place):
        raise MessageError("Error: credential propagation was unsuccessful")

    cells = json.loads((ROOT / "notebooks/demo.ipynb").read_text(encoding="utf-8"))["cells"]
    [cell] = ["".join(cell["source"]) for cell in cells if "drive.mount" in "".join(cell["source"])]
    monkeypatch.setitem(sys.modules, "google.colab", SimpleNamespace(drive=SimpleNamespace(mount=refuse)))
    names = {"ON_COLAB": True, "Path": Path}
    exec(cell.partition("\nif not")[0], names)
    assert names["workdir"] == Path("runs/demo")
    assert "without Drive: Error: credential" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.skipif(not (DEMO / EXAMPLES).exists(), reason="needs the demo model")
def test_the_notebook_runs_from_its_first_cell_to_its_last(tiny_data_dir, tmp_path, monkeypatch):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    (tmp_path / "tiny.py").write_text(CONFIG)
    (tmp_path / "data").symlink_to(tiny_data_dir)
    monkeypatch.setenv("SSLSSAW_CONFIG", "tiny.py")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(ROOT / "notebooks/demo.ipynb", as_version=4)
    patient = {"timeout": None, "startup_timeout": 3600, "iopub_timeout": 3600}  # for a busy machine
    run = nbclient.NotebookClient(notebook, resources={"metadata": {"path": str(tmp_path)}}, **patient)
    run.execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    printed = "".join(output.text for output in outputs if output.output_type == "stream")
    shown = {kind for output in outputs if "data" in output for kind in output["data"]}
    assert "on sunday the queen will bring old flour" in printed
    assert "BLEU-4: " in printed and "  or: " in printed
    assert "image/png" in shown and (tmp_path / "runs/demo/report.html").exists()
