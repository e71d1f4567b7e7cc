// Slices of an image with its labels over it. Arrays are (z, y, x), as in the file.

const COLOURS = ["#f03e3e", "#37b24d", "#1c7ed6", "#f59f00", "#ae3ec9", "#0ca678", "#f76707", "#7048e8", "#e64980", "#74b816"];
const PLANES = [["z", 0, 1, 2], ["y", 1, 0, 2], ["x", 2, 0, 1]]; // the axis that slices follow, and those of rows and columns
const SHOWN = [0.01, 0.99]; // quantiles of the image that are black and white
const SAMPLED = 10_000; // voxels that they are found from

const rgb = (colour) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));

/** Darkest and brightest value. */
function windowOf(voxels) {
  const step = Math.max(1, Math.floor(voxels.length / SAMPLED));
  const some = Array.from({ length: Math.floor(voxels.length / step) }, (_, i) => voxels[i * step]).filter(Number.isFinite);
  some.sort((a, b) => a - b);
  const [low, high] = SHOWN.map((share) => some[Math.floor(share * (some.length - 1))] ?? 0);
  return high > low ? [low, high] : [some[0] ?? 0, Math.max(some.at(-1) ?? 1, (some[0] ?? 0) + 1e-6)];
}

/** Whether an axis is drawn backwards, so that what is up or in front is above, and the right side is on the left. */
function backwards(affine, axis) {
  const column = affine.map((row) => row[2 - axis]);
  const sizes = column.map(Math.abs), world = sizes.indexOf(Math.max(...sizes));
  return column[world] > 0;
}

/** Draws slice ``place`` of the plane. shown: {voxels, labels, shape, spacing, affine, window}; colours: by label. */
function drawSlice(canvas, shown, plane, place, opacity, colours) {
  const [, along, rows, columns] = PLANES[plane];
  const { shape, spacing } = shown;
  const strides = [shape[1] * shape[2], shape[2], 1];
  const [height, width] = [shape[rows], shape[columns]];
  const [low, high] = shown.window;
  const picture = new ImageData(width, height);
  const flips = [rows, columns].map((axis) => backwards(shown.affine, axis));
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++) {
      const from = [flips[0] ? height - 1 - row : row, flips[1] ? width - 1 - column : column];
      const i = place * strides[along] + from[0] * strides[rows] + from[1] * strides[columns];
      const grey = 255 * Math.min(Math.max((shown.voxels[i] - low) / (high - low), 0), 1);
      const colour = colours.get(shown.labels[i]), share = colour ? opacity : 0;
      const at = 4 * (row * width + column);
      for (let part = 0; part < 3; part++) picture.data[at + part] = grey * (1 - share) + (colour?.[part] ?? 0) * share;
      picture.data[at + 3] = 255;
    }
  }
  canvas.width = width;
  canvas.height = height;
  canvas.style.setProperty("--ratio", (width * spacing[columns]) / (height * spacing[rows]));
  canvas.getContext("2d").putImageData(picture, 0, 0);
}
