// What all parts share: the data, elements, numbers as text, what is chosen, the tip, and which entrant is looked at.
const root = document.documentElement;
const failures = [];

// What went wrong is kept where a test can read it; the other parts go on.
function failed(where, error) {
  failures.push(`${where}: ${error && error.message ? error.message : error}`);
  root.dataset.errors = failures.join("; ");
  console.error(where, error);
}
function guarded(where, work) {
  try {
    const later = work();
    if (later instanceof Promise) later.catch((error) => failed(where, error));
  } catch (error) {
    failed(where, error);
  }
}
window.addEventListener("error", (event) => failed("page", event.error || event.message));
window.addEventListener("unhandledrejection", (event) => failed("page", event.reason));

root.dataset.js = "true";
const by = (id) => document.getElementById(id);
const all = (selector, from = document) => [...from.querySelectorAll(selector)];
const data = JSON.parse(by("data").textContent);
const { entrants, metrics, points, nfes, orders } = data;

// Elements are made of names and texts, never of markup: a label is a label.
const SVG = document.querySelector("svg").namespaceURI;
function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== false) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}
const make = (name, attributes = {}, ...children) => filled(document.createElement(name), attributes, children);
const draw = (name, attributes = {}, ...children) => filled(document.createElementNS(SVG, name), attributes, children);

const known = (number) => number !== null && number !== undefined;
function number(value, digits = 4) {
  if (!known(value)) return "not finite";
  if (value === 0) return "0";
  const size = Math.abs(value);
  return size >= 1e5 || size < 1e-4 ? value.toExponential(2) : String(Number(value.toPrecision(digits)));
}
const duration = (seconds) => (seconds < 1 ? `${number(seconds * 1e3, 3)} ms` : `${number(seconds, 3)} s`);
const bytes = (size) => (size >= 1e9 ? `${number(size / 1e9, 3)} GB` : `${number(size / 1e6, 3)} MB`);

const at = new Map(points.map((point) => [`${point.entrant} ${point.nfe}`, point]));
const pointAt = (entrant, nfe) => at.get(`${entrant} ${nfe}`);
const most = Math.max(0, ...points.map((point) => point.n));

// Lines are told apart by colour, dash and mark. The best grid of each solver comes first, so that what is shown at
// first differs most; filters change nobody's line.
const COLOURS = 7, DASHES = ["none", "7 3", "2 3", "9 3 2 3"], MARKS = 6;
function bestGrids(metric) {
  const seen = new Set(), advised = new Set(data.advice.map((advice) => advice.best));
  return orders[metric.name].filter((k) => {
    const first = !seen.has(entrants[k].solver);
    seen.add(entrants[k].solver);
    return first || advised.has(entrants[k].label);
  });
}
const styles = [];
const inOrder = metrics.length ? new Set([...bestGrids(metrics[0]), ...orders[metrics[0].name]]) : [];
[...inOrder].forEach((entrant, k) => {
  const dash = DASHES[Math.floor(k / COLOURS) % DASHES.length];
  styles[entrant] = { colour: `var(--c${k % COLOURS})`, dash, mark: k % MARKS };
});

const r = 4.2;
const OUTLINES = [
  (x, y) => `M${x - r},${y}a${r},${r} 0 1 0 ${2 * r},0a${r},${r} 0 1 0 ${-2 * r},0z`,
  (x, y) => `M${x - 3.7},${y - 3.7}h7.4v7.4h-7.4z`,
  (x, y) => `M${x},${y - 5}l4.8,8.4h-9.6z`,
  (x, y) => `M${x},${y - 5.2}l5.2,5.2l-5.2,5.2l-5.2,-5.2z`,
  (x, y) => `M${x},${y + 5}l4.8,-8.4h-9.6z`,
  (x, y) => `M${x - 1.6},${y - 4.6}h3.2v3h3v3.2h-3v3h-3.2v-3h-3v-3.2h3z`,
];
const outline = (mark, x, y) => OUTLINES[mark](+x.toFixed(1), +y.toFixed(1));
function swatch(entrant) {
  const { colour, dash, mark } = styles[entrant];
  return draw("svg", { width: 34, height: 14, viewBox: "0 0 34 14", "aria-hidden": "true" },
    draw("path", { d: "M1,7h32", stroke: colour, "stroke-width": 2, "stroke-dasharray": dash, fill: "none" }),
    draw("path", { d: outline(mark, 17, 7), fill: colour }));
}

// What is chosen, and who is told when it changes.
const state = { metric: metrics[0], words: [], kinds: null, onlyBest: false, shown: [], pinned: new Set() };
const listeners = [];
const whenChanged = (where, work) => listeners.push([where, work]);
const changed = () => listeners.forEach(([where, work]) => guarded(where, work));

// The entrant under the pointer: every element that stands for it is marked, wherever it is.
let hot = null;
function remark() {
  for (const element of all("[data-entrant]")) {
    const entrant = Number(element.dataset.entrant);
    element.classList.toggle("hot", entrant === hot);
    element.classList.toggle("pinned", state.pinned.has(entrant));
    if (element.hasAttribute("aria-pressed")) element.setAttribute("aria-pressed", state.pinned.has(entrant));
  }
  by("plot").classList.toggle("some-hot", state.shown.some((entrant) => entrant === hot || state.pinned.has(entrant)));
}
function look(entrant) {
  if (entrant === hot) return;
  hot = entrant;
  remark();
}
function pin(entrant) {
  if (!state.pinned.delete(entrant)) state.pinned.add(entrant);
  remark();
}
document.addEventListener("pointerover", (event) => {
  const element = event.target.closest?.("[data-entrant]");
  if (!event.target.closest?.("#plot")) look(element ? Number(element.dataset.entrant) : null);
});
document.addEventListener("focusin", (event) => {
  const element = event.target.closest?.("[data-entrant]");
  if (element) look(Number(element.dataset.entrant));
});

// The tip beside the pointer: a head and lines of [name, text].
function tip(x, y, head, lines) {
  const box = by("tip");
  box.replaceChildren(make("b", {}, head), ...lines.map(([name, text]) => make("div", {}, make("span", {}, name), make("span", {}, text))));
  box.hidden = false;
  const { width, height } = box.getBoundingClientRect();
  const left = x + 16 + width > innerWidth - 8 ? x - 16 - width : x + 16;
  box.style.left = `${Math.max(8, Math.min(left, innerWidth - width - 8))}px`;
  box.style.top = `${Math.max(8, Math.min(y + 14, innerHeight - height - 8))}px`;
}
const untip = () => { by("tip").hidden = true; };
// A finger that lifts has left: a tap shows the tip by its click, and the next tap takes it away.
document.addEventListener("pointerdown", untip);
document.addEventListener("keydown", (event) => { if (event.key === "Escape") untip(); });
document.addEventListener("scroll", untip, { passive: true, capture: true });

// All that is known of a point, for a tip.
function told(point) {
  const lines = [];
  for (const { name, label } of metrics) {
    const value = point.values[name];
    if (!value) continue;
    const interval = known(value.low) && known(value.high) ? ` [${number(value.low, 3)}, ${number(value.high, 3)}]` : "";
    lines.push([label, number(value.value) + interval]);
    if (value.apart && known(value.apart.value)) {
      const half = known(value.apart.half) ? ` ± ${number(value.apart.half, 2)}` : "";
      lines.push(["from the best", value.apart.value === 0 ? "is the best" : number(value.apart.value, 3) + half]);
    }
  }
  if (known(point.seconds)) lines.push(["an image takes", duration(point.seconds)]);
  if (known(point.memory)) lines.push(["memory", bytes(point.memory)]);
  lines.push(["images", point.n < most ? `${point.n} of ${most}` : String(point.n)]);
  return lines;
}

// One of several buttons in a row is pressed.
function segments(group, chosen) {
  group?.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    press(group, button);
    chosen(button.dataset);
  });
}
function press(group, button) {
  for (const other of all("button", group)) other.setAttribute("aria-pressed", other === button);
}

// Drawn anew when an element becomes wider or narrower, at most once a frame.
function whenResized(element, where, work) {
  let width = element.clientWidth, waiting = false;
  new ResizeObserver(() => {
    if (waiting || element.clientWidth === width) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      width = element.clientWidth;
      guarded(where, work);
    });
  }).observe(element);
}
