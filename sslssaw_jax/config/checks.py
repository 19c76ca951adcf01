"""Settings that define in one place which values they allow and what depends on them."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from sslssaw_jax.errors import UserError

T = TypeVar("T")
Group = TypeVar("Group")


class ConfigError(UserError):
    """A configuration that cannot be used; the message names the key and what is allowed."""


@dataclass(frozen=True)
class Range:
    """The numbers that a setting allows, and the words for them in a message."""

    low: float
    high: float
    includes_low: bool
    includes_high: bool
    rule: str  # completes "KEY is VALUE; it must ..."

    def __contains__(self, value: float) -> bool:
        above = value >= self.low if self.includes_low else value > self.low
        return above and (value <= self.high if self.includes_high else value < self.high)


POSITIVE = Range(0, float("inf"), False, False, "be positive")
NON_NEGATIVE = Range(0, float("inf"), True, False, "not be negative")
FRACTION = Range(0, 1, True, False, "lie in [0, 1)")
SHARE = Range(0, 1, False, True, "lie in (0, 1]")


def setting(
    default: T,
    allowed: Range | None = None,
    *,
    stages: tuple[str, ...] | None = None,
    free: bool = False,
    scored: bool = False,
) -> T:
    """Return a dataclass field that carries its rules.

    Args:
        default: The value unless a configuration gives another.
        allowed: The numbers that the converter accepts.
        stages: The stages whose result depends on this setting; None means all.
        free: Whether the setting may change between two runs in one workdir.
        scored: Whether a free setting changes the translations of a trained model.
    """
    metadata = {"allowed": allowed, "stages": stages, "free": free, "scored": scored}
    return dataclasses.field(default=default, metadata=metadata)  # type: ignore[return-value]


def positive(default: T, *, free: bool = False) -> T:
    """Return a field for a number above 0."""
    return setting(default, POSITIVE, free=free)


def non_negative(default: T, *, free: bool = False) -> T:
    """Return a field for a number of 0 or more."""
    return setting(default, NON_NEGATIVE, free=free)


def fraction(default: T) -> T:
    """Return a field for a number from 0 to below 1."""
    return setting(default, FRACTION)


def group(
    cls: Callable[[], Group],
    *,
    stages: tuple[str, ...] | None = None,
    free: bool = False,
    scored: bool = False,
) -> Group:
    """Return a field for a group; arguments as in `setting`."""
    metadata = {"stages": stages, "free": free, "scored": scored}
    return dataclasses.field(default_factory=cls, metadata=metadata)  # type: ignore[return-value]


def require(ok: bool, message: str) -> None:
    """Raise ConfigError with the message unless `ok`."""
    if not ok:
        raise ConfigError(message)


def require_divisor(key: str, heads: int, d_model: int) -> None:
    """Raise ConfigError unless the number of heads divides `d_model`."""
    require(heads > 0 and d_model % heads == 0, f"{key} is {heads}; it must divide d_model {d_model}")


def check_range(field: "dataclasses.Field[Any]", value: Any, path: str) -> None:
    """Raise ConfigError if a number lies outside the range of its field."""
    allowed = field.metadata.get("allowed")
    if allowed is not None:
        require(value in allowed, f"{path} is {value}; it must {allowed.rule}")
