"""Pages of HTML that need no other file, no network and no script."""

import base64
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

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
    """Return the address that holds a PNG or JPEG file itself."""
    media = "png" if picture.suffix == ".png" else "jpeg"
    return f"data:image/{media};base64,{base64.b64encode(picture.read_bytes()).decode()}"
