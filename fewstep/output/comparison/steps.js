// Where each solver steps on one axis of half log-SNR, and what each evaluation's answer weighs in the final sample.
const steps = data.steps || [];
const FIRST = 12;
let everyStrip = false;

// What is infinite (the very end, sigma = 0) has no place on the axis: it is put at the axis' end and said.
function span(strips) {
  const found = strips.flatMap(({ lam, at = [] }) => [...lam, ...at]).filter(known);
  return found.length ? [Math.min(...found), Math.max(...found)] : [0, 1];
}

function drawSteps() {
  const nfe = Number(by("steps-nfe").value), box = by("strips");
  const order = new Map(state.shown.map((entrant, k) => [entrant, k]));
  const strips = steps.filter((step) => step.nfe === nfe && order.has(step.entrant)).sort((a, b) => order.get(a.entrant) - order.get(b.entrant));
  const shown = everyStrip ? strips : strips.slice(0, FIRST);
  by("more-strips").hidden = shown.length === strips.length;
  by("more-strips").textContent = `Show all ${strips.length}`;
  if (!shown.length) {
    box.replaceChildren(make("p", { class: "note" }, "nothing to draw: of what the filter leaves, no steps are known at this number of evaluations"));
    return;
  }
  const [low, high] = span(strips), weights = shown.flatMap((step) => step.weights).filter(known);
  // One scale of weights for all, with the line between the largest and the most negative one.
  const room = { up: Math.max(...weights, 1e-12), down: -Math.min(...weights, 0) };
  box.replaceChildren(...shown.map((step) => make("div", { class: "strip", "data-entrant": step.entrant }, make("span", {}, entrants[step.entrant].label), draw("svg", { role: "img", "aria-label": spoken(step) }))), make("div", { class: "strip scale" }, make("span"), draw("svg", { "aria-hidden": "true" })));
  const width = Math.max(200, box.querySelector("svg").clientWidth), x = scale(low, high, 10, width - 10, false);
  all(".strip:not(.scale) svg", box).forEach((svg, k) => strip(svg, shown[k], x, width, room));
  ruler(box.querySelector(".scale svg"), x, width);
  remark();
}

const spoken = ({ lam, weights }) => `steps end at half log-SNR ${lam.map((v) => (known(v) ? number(v, 3) : "infinity")).join(", ")}; weights ${weights.map((v) => number(v, 3)).join(", ")}`;

function strip(svg, step, x, width, { up, down }) {
  const unit = 44 / (up + down), middle = 6 + unit * up, last = step.lam.length - 1;
  const place = (k) => (known(step.lam[k]) ? x.map(step.lam[k]) : k === last ? width - 4 : 4);
  // Evaluations are at the beginnings of steps, unless `at` says where.
  const evaluated = (k) => (known(step.at?.[k]) ? x.map(step.at[k]) : place(Math.min(k, last)));
  svg.setAttribute("viewBox", `0 0 ${width} 58`);
  svg.append(draw("line", { class: "axis", x1: place(0), x2: place(last), y1: middle, y2: middle }));
  step.lam.forEach((_, k) => svg.append(draw("line", { class: "tickmark", x1: place(k), x2: place(k), y1: middle - 4, y2: middle + 4 })));
  step.weights.forEach((weight, k) => {
    const size = known(weight) ? weight * unit : 0, at = evaluated(k);
    svg.append(draw("line", { class: weight < 0 ? "bar negative" : "bar", x1: at, x2: at, y1: middle, y2: middle - size }));
  });
  const tell = (event) => {
    const box = svg.getBoundingClientRect(), at = event.clientX - box.left, bars = all(".bar", svg);
    const k = step.weights.reduce((best, _, j) => (Math.abs(evaluated(j) - at) < Math.abs(evaluated(best) - at) ? j : best), 0);
    bars.forEach((bar, j) => bar.classList.toggle("hot", j === k));
    const end = (j) => (known(step.lam[j]) ? number(step.lam[j], 4) : j ? "infinity (sigma = 0)" : "minus infinity (alpha = 0)");
    tip(event.clientX, event.clientY, `${entrants[step.entrant].label}, evaluation ${k + 1} of ${step.weights.length}`, [
      ...(known(step.at?.[k]) ? [["half log-SNR", number(step.at[k], 4)]] : [["half log-SNR", end(Math.min(k, last))], ...(k < last ? [["steps on to", end(k + 1)]] : [])]),
      ["weight of its answer", known(step.weights[k]) ? number(step.weights[k], 4) : "unknown"]]);
  };
  svg.addEventListener("pointermove", tell);
  svg.addEventListener("click", tell);
  svg.addEventListener("pointerleave", () => {
    untip();
    for (const bar of all(".bar.hot", svg)) bar.classList.remove("hot");
  });
}

function ruler(svg, x, width) {
  svg.setAttribute("viewBox", `0 0 ${width} 40`);
  for (const tick of linearTicks(x.low, x.high, width > 500 ? 10 : 5)) {
    const at = x.map(tick);
    if (at < 8 || at > width - 8) continue;
    svg.append(draw("line", { class: "tickmark", x1: at, x2: at, y1: 2, y2: 7 }), draw("text", { x: at, y: 20, "text-anchor": "middle" }, number(tick)));
  }
  svg.append(draw("text", { x: 0, y: 37 }, "noise"), draw("text", { x: width / 2, y: 37, "text-anchor": "middle" }, "half log-SNR"), draw("text", { x: width, y: 37, "text-anchor": "end" }, "image"));
}

function startSteps() {
  if (!by("steps")) return;
  const found = [...new Set(steps.map(({ nfe }) => nfe))].sort((a, b) => a - b);
  by("steps-nfe").append(...found.map((nfe) => make("option", { value: nfe }, String(nfe))));
  by("steps-nfe").value = found[Math.floor((found.length - 1) / 2)];
  by("steps-nfe").addEventListener("change", () => guarded("steps", drawSteps));
  by("more-strips").addEventListener("click", () => {
    everyStrip = true;
    guarded("steps", drawSteps);
  });
  whenChanged("steps", drawSteps);
  whenResized(by("strips"), "steps", drawSteps);
}
