// Curves of error against work: both axes logarithmic, bands of 95 %, values under the pointer or the arrow keys.
let axis = "nfe";
let drawn = [];  // the points on the plot, {point, x, y}
let walked = null;  // the one that the keys are at
const FEW_LINES = 8, MANY_LINES = 30;

// 1, 2, 5, 10, ... within [low, high]; finer where that is less than a decade.
function ticks(low, high) {
  const found = [], steps = high > 12 * low ? (high > 2000 * low ? [1] : [1, 2, 5]) : [1, 1.5, 2, 3, 4, 5, 6, 8];
  for (let decade = Math.floor(Math.log10(low)); decade <= Math.ceil(Math.log10(high)); decade++) {
    for (const step of steps) {
      const tick = Number((step * 10 ** decade).toPrecision(3));
      if (tick >= low && tick <= high) found.push(tick);
    }
  }
  return found;
}
function linearTicks(low, high, count = 5) {
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((s) => s * power >= rough) * power;
  const found = [];
  for (let k = Math.ceil(low / step); k * step <= high; k++) found.push(Number((k * step).toPrecision(6)));
  return found;
}

// A map of [low, high] to [from, to], and room around the values; log: of their logarithms.
function scale(low, high, from, to, log) {
  const f = log ? Math.log : (v) => v;
  let a = f(low), b = f(high);
  const room = (b - a) * 0.04 || (log ? 0.3 : 1);
  a -= room;
  b += room;
  const map = (v) => from + ((f(v) - a) / (b - a)) * (to - from);
  const back = log ? Math.exp : (v) => v;
  return { map, low: back(a), high: back(b) };
}

const work = (point) => (axis === "nfe" ? point.nfe : point.seconds);
function measured(entrant) {
  const log = state.metric.log, found = [];
  for (const nfe of nfes) {
    const point = pointAt(entrant, nfe), value = point?.values[state.metric.name];
    if (value && known(value.value) && known(work(point)) && work(point) > 0 && (!log || value.value > 0)) found.push({ point, value });
  }
  return found.sort((a, b) => work(a.point) - work(b.point));
}

// The whole plot, anew: it is quick, and everything in it depends on everything else.
function drawCurves() {
  const plot = by("plot"), width = Math.max(260, plot.parentElement.clientWidth), height = Math.round(Math.min(480, Math.max(300, width * 0.62)));
  plot.setAttribute("viewBox", `0 0 ${width} ${height}`);
  plot.setAttribute("height", height);
  const lines = state.shown.map((entrant) => [entrant, measured(entrant)]).filter(([, line]) => line.length);
  drawn = [];
  walked = null;
  plot.replaceChildren();
  legend(lines);
  by("bands").textContent = lines.length > FEW_LINES ? "Bands are 95 % intervals, of the line that is looked at or kept by a click." : "Bands are 95 % intervals.";
  if (!lines.length) {
    plot.append(draw("text", { x: 16, y: 32 }, "nothing to draw: the filter leaves no point"));
    return;
  }
  const { x, y } = axes(plot, lines, width, height);
  plot.classList.toggle("few-lines", lines.length <= FEW_LINES);
  plot.classList.toggle("many-lines", lines.length > MANY_LINES);
  const floor = height - 44;
  for (const [entrant, line] of lines.slice().reverse()) plot.append(drawLine(entrant, line, x, y, floor));
  plot.append(draw("path", { class: "focus", id: "focus", d: "" }));
  remark();
}

function axes(plot, lines, width, height) {
  const found = lines.flatMap(([, line]) => line), log = state.metric.log;
  const xs = found.map(({ point }) => work(point)), ys = found.map(({ value }) => value.value);
  const left = 62, right = width - 14, top = 26, bottom = height - 44;
  const x = scale(Math.min(...xs), Math.max(...xs), left, right, true);
  const y = scale(Math.min(...ys), Math.max(...ys), bottom, top, log);
  const grid = draw("g", { class: "grid" });
  for (const tick of log ? ticks(y.low, y.high) : linearTicks(y.low, y.high)) {
    const place = y.map(tick);
    grid.append(draw("line", { x1: left, x2: right, y1: place, y2: place }), draw("text", { x: left - 9, y: place + 4, "text-anchor": "end" }, number(tick)));
  }
  let last = -Infinity;
  for (const tick of axis === "nfe" ? nfes : ticks(x.low, x.high)) {
    const place = x.map(tick);
    if (place < left || place > right) continue;
    grid.append(draw("line", { x1: place, x2: place, y1: top, y2: bottom }));
    if (place - last < 26) continue;
    last = place;
    grid.append(draw("text", { x: place, y: bottom + 18, "text-anchor": "middle" }, axis === "nfe" ? String(tick) : number(tick)));
  }
  const better = state.metric.higher ? "more is better" : "less is better";
  plot.append(grid, draw("line", { class: "axis", x1: left, x2: right, y1: bottom, y2: bottom }),
    draw("text", { class: "title", x: left, y: 13 }, `${state.metric.label}, ${better}`),
    draw("text", { class: "title", x: right, y: height - 6, "text-anchor": "end" }, axis === "nfe" ? "network evaluations" : "seconds an image"));
  return { x, y };
}

function drawLine(entrant, line, x, y, floor) {
  const { colour, dash, mark } = styles[entrant], group = draw("g", { class: "line", "data-entrant": entrant });
  const places = line.map(({ point, value }) => ({ point, value, x: x.map(work(point)), y: y.map(value.value) }));
  const bounds = places.filter(({ value }) => known(value.low) && known(value.high));
  // An interval that reaches down to zero has no logarithm there: its band ends at the axis.
  const end = (value) => (state.metric.log && value <= 0 ? floor : Math.min(floor, Math.max(0, y.map(value))));
  if (bounds.length) {
    const upper = bounds.map((p) => `${p.x.toFixed(1)},${end(p.value.high).toFixed(1)}`);
    const lower = bounds.map((p) => `${p.x.toFixed(1)},${end(p.value.low).toFixed(1)}`).reverse();
    group.append(draw("path", { class: "band", d: `M${upper.join("L")}L${lower.join("L")}z`, fill: colour }));
  }
  group.append(draw("path", { class: "trace", d: `M${places.map((p) => `${p.x.toFixed(1)},${p.y.toFixed(1)}`).join("L")}`, stroke: colour, "stroke-dasharray": dash }));
  for (const p of places) {
    group.append(draw("path", { class: p.point.n < most ? "mark few" : "mark", d: outline(mark, p.x, p.y), fill: colour }));
    drawn.push({ point: p.point, x: p.x, y: p.y });
  }
  return group;
}

// In the order in which the lines end, the best first.
function legend(lines) {
  const last = ([, line]) => line[line.length - 1].value.value * (state.metric.higher ? -1 : 1);
  const sorted = lines.slice().sort((a, b) => last(a) - last(b));
  by("legend").replaceChildren(...sorted.map(([entrant]) => {
    const button = make("button", { type: "button", "data-entrant": entrant, "aria-pressed": state.pinned.has(entrant) },
      swatch(entrant), make("span", {}, entrants[entrant].label));
    button.addEventListener("click", () => pin(entrant));
    return make("li", {}, button);
  }));
}

function tell(place) {
  const plot = by("plot"), box = plot.getBoundingClientRect(), { point } = place;
  by("focus").setAttribute("d", `M${place.x - 8},${place.y}a8,8 0 1 0 16,0a8,8 0 1 0 -16,0z`);
  look(point.entrant);
  const shrink = box.width / plot.viewBox.baseVal.width;
  tip(box.left + place.x * shrink, box.top + place.y * shrink, `${entrants[point.entrant].label}, ${point.nfe} evaluations`, told(point));
}
function leave() {
  untip();
  look(null);
  by("focus")?.setAttribute("d", "");
}

function nearest(event) {
  const plot = by("plot"), box = plot.getBoundingClientRect(), grow = plot.viewBox.baseVal.width / box.width;
  const x = (event.clientX - box.left) * grow, y = (event.clientY - box.top) * grow;
  let found = null, least = 40 ** 2;
  for (const place of drawn) {
    const away = (place.x - x) ** 2 + (place.y - y) ** 2;
    if (away < least) [found, least] = [place, away];
  }
  return found;
}

// Left and right along a line, up and down from line to line at the same evaluations.
function walk(key) {
  if (!walked) return drawn.find(({ point }) => point.entrant === state.shown[0]) || drawn[0];
  const along = key === "ArrowLeft" || key === "ArrowRight", { point } = walked;
  const row = drawn.filter((p) => (along ? p.point.entrant === point.entrant : p.point.nfe === point.nfe));
  row.sort(along ? (a, b) => a.x - b.x : (a, b) => a.y - b.y);
  const step = key === "ArrowLeft" || key === "ArrowUp" ? -1 : 1;
  return row[Math.max(0, Math.min(row.length - 1, row.indexOf(walked) + step))];
}

function startCurves() {
  const plot = by("plot");
  if (!points.some((point) => known(point.seconds))) by("axis").hidden = true;
  segments(by("axis"), (chosen) => {
    axis = chosen.axis;
    guarded("curves", drawCurves);
  });
  plot.addEventListener("pointermove", (event) => {
    const place = nearest(event);
    if (place) tell(place);
    else leave();
  });
  plot.addEventListener("pointerleave", leave);
  plot.addEventListener("click", (event) => {
    const place = nearest(event);
    if (!place) return;
    pin(place.point.entrant);
    tell(place);
  });
  plot.addEventListener("blur", leave);
  plot.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && walked) pin(walked.point.entrant);
    if (!event.key.startsWith("Arrow") || !drawn.length) return;
    event.preventDefault();
    walked = walk(event.key);
    tell(walked);
  });
  whenChanged("curves", drawCurves);
  whenResized(plot.parentElement, "curves", drawCurves);
}
