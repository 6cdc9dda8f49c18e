// The sample sheet: entrants down, evaluations across, the reference at the end; samples or maps of their difference.
let seed = 0;
let gain = 0;  // 0: the samples themselves
const references = data.reference.images || [];
// A solver with noise has a reference of its own, on the same path.
const referencesOf = (entrant) => data.entrants[entrant].reference_images || references;
const referred = references.length || entrants.some((entrant) => entrant.reference_images);
const columns = nfes.filter((nfe) => points.some((point) => point.nfe === nfe && point.images.length));
const pictured = new Set(points.filter((point) => point.images.length).map((point) => point.entrant));
const MOST_ROWS = 60;
const [side, tall] = data.image_size || [64, 64];
// Small images by whole pixels, large ones reduced.
const shownSide = side <= 56 ? side * Math.max(1, Math.floor(84 / side)) : Math.min(side, 112);
const sheetRows = () => state.shown.filter((entrant) => pictured.has(entrant)).slice(0, MOST_ROWS);

// Maps are made when they come into sight.
const inSight = new IntersectionObserver((seen) => {
  for (const { isIntersecting, target } of seen) {
    if (!isIntersecting) continue;
    inSight.unobserve(target);
    guarded("sheet", () => fill(target));
  }
}, { rootMargin: "200px" });
async function fill(canvas) {
  const [sample, reference] = await Promise.all([canvas.dataset.image, canvas.dataset.reference].map((k) => pixels(Number(k))));
  if (alike(sample, reference)) difference(canvas, sample, reference, gain);
}

function picture(k, title, reference) {
  if (!gain || !known(reference)) return make("img", { src: data.images[k], width: side, height: tall, alt: title, loading: "lazy" });
  const canvas = make("canvas", { width: side, height: tall, "data-image": k, "data-reference": reference, role: "img", "aria-label": `difference of ${title} to the reference` });
  inSight.observe(canvas);
  return canvas;
}

function drawSheet() {
  const sheet = by("sheet"), rows = sheetRows();
  inSight.disconnect();
  const heads = [...columns.map((nfe) => `nfe ${nfe}`), ...(referred ? ["reference"] : [])];
  sheet.tHead.replaceChildren(make("tr", {}, make("th", { scope: "col", class: "name" }, "entrant"), ...heads.map((head) => make("th", { scope: "col" }, head))));
  sheet.tBodies[0].replaceChildren(...rows.map((entrant) => {
    const row = make("tr", { "data-entrant": entrant }, make("th", { scope: "row", class: "name" }, entrants[entrant].label));
    for (const nfe of columns) row.append(make("td", {}, ...cell(entrant, nfe)));
    if (known(referencesOf(entrant)[seed])) {
      const still = make("img", { src: data.images[referencesOf(entrant)[seed]], width: side, height: tall, alt: "reference", loading: "lazy" });
      row.append(make("td", {}, make("span", { class: "still" }, still)));
    } else if (referred) row.append(make("td", {}));
    return row;
  }));
  const first = sheet.querySelector("button");
  if (first) first.tabIndex = 0;
  const without = state.shown.length - rows.length;
  by("sheet-note").textContent = [
    gain ? `Sample minus reference, × ${gain}: orange is brighter, blue is darker, full colour at ${number(255 / gain, 3)} of 255.` : "All began from the same noise.",
    without ? `${without} of the entrants shown ${without === 1 ? "has" : "have"} no images here.` : "",
    "Click or Enter enlarges; arrow keys walk.",
  ].filter(Boolean).join(" ");
  remark();
}

function cell(entrant, nfe) {
  const k = pointAt(entrant, nfe)?.images[seed];
  if (!known(k)) return [];
  const title = `${entrants[entrant].label}, ${nfe} evaluations, image ${seed + 1}`;
  return [make("button", { type: "button", tabindex: -1, "data-nfe": nfe, "data-of": entrant, "aria-label": `Enlarge ${title}` }, picture(k, title, referencesOf(entrant)[seed]))];
}

// Of all the buttons only one is in the order of tabs; arrows lead to the others.
const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
function beside(entrant, nfe, key) {
  const rows = sheetRows(), [down, right] = STEPS[key];
  let i = rows.indexOf(entrant) + down, j = columns.indexOf(nfe) + right;
  while (rows[i] !== undefined && columns[j] !== undefined) {
    if (known(pointAt(rows[i], columns[j])?.images[seed])) return [rows[i], columns[j]];
    i += down;
    j += right;
  }
  return null;
}
function startSheet() {
  if (!by("sheet")) return;
  const sheet = by("sheet"), seeds = Math.max(1, ...points.map((point) => point.images.length));
  sheet.style.setProperty("--side", `${shownSide}px`);
  sheet.classList.toggle("coarse", shownSide >= side);
  by("seed").append(...Array.from({ length: seeds }, (_, k) => make("option", { value: k }, String(k + 1))));
  by("seed").parentElement.hidden = seeds < 2;
  by("seed").addEventListener("change", () => {
    seed = Number(by("seed").value);
    guarded("sheet", drawSheet);
  });
  segments(by("map"), (chosen) => {
    gain = Number(chosen.gain);
    guarded("sheet", drawSheet);
  });
  sheet.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) guarded("zoom", () => zoom(Number(button.dataset.of), Number(button.dataset.nfe)));
  });
  sheet.addEventListener("keydown", (event) => {
    const button = event.target.closest("button");
    if (!button || !STEPS[event.key]) return;
    event.preventDefault();
    const found = beside(Number(button.dataset.of), Number(button.dataset.nfe), event.key);
    if (found) focusCell(...found);
  });
  whenChanged("sheet", drawSheet);
}
function focusCell(entrant, nfe) {
  for (const button of all("#sheet button[tabindex='0']")) button.tabIndex = -1;
  const button = document.querySelector(`#sheet button[data-of="${entrant}"][data-nfe="${nfe}"]`);
  if (!button) return;
  button.tabIndex = 0;
  button.focus();
}
