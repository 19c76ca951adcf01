"""Pages of HTML that need no other file, no network and no script."""

import base64
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from sslssaw_jax.workdir import DamagedFileError

_PICTURES = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}

_environment = Environment(
    loader=PackageLoader("sslssaw_jax.report"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(template: str, **context: Any) -> Markup:
    """Render a file of `templates/`; values are text unless `Markup`."""
    return Markup(_environment.get_template(template).render(context))


def data_uri(picture: Path) -> str:
    """Return a `data:` address that contains a PNG or JPEG file.

    Raises:
        DamagedFileError: The file is neither.
    """
    data = picture.read_bytes()
    media = next((media for begin, media in _PICTURES.items() if data.startswith(begin)), None)
    if media is None:
        raise DamagedFileError(f"{picture} is not a picture: delete it")
    return f"data:{media};base64,{base64.b64encode(data).decode()}"
