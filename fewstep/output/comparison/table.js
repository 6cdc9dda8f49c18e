// The tables: which one is shown, sorting by any column, rows that answer to filters, pointer and click.
const boxes = all("[data-table]");
let view = 0;

function value(row, column) {
  if (column === 0) return row.querySelector(".label").textContent;
  const key = row.cells[column].dataset.v;
  return key === undefined ? null : Number(key);
}

// Words rise first, figures with the better end first; rows without a figure stay last either way.
function sort(table, column) {
  const heads = all("thead th", table), head = heads[column], body = table.tBodies[0];
  const first = column > 0 && (table.dataset.higher === "true" || head.textContent === "order") ? "descending" : "ascending";
  const other = first === "ascending" ? "descending" : "ascending";
  const way = head.getAttribute("aria-sort") === first ? other : first;
  for (const each of heads) each.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", way);
  const sign = way === "ascending" ? 1 : -1;
  const keyed = [...body.rows].map((row) => [row, value(row, column)]);
  keyed.sort(([, a], [, b]) => {
    if (a === null || b === null) return (a === null) - (b === null);
    return sign * (column === 0 ? a.localeCompare(b, "en", { numeric: true }) : a - b);
  });
  body.append(...keyed.map(([row]) => row));
}

function showTable() {
  const buttons = all("#views button");
  // Another metric brings its own table to the front; time and memory belong to none.
  const metric = buttons[view]?.dataset.metric;
  if (metric && metric !== state.metric.name) {
    view = Math.max(0, buttons.findIndex((button) => button.dataset.metric === state.metric.name));
  }
  if (buttons.length) press(by("views"), buttons[view]);
  const shown = new Set(state.shown.map(String));
  boxes.forEach((box, k) => {
    box.hidden = k !== view;
    if (k === view) for (const row of box.querySelector("tbody").rows) row.hidden = !shown.has(row.dataset.entrant);
  });
}

function startTable() {
  for (const box of boxes) {
    const table = box.querySelector("table");
    all("thead th", table).forEach((head, column) => {
      const button = make("button", { type: "button" });
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => sort(table, column));
    });
    for (const row of table.tBodies[0].rows) row.cells[0].prepend(swatch(row.dataset.entrant));
    table.tBodies[0].addEventListener("click", (event) => {
      const row = event.target.closest("tr");
      if (row && getSelection().isCollapsed) pin(Number(row.dataset.entrant));
    });
    const tell = (event) => {
      const cell = event.target.closest("td"), row = cell?.parentElement;
      const point = cell && pointAt(row.dataset.entrant, nfes[cell.cellIndex - 1]);
      if (point) tip(event.clientX, event.clientY, `${entrants[point.entrant].label}, ${point.nfe} evaluations`, told(point));
      else untip();
    };
    table.addEventListener("pointermove", tell);
    table.addEventListener("click", tell);
    table.addEventListener("pointerleave", untip);
  }
  segments(by("views"), ({ view: chosen, metric: name }) => {
    view = Number(chosen);
    const other = metrics.findIndex((metric) => metric.name === name && metric !== state.metric);
    if (other >= 0) {
      state.metric = metrics[other];
      by("metric").value = other;
      changed();
    } else guarded("table", showTable);
  });
  whenChanged("table", showTable);
}
