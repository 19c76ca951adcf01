"""The documents name what exists: files, modules, configurations and their settings."""

import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from string import Template

import pytest
from absl import flags
from ml_collections import config_flags

from configs.systems import OTHER_SYSTEMS
from sslssaw_jax.systems import read_config
from sslssaw_jax.tables import PAPER
from tfds_builders.prepare import DATASETS

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = [*DOCUMENTS, ROOT / "CHANGELOG.md", ROOT / "SECURITY.md", *(ROOT / "benchmarks/results").glob("*.md")]


def anchors(document: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", document.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def run_commands() -> Iterator[str]:
    """Yield the arguments of each `run.py` command, with shell variables replaced."""
    for document in DOCUMENTS:
        variables: dict[str, str] = {}
        for line in document.read_text(encoding="utf-8").splitlines():
            variables |= dict(re.findall(r'^([A-Z_]+)="(.*)"$', line))
            for found in re.findall(r"run\.py (--config=configs/[a-z][^`|#]*)", line):
                yield Template(found).substitute(variables).strip()


@pytest.mark.parametrize("command", sorted(set(run_commands())))
def test_every_command_has_a_valid_configuration(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    argv = ["run.py", *shlex.split(command)]
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    values([arg for arg in argv if arg == "run.py" or arg.startswith("--config")])
    assert read_config(values.config).data.dataset in DATASETS  # ConfigError for a wrong setting


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_modules_exist(document):
    text = document.read_text(encoding="utf-8")
    modules = set(re.findall(r"python -m ((?:sslssaw_jax|tfds_builders|benchmarks)[\w.]*)", text))
    assert [name for name in sorted(modules) if importlib.util.find_spec(name) is None] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_no_table_became_a_paragraph(page):
    lines = page.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if "| --- |" in line and set(line) - set("|-: ")] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_to_files_and_sections_that_exist(page):
    links = re.findall(r"\]\(([^)#]*)(?:#([^)]+))?\)", page.read_text(encoding="utf-8"))
    for file, section in ((file, section) for file, section in links if "://" not in file):
        target = page.parent / file if file else page
        assert target.exists(), file
        assert not section or section in anchors(target), f"{file}#{section}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_no_page_names_a_folder_of_the_machine_on_which_it_was_written(page):
    assert re.findall(r"[\s=(`](/(?:home|root|work|mnt)/\S*)", page.read_text(encoding="utf-8")) == []


def test_the_page_of_the_tables_names_their_rows():
    text = (ROOT / "docs" / "tables.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| (\d) (?:and \d )?\| (.+) \|$", text, re.MULTILINE))
    for number, named in rows.items():
        experiments = [row["experiment"] for row in PAPER[number]["rows"]]
        assert re.findall(r"`(\w+)`", named) == experiments, (
            f"Table {number} in docs/tables.md and in paper.json"
        )
    assert list(rows) == ["1", *"34567"]


def test_the_page_of_the_systems_has_every_row_its_file_and_a_drawing_each():
    text = (ROOT / "docs" / "systems.md").read_text(encoding="utf-8")
    summary = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| [")]
    for _, rows, _, _, file in summary:
        path = ROOT / "docs" / re.findall(r"\((.+)\)", file)[0]
        assert path.is_file()
        systems = {OTHER_SYSTEMS.get(row, "ssl_ssaw") for row in re.findall(r"`(\w+)`", rows)}
        assert systems == {path.stem}
    named = {row for _, rows, *_ in summary for row in re.findall(r"`(\w+)`", rows)}
    assert named == {row["experiment"] for row in PAPER["1"]["rows"]} | set(OTHER_SYSTEMS)
    titles = re.findall(r"^### (.+)$", text, re.MULTILINE)
    assert len(re.findall(r"^```text$", text, re.MULTILINE)) == len(titles) + 1, "one is of all"


def test_drawings_are_small_and_of_characters_with_one_width():
    text = (ROOT / "docs" / "systems.md").read_text(encoding="utf-8")
    for drawing in re.findall(r"```text\n(.*?)\n```", text, re.DOTALL):
        lines = drawing.splitlines()
        assert drawing.isascii() and "\t" not in drawing
        assert len(lines) <= 6 and max(map(len, lines)) <= 110, lines[0]
