"""Learning-rate factors of modules by path prefix, such as `video.cnn`; 0 freezes a module."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import jax

from sslssaw_jax.config.checks import ConfigError, require

RateFactors = Mapping[str, float]  # by path


def factor_at(factors: RateFactors, path: Iterable[Any]) -> float:
    """Return the factor of the longest known prefix, otherwise 1."""
    name = ".".join(map(str, path))
    prefixes = [prefix for prefix in factors if f"{name}.".startswith(f"{prefix}.")]
    return factors[max(prefixes, key=len)] if prefixes else 1.0


def factor_tree(factors: RateFactors, params: Any) -> Any:
    """Return the factor of each parameter as a tree like `params`."""
    return jax.tree.map_with_path(lambda path, _: factor_at(factors, _names(path)), params)


def check_rate_factors(factors: RateFactors, params: Any, modules: Collection[str] = ()) -> None:
    """Raise ConfigError for an unknown path, or if nothing trains.

    Args:
        factors: The factors by path.
        params: The model's parameters.
        modules: All modules of the model; one that reads features has no parameters, and any path in it is
            known.
    """
    names = [tuple(map(str, _names(path))) for path, _ in jax.tree.leaves_with_path(params)]
    for prefix in factors:
        parts = tuple(prefix.split("."))
        if parts[0] in modules and all(name[0] != parts[0] for name in names):
            continue
        if any(name[: len(parts)] == parts for name in names):
            continue
        above = parts[:-1]
        while not any(name[: len(above)] == above != name for name in names):
            above = above[:-1]
        below = dict.fromkeys(name[len(above)] for name in names if name[: len(above)] == above)
        where = ".".join(above) or "the model"
        raise ConfigError(f"optim.groups has {prefix!r}; {where} has {', '.join(below)}")
    require(any(jax.tree.leaves(factor_tree(factors, params))), "optim.groups freezes the whole model")


def _names(path: Iterable[Any]) -> list[Any]:
    """Return the names and numbers in a JAX path."""
    return [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
