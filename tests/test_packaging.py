"""What pip installs, from pyproject.toml and from the requirement files."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT, SETUPTOOLS = PYPROJECT["project"], PYPROJECT["tool"]["setuptools"]


def requirements(name: str) -> list[str]:
    """Return the lines of a requirement file without comments and options."""
    lines = (line.split("#")[0].strip() for line in (ROOT / name).read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("-r")]


def pypi_name(requirement: str) -> str:
    """Return the name of a required project, in PyPI's spelling."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement)[0]).lower()


def imported(file: Path) -> set[str]:
    """Return the packages that a module imports, anywhere in it."""
    nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    return {name.partition(".")[0] for name in names}


def test_requirements_are_the_dependencies():
    assert requirements("requirements.txt") == PROJECT["dependencies"]


def test_development_requirements_are_the_extra_dev():
    assert requirements("requirements-dev.txt") == PROJECT["optional-dependencies"]["dev"]


def test_every_package_that_is_imported_is_declared():
    extras = PROJECT["optional-dependencies"]
    declared = {pypi_name(line) for line in [*PROJECT["dependencies"], *extras["app"], *extras["trackers"]]}
    projects = packages_distributions()
    own = [pattern.removesuffix("*") for pattern in SETUPTOOLS["packages"]["find"]["include"]]
    files = [ROOT / "run.py", *(file for name in own for file in (ROOT / name).rglob("*.py"))]
    for file in files:
        if not file.name.endswith("_test.py"):
            for name in imported(file) - sys.stdlib_module_names - {*own}:
                assert declared & {pypi_name(project) for project in projects.get(name, [name])}, (file, name)


def test_the_wheel_holds_every_file_of_the_packages():
    packages = [ROOT / pattern.removesuffix("*") for pattern in SETUPTOOLS["packages"]["find"]["include"]]
    files = {file for package in packages for file in package.rglob("*") if file.is_file()}
    modules = {file for file in files if (file.parent / "__init__.py").exists() and file.suffix == ".py"}
    data = {
        file
        for init in files
        if init.name == "__init__.py"
        for pattern in SETUPTOOLS["package-data"]["*"]
        for file in init.parent.glob(pattern)
    }
    assert {file for file in files if "__pycache__" not in file.parts} == modules | data
