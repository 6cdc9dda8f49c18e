"""A report as one HTML file: words, tables and pictures, with nothing beside it to lose."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fewstep.lazy import optional
from fewstep.output.files import write_text

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>fewstep: {{ title }}</title>
<style>
 body { font: 16px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; color: #181818 }
 table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin-top: 1.5rem }
 caption { text-align: left; white-space: nowrap; font-weight: 600; padding-bottom: .25rem }
 th, td { padding: .25rem .8rem; text-align: right; border-bottom: 1px solid #ddd }
 .name { text-align: left } td:not(.name) { white-space: nowrap } .best { font-weight: 700; background: #e8f3fb }
 img { max-width: 100%; margin-top: 1.5rem } .note { color: #555 }
</style>
<h1>{{ title }}</h1>
{% for text in words %}<p>{{ text }}</p>
{% endfor %}
{%- for table in tables %}<table>
{%- if table.caption %}<caption>{{ table.caption }}</caption>{% endif %}
<tr>{% for cell in table.head %}<th{% if loop.index0 < table.names %} class="name"{% endif %}>{{ cell }}{% endfor %}</tr>
{% for row in table.rows %}{% set i = loop.index0 %}<tr>
{%- for cell in row %}<td{% if loop.index0 < table.names %} class="name"
{%- elif (i, loop.index0) in table.best %} class="best"{% endif %}>{{ cell }}{% endfor %}</tr>
{% endfor %}</table>
{% endfor %}
{%- for name, data in pictures %}<img alt="{{ name }}" src="data:image/png;base64,{{ data }}">
{% endfor %}{% for text in notes %}<p class="note">{{ text }}</p>
{% endfor %}</html>
"""


@dataclass(frozen=True)
class Table:
    """Cells as text; the first `names` columns are aligned left, the (row, column) pairs in `best` are marked."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    names: int = 1
    best: frozenset[tuple[int, int]] = frozenset()
    caption: str = ""

    def text(self) -> str:
        """Aligned columns for a terminal: names to the left, numbers to the right, a star at the marked cells."""
        lines = [list(self.head), *map(list, self.rows)]
        for i, line in enumerate(lines if self.best else []):
            line[self.names :] = [
                cell + ("*" if (i - 1, j) in self.best else " ")
                for j, cell in enumerate(line[self.names :], self.names)
            ]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        sides = [str.ljust] * self.names + [str.rjust] * (len(widths) - self.names)
        aligned = [
            "  ".join(side(cell, width) for side, cell, width in zip(sides, line, widths, strict=True)).rstrip()
            for line in lines
        ]
        return "\n".join([self.caption] * bool(self.caption) + aligned)


def write_page(
    path: Path,
    title: str,
    words: Sequence[str] = (),
    tables: Sequence[Table] = (),
    pictures: Sequence[Path] = (),
    notes: Sequence[str] = (),
) -> None:
    """Write the page whole; `pictures` are PNG files, put inside it."""
    with optional("a page"):
        from jinja2 import Environment

    page = Environment(autoescape=True).from_string(_PAGE)
    html = page.render(
        title=title,
        words=words,
        tables=tables,
        pictures=[(p.stem, base64.b64encode(p.read_bytes()).decode()) for p in pictures],
        notes=notes,
    )
    write_text(path, html)
