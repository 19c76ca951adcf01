"""What pip installs, from pyproject.toml and from the requirement files."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT, SETUPTOOLS = PYPROJECT["project"], PYPROJECT["tool"]["setuptools"]


def requirements(name: str) -> list[str]:
    """Return the lines of a requirement file without comments and options."""
    lines = (line.split("#")[0].strip() for line in (ROOT / name).read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("-r")]


def test_requirements_are_the_dependencies():
    assert requirements("requirements.txt") == PROJECT["dependencies"]


def test_development_requirements_are_the_extra_dev():
    assert requirements("requirements-dev.txt") == PROJECT["optional-dependencies"]["dev"]


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
