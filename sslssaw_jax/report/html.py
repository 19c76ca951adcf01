"""Pages of HTML that need nothing beside them: no network, no script, no other file."""

import base64
import html
from collections.abc import Sequence
from pathlib import Path
from string import Template

_TEMPLATE = Template((Path(__file__).parent / "templates" / "page.html").read_text(encoding="utf-8"))


def page(title: str, body: str) -> str:
    """A whole page; `title` is text, `body` is HTML."""
    return _TEMPLATE.substitute(title=html.escape(title), body=body)


def texts_table(caption: str, rows: Sequence[tuple[str, str]]) -> str:
    """A name and a text a row: caption and names are text, the others HTML."""
    lines = [f"<tr><th>{html.escape(name)}</th><td>{text}</td></tr>" for name, text in rows]
    return f'<table class="texts"><caption>{html.escape(caption)}</caption>{"".join(lines)}</table>'


def figures_table(head: Sequence[str], groups: Sequence[tuple[str, Sequence[Sequence[str]]]]) -> str:
    """Columns of figures in a box that scrolls where they are too wide; the first column names the row.

    Args:
        head: the columns' names, text; "" for the first.
        groups: a heading (text) and rows of cells of HTML, at most as many as the head has; the first row
            stands out.
    """
    lines = [f"<thead><tr>{''.join(f'<th>{html.escape(name)}</th>' for name in head)}</tr></thead>"]
    for heading, rows in groups:
        title = f'<th colspan="{len(head)}">{html.escape(heading)}</th>'
        lines.append(f'<tbody><tr class="group">{title}</tr>')
        for place, (name, *cells) in enumerate(rows):
            mark = ' class="first"' if place == 0 else ""
            shown = "".join(f"<td>{cell}</td>" for cell in [*cells, *[""] * (len(head) - 1 - len(cells))])
            lines.append(f"<tr{mark}><th>{name}</th>{shown}</tr>")
        lines.append("</tbody>")
    return f'<div class="scroll" tabindex="0"><table class="figures">{"".join(lines)}</table></div>'


def picture(path: Path, alt: str, kind: str) -> str:
    """The PNG or JPEG file at `path`, inside the page; `kind` is its class in the style sheet."""
    media = "png" if path.suffix == ".png" else "jpeg"
    data = base64.b64encode(path.read_bytes()).decode()
    source = f"data:image/{media};base64,{data}"
    return (
        f'<div class="scroll picture" tabindex="0">'
        f'<img class="{kind}" alt="{html.escape(alt)}" src="{source}"></div>'
    )
