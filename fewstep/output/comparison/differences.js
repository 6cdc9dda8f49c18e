// Pixels of images, and maps of the difference between two.
const kept = new Map();  // image -> promise of its pixels; the last few
function pixels(k) {
  if (!kept.has(k)) {
    if (kept.size > 400) kept.delete(kept.keys().next().value);
    kept.set(k, read(data.images[k]));
  }
  return kept.get(k);
}
async function read(address) {
  const image = new Image();
  image.src = address;
  await image.decode();
  const canvas = make("canvas", { width: image.naturalWidth, height: image.naturalHeight });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

// A colour of the page's theme as [red, green, blue].
function colour(name) {
  const probe = make("span", { style: `color: var(${name})` });
  document.body.append(probe);
  const parts = getComputedStyle(probe).color.match(/[\d.]+/g).slice(0, 3).map(Number);
  probe.remove();
  return parts;
}

// Size and sign of a pixel's difference: the root mean square over its channels, with the sign of their mean.
function away(a, b, i) {
  const red = a[i] - b[i], green = a[i + 1] - b[i + 1], blue = a[i + 2] - b[i + 2];
  const size = Math.sqrt((red * red + green * green + blue * blue) / 3);
  return red + green + blue < 0 ? -size : size;
}

// Sample minus reference: brighter is orange, darker is blue, equal is the ground; full colour at 255 / gain.
function difference(canvas, sample, reference, gain) {
  const zero = colour("--zero"), more = colour("--c1"), less = colour("--c0");
  const { width, height } = sample, out = new ImageData(width, height);
  let sum = 0;
  for (let i = 0; i < out.data.length; i += 4) {
    const d = away(sample.data, reference.data, i), share = Math.min(1, (Math.abs(d) * gain) / 255), end = d < 0 ? less : more;
    sum += d * d;
    for (let c = 0; c < 3; c++) out.data[i + c] = zero[c] + share * (end[c] - zero[c]);
    out.data[i + 3] = 255;
  }
  canvas.width = width;
  canvas.height = height;
  canvas.getContext("2d").putImageData(out, 0, 0);
  return Math.sqrt(sum / (width * height));
}
const alike = (a, b) => a.width === b.width && a.height === b.height;
