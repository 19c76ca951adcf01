"""The code keeps its rules: imports run one way, and docstrings say in a few words what a function does."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Each room imports from its own modules and from lower floors.
FLOORS: list[set[str]] = [
    {"errors"},
    {"types", "workdir"},
    {"config"},
    {"data", "models"},
    {"stages"},
    {"systems"},
    {"training"},
    {"weights", "evaluation"},
    {"report"},
    {"evaluator", "inference"},
    {"experiment", "configs"},
    {"run", "tables"},
    {"__init__", "__main__"},
]
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
TOP_FILES = {
    "__init__.py",
    "__main__.py",
    "types.py",
    "workdir.py",
    "errors.py",
    "evaluator.py",
}
BUILDERS_MAY_IMPORT = {"data", "errors", "workdir"}
OURS = {"sslssaw_jax", "tfds_builders", "configs", "benchmarks", "tests", "run"}

MAX_WORDS = 12


def modules(*places: str) -> list[Path]:
    """List the Python files in folders and files, without tests."""
    paths = [ROOT / place for place in places]
    files = [file for path in paths for file in (path.rglob("*.py") if path.is_dir() else [path])]
    return sorted(file for file in files if not file.name.endswith("_test.py"))


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and full name of each of our modules that a file imports, even inside functions."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            source = ".".join(base + ([node.module] if node.module else []))
            names = [source] if "." in source else [f"{source}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from ((node.lineno, name) for name in names if name.split(".")[0] in OURS)


def room(name: str) -> str:
    """Return the room of a module: the part after `sslssaw_jax.`, otherwise the first part."""
    first, *rest = name.split(".")
    return rest[0] if first == "sslssaw_jax" and rest else first


def test_imports_run_one_way() -> None:
    wrong = []
    for path in modules("sslssaw_jax", "run.py"):
        where = path.relative_to(ROOT)
        here = room(".".join(where.with_suffix("").parts))
        for line, name in imported(path):
            there = room(name)
            if there != here and FLOOR_OF.get(there, len(FLOORS)) >= FLOOR_OF[here]:
                wrong.append(f"{where}:{line}: {here} imports {name}")
    assert not wrong, "imports from the same floor or a higher one:\n" + "\n".join(wrong)


def test_builders_know_texts_errors_and_file_writing_alone() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in modules("tfds_builders")
        for line, name in imported(path)
        if not name.startswith("tfds_builders") and room(name) not in BUILDERS_MAY_IMPORT
    ]
    assert not wrong, "\n".join(wrong)


def test_only_packages_and_the_named_files_lie_at_the_top() -> None:
    top = [path for path in (ROOT / "sslssaw_jax").iterdir() if path.name != "__pycache__"]
    assert {path.name for path in top if path.is_file()} == TOP_FILES
    folders = [path for path in top if path.is_dir()]
    assert all((path / "__init__.py").exists() for path in folders)
    elsewhere = {"run", "configs"} | {Path(file).stem for file in TOP_FILES}
    assert {path.name for path in folders} == set(FLOOR_OF) - elsewhere


def summaries() -> Iterator[tuple[str, str]]:
    """Yield the place and the docstring's first line of each function that has one."""
    for path in modules("sslssaw_jax", "tfds_builders", "benchmarks", "configs", "run.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and (text := ast.get_docstring(node)):
                yield f"{path.relative_to(ROOT)}:{node.lineno}: {node.name}", text.splitlines()[0]


def test_first_lines_of_docstrings_are_short() -> None:
    wrong = [f"{where}: {line}" for where, line in summaries() if len(line.split()) > MAX_WORDS]
    assert not wrong, f"{len(wrong)} have more than {MAX_WORDS} words:\n" + "\n".join(wrong)
