"""The page of a comparison: everything in it, nothing from outside, and it works in a real browser."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from browser import opened
from compared import comparison
from places import ROOT

from fewstep.output.comparison_page import THEMES, write_comparison_page
from fewstep.output.ranked_tables import ranked_tables, ranking

HOSTILE = '</script><img src=x onerror="document.body.dataset.hacked=1"><!--\u2028 & "\''
PARTS = ROOT / "fewstep" / "output" / "comparison"


class Read(HTMLParser):
    """Tags with attributes, the text that is seen, and the data."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.seen, self.inside, self.data = "", "", ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = tag if tag in ("script", "style") else self.inside

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "script" and self.tags[-1][1].get("id") == "data":
            self.data += data
        elif not self.inside:
            self.seen += data


def written(folder: Path, data: dict[str, Any], theme: str = "auto") -> Path:
    path = folder / "page.html"
    write_comparison_page(path, data, theme)
    return path


def read(folder: Path, data: dict[str, Any], theme: str = "auto") -> Read:
    return Read(written(folder, data, theme).read_text(encoding="utf-8"))


def hostile(data: dict[str, Any]) -> dict[str, Any]:
    """The same with texts that try to leave their places."""
    data["title"] += HOSTILE
    data["model"] += HOSTILE
    data["entrants"][0] = {**data["entrants"][0], "label": HOSTILE, "solver": HOSTILE, "grid": HOSTILE}
    data["advice"][0] = {**data["advice"][0], "best": HOSTILE, "text": f"at best {HOSTILE} or so", "line": HOSTILE}
    data["settings"].append([HOSTILE, HOSTILE])
    data["notes"].append(HOSTILE)
    return {**data, "command": HOSTILE, "versions": HOSTILE}


def test_everything_is_there(tmp_path: Path) -> None:
    data = comparison(12, pictured=2)
    page = read(tmp_path, data)
    inside = json.loads(page.data)
    assert inside == {**json.loads(json.dumps(data), parse_float=lambda x: float(f"{float(x):.7g}")),
                      "nfes": inside["nfes"], "orders": inside["orders"]}  # fmt: skip
    texts = [data["title"], data["command"], data["versions"], data["reference"]["text"], *data["notes"]]
    texts += [text for pair in data["settings"] for text in pair]
    texts += [text for a in data["advice"] for text in (a["line"], a["text"].partition(": ")[2])]
    texts += [entrant["label"] for entrant in data["entrants"]] + [metric["title"] for metric in data["metrics"]]
    flat = " ".join(page.seen.split())
    assert not [text for text in texts if text not in flat]


def test_labels_stay_labels(tmp_path: Path) -> None:
    data = hostile(comparison(3, (4, 8), pictured=1))
    page = read(tmp_path, data)
    assert json.loads(page.data)["entrants"][0]["label"] == HOSTILE and "<" not in page.data
    assert not [tag for tag, attributes in page.tags if tag == "img" or "onerror" in attributes]
    assert page.seen.count(HOSTILE) >= 10


def test_nothing_from_outside(tmp_path: Path) -> None:
    path = written(tmp_path, comparison(6, (4, 8)))
    text = path.read_text(encoding="utf-8")
    assert "http://" not in text and "https://" not in text and "@import" not in text and "url(" not in text
    addresses = [a[name] for _, a in Read(text).tags for name in ("src", "href") if name in a]
    assert addresses and all(address and address.startswith(("#", "data:")) for address in addresses)
    for script in PARTS.glob("*.js"):
        found = re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|fetch\(", script.read_text())
        assert not found, f"{script.name}: {found}"


def test_parts_can_be_read_in_one_sitting() -> None:
    lengths = {path.name: len(path.read_text().splitlines()) for path in PARTS.iterdir() if path.is_file()}
    assert max(lengths.values()) <= 300, lengths


@pytest.mark.parametrize("theme", THEMES)
def test_themes(tmp_path: Path, theme: str) -> None:
    assert read(tmp_path, comparison(2, (4, 8)), theme).tags[0] == ("html", {"lang": "en", "data-theme": theme})


def test_an_unknown_theme_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no theme 'sepia'; choose auto .*, light or dark"):
        written(tmp_path, comparison(2, (4, 8)), "sepia")
    assert not list(tmp_path.iterdir())


def test_size_without_images(tmp_path: Path) -> None:
    assert written(tmp_path, comparison(40, pictured=0)).stat().st_size < 400_000


def test_what_is_not_finite_or_missing_is_said(tmp_path: Path) -> None:
    data = comparison(3, (4, 8), pictured=0)
    data["points"][0]["values"]["rmse"].update(value=float("inf"), low=None, high=float("nan"), apart=None)
    data["points"][1].update(seconds=None, memory=None)
    del data["points"][2]["values"]["fd"]
    data["steps"][0]["lam"][-1] = float("inf")
    page = read(tmp_path, data)
    assert "not finite" in page.seen and "–" in page.seen and "NaN" not in page.data and "Infinity" not in page.data


def test_a_page_of_little(tmp_path: Path) -> None:
    """Without advice, images, steps, costs and notes their parts are not there."""
    data = comparison(2, (4, 8), pictured=0)
    data.update(advice=[], steps=[], notes=[], reference={"text": "", "shift": None, "images": []}, images=[])
    for point in data["points"]:
        point.update(seconds=None, memory=None)
    page = read(tmp_path, data)
    ids = {attributes.get("id") for _, attributes in page.tags}
    assert not ids & {"advice", "samples", "zoom", "steps"} and {"figures", "curves", "settings"} <= ids
    assert "milliseconds" not in page.seen and "Reference" not in page.seen


def test_ranking_is_by_mean_place_and_who_is_missing_is_last() -> None:
    data = comparison(3, (4, 8, 16), pictured=0)
    for point in data["points"]:
        point["values"]["rmse"]["value"] = [3.0, 1.0, 0.5][point["entrant"]]
    (rmse, _) = data["metrics"]
    assert ranking(data, rmse) == [2, 1, 0]
    assert ranking(data, {**rmse, "higher": True}) == [0, 1, 2]
    data["points"] = [point for point in data["points"] if point["entrant"] != 2 or point["nfe"] == 4]
    assert ranking(data, rmse) == [1, 2, 0]


def test_figures_are_as_precise_as_their_intervals() -> None:
    data = comparison(2, (4,), pictured=0)
    for point, value, half in zip(data["points"], (0.12345, 0.5), (0.0123, 0.0009), strict=True):
        point["values"]["rmse"].update(value=value, low=value - half, high=value + half, marked=False)
    first, *_ = ranked_tables(data)
    assert [(row.cells[0].text, row.cells[0].half) for row in first.rows] == [("0.123", "0.012"), ("0.5000", "0.0009")]
    assert first.rows[0].cells[0].key == "0.12345"


# What the browser is asked: rows in sight, then after sorting, filtering, another metric, a walk along the curves.
DRIVEN = """
const rows = () => [...document.querySelectorAll("[data-table]:not([hidden]) tbody tr:not([hidden])")];
const lines = () => document.querySelectorAll("#plot .line").length;
const found = {first: rows().length, lines: lines(), wide: document.body.scrollWidth, inner: innerWidth};
const head = document.querySelectorAll("[data-table]:not([hidden]) thead th")[2];
const keys = () => rows().map((row) => row.cells[2].dataset.v).filter(Boolean).map(Number);
head.querySelector("button").click();
[found.up, found.sorted] = [keys(), head.getAttribute("aria-sort")];
head.querySelector("button").click();
[found.down, found.again] = [keys(), head.getAttribute("aria-sort")];
document.getElementById("only-best").click();
found.all = rows().length;
const find = document.getElementById("find");
find.value = "KARRAS deis";
find.dispatchEvent(new Event("input"));
found.few = rows().map((row) => row.querySelector(".label").textContent);
found.fewLines = lines();
find.value = "";
find.dispatchEvent(new Event("input"));
document.querySelector('[data-kind="fixed"]').click();
found.kinds = [...new Set(rows().map((row) => row.querySelector(".kind").textContent))].sort();
document.querySelector('[data-kind="fixed"]').click();
const metric = document.getElementById("metric");
metric.value = "1";
metric.dispatchEvent(new Event("change"));
found.caption = document.querySelector("[data-table]:not([hidden]) caption").textContent;
document.querySelector('[data-axis="seconds"]').click();
const plot = document.getElementById("plot");
plot.focus();
plot.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowRight", bubbles: true}));
found.tip = document.getElementById("tip").textContent;
found.hot = document.querySelectorAll("tr.hot").length;
rows()[3].dispatchEvent(new PointerEvent("pointerover", {bubbles: true}));
found.pair = [rows()[3].dataset.entrant, document.querySelector("#plot .line.hot").dataset.entrant];
frameElement.width = 700;
await new Promise((done) => setTimeout(done, 500));
found.drawn = plot.viewBox.baseVal.width - plot.clientWidth;
const copy = document.querySelector(".copy");
copy.click();
found.copied = copy.textContent;
found.hacked = document.body.dataset.hacked ?? null;
return found;
"""


def test_it_works_in_a_browser_on_a_phone(tmp_path: Path) -> None:
    data = comparison(40, pictured=3)
    data["title"] += HOSTILE
    data["entrants"][2] = {**data["entrants"][2], "label": HOSTILE}
    page = opened(written(tmp_path, data), tmp_path, DRIVEN, (360, 800))
    assert page.root.get("ready") == "true" and "errors" not in page.root, page.root
    assert page.console == []
    found = page.result
    assert found["inner"] == 360 and found["wide"] <= 360
    assert 12 <= found["first"] < 25 and found["lines"] == found["first"] and found["all"] == 40
    assert found["up"] == sorted(found["up"]) and found["sorted"] == "ascending"
    assert found["down"] == sorted(found["up"], reverse=True) and found["again"] == "descending"
    assert found["few"] == ["deis on karras"] and found["fewLines"] == 1
    assert found["kinds"] == ["learned", "stochastic"]
    assert found["caption"] == data["metrics"][1]["title"]
    assert "RMSE" in found["tip"] and "ms" in found["tip"] and found["hot"] > 0
    assert found["pair"][0] == found["pair"][1]
    assert abs(found["drawn"]) < 2, "drawn anew when the page becomes wider"
    assert found["copied"] in ("Copied", "Selected")
    assert found["hacked"] is None


@pytest.mark.slow
@pytest.mark.parametrize(("width", "theme"), [(360, "dark"), (800, "light"), (1400, "auto")])
@pytest.mark.parametrize("make", ["few", "many", "bare"])
def test_every_width_and_size(tmp_path: Path, width: int, theme: str, make: str) -> None:
    data = {
        "few": lambda: comparison(2, (5, 10), pictured=1, seeds=1),
        "many": lambda: hostile(comparison(200, (4, 5, 6, 8, 10, 12, 15, 20))),
        "bare": lambda: {**comparison(40, pictured=0), "advice": [], "steps": []},
    }[make]()
    script = """const begun = performance.now(); document.getElementById("only-best").click();
    return {wide: document.body.scrollWidth, inner: innerWidth, took: performance.now() - begun}"""
    page = opened(written(tmp_path, data, theme), tmp_path, script, (width, 900))
    assert page.root.get("ready") == "true" and "errors" not in page.root, page.root
    assert page.console == []
    assert page.result["inner"] == width and page.result["wide"] <= width
    assert page.result["took"] < 3000


ZOOMED = """
const wait = () => new Promise((done) => setTimeout(done, 200));
const dialog = document.getElementById("zoom"), title = () => document.getElementById("zoom-title").textContent;
document.querySelector("#sheet button").click();
await wait();
const found = {open: dialog.open, titles: [title()]};
const press = async (key) => {
  dialog.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
  await wait();
  found.titles.push(title());
};
for (const key of ["ArrowRight", "ArrowDown", "n"]) await press(key);
const canvas = document.getElementById("zoom-difference"), box = canvas.getBoundingClientRect();
const at = {bubbles: true, clientX: box.left + box.width * 0.5 + 1, clientY: box.top + box.height * 0.25 + 1};
canvas.dispatchEvent(new PointerEvent("pointermove", at));
found.pixel = document.getElementById("zoom-pixel").textContent;
const [, x, y] = found.pixel.match(/\\((\\d+), (\\d+)\\)/).map(Number);
found.value = document.getElementById("zoom-sample").getContext("2d").getImageData(x, y, 1, 1).data[0];
found.other = document.getElementById("zoom-reference").getContext("2d").getImageData(x, y, 1, 1).data[0];
document.getElementById("zoom-close").click();
await wait();
found.closed = !dialog.open;
document.querySelector('#map [data-gain="16"]').click();
await wait();
found.maps = document.querySelectorAll("#sheet canvas").length;
found.bars = document.querySelectorAll("#strips .bar").length;
return found;
"""


@pytest.mark.slow
def test_samples_are_enlarged_and_compared(tmp_path: Path) -> None:
    data = comparison(3, (4, 8), pictured=3, seeds=2)
    page = opened(written(tmp_path, data), tmp_path, ZOOMED)
    assert page.console == [] and "errors" not in page.root
    found, who = page.result, [data["entrants"][k]["label"] for k in ranking(data, data["metrics"][0])]
    assert found["open"] and found["closed"]
    assert found["titles"] == [
        f"{who[0]}, 4 evaluations, image 1", f"{who[0]}, 8 evaluations, image 1",
        f"{who[1]}, 8 evaluations, image 1", f"{who[1]}, 8 evaluations, image 2",
    ]  # fmt: skip
    sign = "+" if found["value"] > found["other"] else ""
    said = f"sample {found['value']}, reference {found['other']}, difference {sign}{found['value'] - found['other']} of 255"
    assert said in found["pixel"]
    assert found["maps"] == 6 and found["bars"] == 12
