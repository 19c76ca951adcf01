"""What the groups of the configuration demand of their values."""

from sslssaw_jax.errors import UserError


class ConfigError(UserError):
    """The configuration cannot be; the message names the key and what is allowed."""


def require(ok: bool, message: str) -> None:
    if not ok:
        raise ConfigError(message)


def one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    require(value in allowed, f"{key} is {value!r}; allowed: {', '.join(allowed)}")


def require_fraction(key: str, value: float) -> None:
    require(0 <= value < 1, f"{key} is {value}; it lies in [0, 1)")


def require_divisor(key: str, heads: int, d_model: int) -> None:
    require(heads > 0 and d_model % heads == 0, f"{key} is {heads}; it must divide d_model {d_model}")
