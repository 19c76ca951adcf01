"""The settings on the command line, and one message for each mistake there."""

import difflib
import re
import runpy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections

from sslssaw_jax.config.checks import ConfigError


def check_config_file(arguments: Sequence[str], root: Path) -> None:
    """Raise ConfigError unless the arguments name a configuration file.

    Args:
        arguments: Of the command line, without the program.
        root: The folder that holds `configs/`.
    """
    if any(argument.lstrip("-").startswith("help") for argument in arguments):
        return
    files = sorted(path for path in (root / "configs").glob("*.py") if "def get_config" in path.read_text())
    known = f"there are configs/{', configs/'.join(path.name for path in files)}"
    value = _config_argument(arguments)
    bare = [
        argument for argument in arguments if re.match(r"[^-].*\.py(:|$)", argument) and argument != value
    ]
    if bare and not value:
        raise ConfigError(f"{bare[0]}: put --config= before it: --config={bare[0]}")
    if not value:
        raise ConfigError(f"--config names no file; {known}")
    name, _, variant = value.partition(":")
    path = Path(name)
    if not path.is_file():
        near = difflib.get_close_matches(path.stem, [file.stem for file in files], n=1)
        hint = f"did you mean --config=configs/{near[0]}.py? " if near else ""
        place = f"; run from the folder {root}" if (root / "pyproject.toml").is_file() else ""  # in a clone
        raise ConfigError(f"--config={value}: no such file; {hint}{known}{place}")
    if variant and re.search(r"def get_config\(\)", path.read_text(encoding="utf-8")):
        raise ConfigError(f"{name} has no variants: leave :{variant} out")
    _check_system(arguments, root)


def _check_system(arguments: Sequence[str], root: Path) -> None:
    """Raise ConfigError if a flag names another system than the file's."""
    named = [match[1] for argument in arguments if (match := re.match(r"--?config\.system=(.*)", argument))]
    tree = read_config_file(arguments) if named else None
    systems = [path.stem for path in (root / "sslssaw_jax" / "systems").glob("*.py")]
    if tree and tree.system != named[-1] and named[-1] in systems:
        own = "question_only.py" if named[-1] == "question_only" else f"ablations.py:BASE/{named[-1]}"
        raise ConfigError(
            f"--config.system={named[-1]}: a system has its own configuration, and this file is for "
            f"{tree.system}: use --config=configs/{own}"
        )


def read_config_file(arguments: Sequence[str]) -> ml_collections.ConfigDict | None:
    """Return the configuration that the arguments name, without changes by flags."""
    name, *variant = _config_argument(arguments).split(":", 1)
    try:
        return runpy.run_path(name)["get_config"](*variant)
    except Exception:  # absl has already reported it
        return None


def _config_argument(arguments: Sequence[str]) -> str:
    """Return the value of `--config=FILE` or `--config FILE`, otherwise ""."""
    pairs = zip(arguments, [*arguments[1:], ""])
    values = [following for argument, following in pairs if argument in ("--config", "-config")]
    values += [match[1] for argument in arguments if (match := re.match(r"--?config=(.*)", argument))]
    return values[-1] if values else ""


def explain_flags(error: Exception, arguments: Sequence[str], tree: ml_collections.ConfigDict | None) -> str:
    """Return one message for flags that absl or ml_collections refuses.

    Args:
        error: The error that was raised.
        arguments: Of the command line, without the program.
        tree: The configuration, if the file could be read.
    """
    keys = list(_keys(tree.to_dict(), "config")) if tree is not None else []
    for argument in arguments:
        flag = re.match(r"--?([\w.]+)", argument)
        if not flag or not keys:
            continue
        key, unknown = flag[1], f"Unknown command line flag '{flag[1]}'" in str(error)
        if unknown or (
            key.startswith("config.") and not any(k == key or k.startswith(f"{key}.") for k in keys)
        ):
            near = _nearest(key, keys)
            hint = f"; did you mean --{' or --'.join(near)}?" if near else _members(key, keys)
            return f"--{key} is unknown{hint}"
    message = error.args[0] if isinstance(error, KeyError) else error
    return str(message).strip()


def _keys(values: Mapping[str, Any], path: str) -> Iterator[str]:
    """Yield the dotted names of all settings."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _keys(value, f"{path}.{name}")
        else:
            yield f"{path}.{name}"


def _members(key: str, keys: Sequence[str]) -> str:
    """Return a hint that lists the group of an unknown key."""
    group = f"{key.rpartition('.')[0]}."
    names = dict.fromkeys(k.removeprefix(group).split(".")[0] for k in keys if k.startswith(group))
    return f"; known in {group[:-1]}: {', '.join(names)}" if names else ""


def _nearest(key: str, keys: Sequence[str]) -> list[str]:
    """Return the settings that an unknown key may mean."""
    parts = key.removeprefix("config.").split(".")
    endings = {
        known: ".".join(known.split(".")[-len(parts) :])
        for known in keys
        if _resembles(parts, known.split("."))
    }
    best = difflib.get_close_matches(".".join(parts), endings.values(), n=1, cutoff=0)
    return [known for known, ending in endings.items() if ending in best][-6:]


def _resembles(parts: Sequence[str], known: Sequence[str]) -> bool:
    """Return whether parts resemble those of a setting, in order.

    The last must resemble the last. Each part alone must be close: in a whole name, groups in common outweigh
    the part that is wrong.
    """
    rest = iter(known)
    return _is_close(parts[-1], known[-1]) and all(
        any(_is_close(part, other) for other in rest) for part in parts
    )


def _is_close(part: str, known: str) -> bool:
    return difflib.SequenceMatcher(None, part, known).ratio() > 0.7
