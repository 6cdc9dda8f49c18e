"""Titles and names in pictures are text, whatever is in them."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from fewstep.eval import Curves, Report, Result
from fewstep.eval.report.curve_points import Point
from fewstep.output.pictures import Line, plot_lines


@pytest.mark.parametrize("text", ["$", "a$b$", r"$\frac{", "$$", r"\$5$", "_name", "größe", "a\nb", "%d {x}"])
def test_any_title_is_drawn(tmp_path: Path, text: str) -> None:
    lines = [Line(text, [4, 8], [0.5, 0.25]), Line("other", [4, 8], [0.6, 0.3])]
    plot_lines(lines, tmp_path / "a.png", text, text, text)
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width > 100


def test_a_title_with_dollars_is_not_a_formula(tmp_path: Path) -> None:
    """It is as wide as its letters: a formula would lose the signs."""
    drawn = []
    for text in ("a$b$", "a b "):
        plot_lines([Line("x", [4, 8], [0.5, 0.25])], tmp_path / "a.png", text, "y")
        drawn.append((tmp_path / "a.png").read_bytes())
    assert drawn[0] != drawn[1]


def test_a_page_of_a_model_with_such_a_name(tmp_path: Path) -> None:
    points = [Point(r"my$\x$", n, Report([Result("rmse", 1 / n, n=4, groups=(0.1, 0.2 / n))])) for n in (4, 8)]
    written = Curves(points, {"model": "cost$_{<b>}$"}).write(tmp_path / "out")
    assert all(path.exists() for path in written)
    assert "cost$_{&lt;b&gt;}$" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
