"""A comparison as one HTML file: the table, the curves and the sheet, with nothing beside it to lose."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fewstep.files import whole

from .compare import Curve

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>fewstep: {{ about.model }}</title>
<style>
 body { font: 16px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; color: #181818 }
 table { border-collapse: collapse; font-variant-numeric: tabular-nums }
 th, td { padding: .25rem .8rem; text-align: right; border-bottom: 1px solid #ddd }
 th:first-child, td:first-child, th:nth-child(2), td:nth-child(2) { text-align: left }
 .best { font-weight: 700; background: #e8f3fb } img { max-width: 100%; margin-top: 1.5rem }
</style>
<h1>Solvers on {{ about.model }}</h1>
<p>RMSE per image to {{ about.reference }} on shared noise, mean of {{ about.images }} images (seeds from
{{ about.seed }}). The best of each column is marked.</p>
<table><tr><th>solver<th>grid{% for n in nfes %}<th>{{ n }}{% endfor %}</tr>
{% for row in rows %}<tr><td>{{ row.solver }}<td>{{ row.grid }}
{%- for e in row.rmse %}<td{% if e == best[loop.index0] %} class="best"{% endif %}>{{ "%.5f" | format(e) }}{% endfor %}</tr>
{% endfor %}</table>
{% for name, data in pictures %}<img alt="{{ name }}" src="data:image/png;base64,{{ data }}">
{% endfor %}</html>
"""


def write_report(path: Path, rows: Sequence[Curve], pictures: Sequence[Path], about: dict[str, Any]) -> None:
    """Write the page whole; `pictures` are PNG files, put inside it. about: model, images, seed, reference."""
    from jinja2 import Environment

    page = Environment(autoescape=True).from_string(_PAGE)
    html = page.render(
        about=about,
        rows=rows,
        nfes=rows[0].nfes,
        best=[min(row.rmse[j] for row in rows) for j in range(len(rows[0].nfes))],
        pictures=[(p.stem, base64.b64encode(p.read_bytes()).decode()) for p in pictures],
    )
    with whole(path) as temporary:
        temporary.write_text(html)
