// One sample enlarged: beside the reference and their difference, value by value.
const looked = { entrant: 0, nfe: 0, gain: 4, sample: null, reference: null };

function zoom(entrant, nfe) {
  Object.assign(looked, { entrant, nfe, gain: gain || looked.gain });
  if (!by("zoom").open) by("zoom").showModal();
  return redraw();
}

async function redraw() {
  const { entrant, nfe } = looked, k = pointAt(entrant, nfe).images[seed], other = referencesOf(entrant)[seed];
  by("zoom-title").textContent = `${entrants[entrant].label}, ${nfe} evaluations, image ${seed + 1}`;
  const [sample, reference] = await Promise.all([pixels(k), known(other) ? pixels(other) : null]);
  if (looked.entrant !== entrant || looked.nfe !== nfe) return;  // walked on meanwhile
  const pair = reference && alike(sample, reference);
  Object.assign(looked, { sample, reference: pair ? reference : null });
  put(by("zoom-sample"), sample);
  by("zoom").classList.toggle("coarse", sample.width < 300);
  for (const element of all(".with-reference", by("zoom"))) element.hidden = !pair;
  by("zoom-pixel").textContent = "";
  if (pair) {
    put(by("zoom-reference"), reference);
    const rms = difference(by("zoom-difference"), sample, reference, looked.gain);
    by("zoom-caption").textContent = `difference × ${looked.gain}`;
    by("zoom-pixel").textContent = `Root mean square of the difference: ${number(rms, 3)} of 255. Point at a pixel for its values.`;
  }
  for (const button of all("#zoom-gain button")) button.setAttribute("aria-pressed", Number(button.dataset.gain) === looked.gain);
  for (const button of all("#zoom-walk button")) button.disabled = STEPS[button.dataset.key] ? !beside(entrant, nfe, button.dataset.key) : seedCount() < 2;
  for (const cursor of all(".cursor", by("zoom"))) cursor.hidden = true;
}
function put(canvas, image) {
  canvas.width = image.width;
  canvas.height = image.height;
  canvas.getContext("2d").putImageData(image, 0, 0);
}

// The same pixel in all three, and its values in words.
function point(event) {
  const { sample, reference } = looked, canvas = event.target.closest(".pixels")?.querySelector("canvas");
  if (!canvas || !sample) return;
  const box = canvas.getBoundingClientRect();
  const x = Math.floor(((event.clientX - box.left) / box.width) * sample.width), y = Math.floor(((event.clientY - box.top) / box.height) * sample.height);
  if (x < 0 || y < 0 || x >= sample.width || y >= sample.height) return;
  for (const cursor of all(".cursor", by("zoom"))) {
    cursor.hidden = false;
    cursor.style.left = `${(100 * x) / sample.width}%`;
    cursor.style.top = `${(100 * y) / sample.height}%`;
    cursor.style.width = `${100 / sample.width}%`;
    cursor.style.height = `${100 / sample.height}%`;
  }
  const i = 4 * (y * sample.width + x);
  const of = (image) => {
    const [red, green, blue] = image.data.slice(i, i + 3);
    return red === green && green === blue ? String(red) : `(${red}, ${green}, ${blue})`;
  };
  let text = `Pixel (${x}, ${y}): sample ${of(sample)}`;
  if (reference) {
    const d = away(sample.data, reference.data, i);
    text += `, reference ${of(reference)}, difference ${d > 0 ? "+" : ""}${number(d, 3)} of 255`;
  }
  by("zoom-pixel").textContent = `${text}.`;
}

const seedCount = () => pointAt(looked.entrant, looked.nfe).images.length;
function turn(key) {
  if (STEPS[key]) {
    const found = beside(looked.entrant, looked.nfe, key);
    if (!found) return false;
    [looked.entrant, looked.nfe] = found;
  } else if ((key === "n" || key === "p") && seedCount() > 1) {
    seed = (seed + (key === "n" ? 1 : seedCount() - 1)) % seedCount();
    by("seed").value = seed;
    drawSheet();
  } else return false;
  guarded("zoom", redraw);
  return true;
}

function startZoom() {
  const dialog = by("zoom");
  if (!dialog) return;
  by("zoom-close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("close", () => focusCell(looked.entrant, looked.nfe));
  dialog.addEventListener("keydown", (event) => { if (turn(event.key)) event.preventDefault(); });
  dialog.addEventListener("pointermove", point);
  dialog.addEventListener("pointerdown", point);
  by("zoom-walk").addEventListener("click", (event) => turn(event.target.closest("button")?.dataset.key));
  segments(by("zoom-gain"), (chosen) => {
    looked.gain = Number(chosen.gain);
    guarded("zoom", redraw);
  });
}
