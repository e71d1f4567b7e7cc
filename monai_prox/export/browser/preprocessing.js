// From an image to the network's grid, as nnU-Net's DefaultPreprocessor does it.

const MOST_VOXELS = 2 ** 29; // of an image, or on the network's grid of all channels
const MOST_BYTES = 3e9; // of what is in memory at a time; browsers give a page about four
const SMALLEST_STD = 1e-8;

/** channels: of the image, in the network's order of axes, which are changed; shape, spacing: of them.
 * -> {channels: on the grid, grid: {whole, box, cropped, shape, spacing, imageSpacing}} */
function prepare(channels, shape, spacing, description) {
  const inside = allocate(Uint8Array, channels[0].length);
  for (const channel of channels) for (let i = 0; i < channel.length; i++) if (channel[i] !== 0) inside[i] = 1;
  const everything = shape.map((size) => [0, size]);
  const box = description.cropped ? boxOf(inside, shape) ?? everything : everything;
  const cropped = box.map(([start, stop]) => stop - start);
  const target = description.spacing.length === 3 ? description.spacing : [spacing[0], ...description.spacing];
  const sizes = resampledShape(cropped, spacing, target);
  const grid = { whole: shape, box, cropped, shape: sizes, spacing: target, imageSpacing: spacing };
  checkFits(grid, description);
  const masked = description.normalisation.some((rule) => rule.masked);
  const mask = masked ? within(filled(inside, shape), shape, box) : null;
  const prepared = channels.map((channel, index) => {
    const values = within(channel, shape, box);
    normalise(values, description.normalisation[index], mask);
    if (!values.every(Number.isFinite)) {
      throw new Refusal(`The channel ${description.channels[index]} has voxels that are no numbers, or infinite.`);
    }
    return resampled(values, cropped, grid.shape, spacing, target, description.images, true);
  });
  return { channels: prepared, grid };
}

/** Throws a Refusal for an image that vanishes on the network's grid, and for one that takes too much memory. */
function checkFits(grid, description) {
  const size = (shape) => shape.reduce((a, b) => a * b);
  const found = `The image has ${grid.cropped.join(" x ")} voxels, and ${grid.shape.join(" x ")} at the network's spacing`;
  if (Math.min(...grid.shape) < 1) throw new Refusal(`${found}: it vanishes there.`);
  const padded = size(grid.shape.map((side, axis) => Math.max(side, [1, ...description.patch].slice(-3)[axis])));
  const images = description.channels.length * (2 * size(grid.whole) + size(grid.cropped) + size(grid.shape) + padded);
  const logits = description.outputs * padded + 4 * size(grid.cropped);
  const bytes = 4 * (images + logits);
  if (bytes > MOST_BYTES || padded * description.channels.length > MOST_VOXELS) {
    throw new Refusal(
      `${found}: that takes ${(bytes / 1e9).toFixed(1)} GB of memory, and a browser has about ${MOST_BYTES / 1e9}. `
      + "Use monai-prox predict.",
    );
  }
}

/** The box around what is not 0, null where nothing is. */
function boxOf(inside, shape) {
  const least = [...shape], most = [-1, -1, -1];
  for (let i = 0, a = 0; a < shape[0]; a++) {
    for (let b = 0; b < shape[1]; b++) {
      for (let c = 0; c < shape[2]; c++, i++) {
        if (inside[i] === 0) continue;
        [a, b, c].forEach((at, axis) => {
          if (at < least[axis]) least[axis] = at;
          if (at > most[axis]) most[axis] = at;
        });
      }
    }
  }
  return most[0] < 0 ? null : least.map((start, axis) => [start, most[axis] + 1]);
}

/** inside, and what it encloses: whatever is 0 and cannot be reached from the faces of the image. */
function filled(inside, shape) {
  const [depth, height, width] = shape;
  const outside = allocate(Uint8Array, inside.length), waiting = [];
  const visit = (i) => {
    if (inside[i] === 0 && outside[i] === 0) {
      outside[i] = 1;
      waiting.push(i);
    }
  };
  const near = (a, b, c, only) => {
    const i = (a * height + b) * width + c;
    if (!only || a === 0 || b === 0 || c === 0 || a === depth - 1 || b === height - 1 || c === width - 1) visit(i);
  };
  for (let a = 0; a < depth; a++) for (let b = 0; b < height; b++) for (let c = 0; c < width; c++) near(a, b, c, true);
  while (waiting.length > 0) {
    const i = waiting.pop();
    const c = i % width, b = Math.floor(i / width) % height, a = Math.floor(i / (width * height));
    if (a > 0) visit(i - width * height);
    if (a < depth - 1) visit(i + width * height);
    if (b > 0) visit(i - width);
    if (b < height - 1) visit(i + width);
    if (c > 0) visit(i - 1);
    if (c < width - 1) visit(i + 1);
  }
  return outside.map((reached) => 1 - reached);
}

/** values: of a channel, which are changed; mask: where nnU-Net normalises, if only there. */
function normalise(values, rule, mask) {
  const shift = (by, scale) => {
    for (let i = 0; i < values.length; i++) values[i] = (values[i] - by) / scale;
  };
  if (rule.scheme === "ZScoreNormalization") {
    const counts = (i) => !rule.masked || mask[i] === 1;
    let number = 0, sum = 0, squares = 0;
    for (let i = 0; i < values.length; i++) if (counts(i)) { number += 1; sum += values[i]; }
    const mean = sum / number;
    for (let i = 0; i < values.length; i++) if (counts(i)) squares += (values[i] - mean) ** 2;
    const std = Math.max(Math.sqrt(squares / number), SMALLEST_STD);
    for (let i = 0; i < values.length; i++) if (counts(i)) values[i] = (values[i] - mean) / std;
  } else if (rule.scheme === "CTNormalization") {
    for (let i = 0; i < values.length; i++) values[i] = Math.min(Math.max(values[i], rule.lower), rule.upper);
    shift(rule.mean, Math.max(rule.std, SMALLEST_STD));
  } else if (rule.scheme === "RescaleTo01Normalization" || rule.scheme === "RGBTo01Normalization") {
    const { least, most } = rangesOf(values, [1, 1, values.length], null);
    if (rule.scheme === "RescaleTo01Normalization") shift(least[0], Math.max(most[0] - least[0], SMALLEST_STD));
    else if (least[0] >= 0 && most[0] <= 255) shift(0, 255);
    else throw new Refusal(`A channel has values from ${least[0]} to ${most[0]}; allowed: 0 to 255.`);
  }
}
