// The filter bar: words, kinds, the metric, the best grid of each solver; and the buttons that copy a line.
function choose() {
  const kept = new Set(state.onlyBest ? bestGrids(state.metric) : orders[state.metric.name]);
  state.shown = orders[state.metric.name].filter((k) => {
    const { label, solver, grid, kind } = entrants[k];
    const text = `${label} ${solver} ${grid} ${kind}`.toLowerCase();
    return kept.has(k) && (!state.kinds || state.kinds.has(kind)) && state.words.every((word) => text.includes(word));
  });
  by("count").textContent = state.shown.length === entrants.length ? `all ${entrants.length} shown` : `${state.shown.length} of ${entrants.length} shown`;
}

function startFilter() {
  by("filter").addEventListener("submit", (event) => event.preventDefault());
  by("find").addEventListener("input", () => {
    state.words = by("find").value.toLowerCase().split(/\s+/).filter(Boolean);
    changed();
  });
  const chips = all(".chip");
  for (const chip of chips) {
    chip.addEventListener("click", () => {
      chip.setAttribute("aria-pressed", chip.getAttribute("aria-pressed") === "false");
      state.kinds = new Set(chips.filter((c) => c.getAttribute("aria-pressed") === "true").map((c) => c.dataset.kind));
      changed();
    });
  }
  state.onlyBest = by("only-best").checked;
  by("only-best").addEventListener("change", () => {
    state.onlyBest = by("only-best").checked;
    changed();
  });
  by("metric")?.addEventListener("change", () => {
    state.metric = metrics[Number(by("metric").value)];
    changed();
  });
  whenChanged("filter", choose);
}

// The line is selected and copied as people did before clipboards, which answers at once and in a file opened from disk too;
// only where that is not allowed the clipboard is asked, which may take its time or never answer.
function copy(button) {
  const code = button.parentElement.querySelector("code");
  getSelection().selectAllChildren(code);
  const done = document.execCommand("copy");
  button.textContent = done ? "Copied" : "Selected";
  if (!done) navigator.clipboard?.writeText(code.textContent).then(() => { button.textContent = "Copied"; }, () => {});
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
}
function startCopying() {
  for (const button of all(".copy")) button.addEventListener("click", () => copy(button));
}
