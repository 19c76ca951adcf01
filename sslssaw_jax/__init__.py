"""Question-based sign language translation (SSL-SSAW) in JAX and Flax."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sslssaw_jax.inference.translator import Answer as Answer
    from sslssaw_jax.inference.translator import Translator as Translator

__version__ = "0.2.0.dev0"


def __getattr__(name: str) -> Any:
    """Import `Translator` on first use, since the import takes seconds."""
    if name in ("Answer", "Translator"):
        from sslssaw_jax.inference import translator

        return getattr(translator, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
