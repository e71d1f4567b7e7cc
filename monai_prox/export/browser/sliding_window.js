// A network over an image larger than its patch, as nnU-Net lays and weighs its tiles.

const STEP = 0.5; // of the patch, at most, between tiles
const SIGMA = 1 / 8; // of the patch: how a tile's weight falls off
const MOST_TILES = 2 ** 14; // of an image; in a browser that many would take days

/** Where the tiles along an axis begin, evenly spread from end to end. */
function startsOf(size, patch) {
  if (patch === 1) return Array.from({ length: size }, (_, index) => index);
  const count = Math.ceil((size - patch) / (patch * STEP)) + 1;
  return Array.from({ length: count }, (_, index) => rounded((size - patch) / Math.max(count - 1, 1) * index));
}

/** The weights of a tile along an axis, at most 1: a tile's weight is their product over the axes. */
function falloffOf(patch) {
  const centre = Math.floor(patch / 2), sigma = patch * SIGMA;
  return Float32Array.from({ length: patch }, (_, index) => Math.exp(-0.5 * ((index - centre) / sigma) ** 2));
}

/** channels: of an image of this shape; network: async, (channels of a tile) -> (outputs of it), each one array.
 * done: called with how many tiles are done, and how many there are. -> the logits, one array for each output */
async function slidingWindow(channels, shape, description, network, done) {
  const sides = description.patch.length === 2 ? [1, ...description.patch] : description.patch;
  const missing = sides.map((side, axis) => Math.max(side - shape[axis], 0));
  const before = missing.map((count) => Math.floor(count / 2)); // as nnU-Net pads: of an odd number one more behind
  const padded = shape.map((size, axis) => size + missing[axis]);
  const starts = padded.map((size, axis) => startsOf(size, sides[axis]));
  const count = starts.reduce((product, some) => product * some.length, 1);
  if (count > MOST_TILES) {
    throw new Refusal(`The network would run ${count.toLocaleString("en")} times; use monai-prox predict.`);
  }
  const falls = sides.map(falloffOf);
  const totals = padded.map((size, axis) => {
    const total = new Float32Array(size);
    for (const start of starts[axis]) falls[axis].forEach((weight, i) => { total[start + i] += weight; });
    return total;
  });
  const logits = Array.from({ length: description.outputs }, () => allocate(Float32Array, shape[0] * shape[1] * shape[2]));
  let number = 0;
  for (const z of starts[0]) for (const y of starts[1]) for (const x of starts[2]) {
    const corner = [z - before[0], y - before[1], x - before[2]]; // in the image, which it may go beyond
    const found = await network(channels.map((channel) => tileOf(channel, shape, corner, sides)));
    const shares = falls.map((fall, axis) => fall.map((weight, i) => weight / totals[axis][corner[axis] + before[axis] + i]));
    found.forEach((tile, output) => addTile(logits[output], shape, tile, corner, sides, shares));
    done(++number, count);
  }
  if (!logits.every((output) => output.every(Number.isFinite))) throw new Refusal("The network's outputs are no numbers.");
  return logits;
}

/** Calls what(place in the image, place in the tile, a, b, length) for each of the tile's lines that are in the image. */
function lines(shape, corner, sides, what) {
  const from = Math.max(0, -corner[2]), to = Math.min(sides[2], shape[2] - corner[2]);
  for (let a = Math.max(0, -corner[0]); a < Math.min(sides[0], shape[0] - corner[0]); a++) {
    for (let b = Math.max(0, -corner[1]); b < Math.min(sides[1], shape[1] - corner[1]); b++) {
      const place = ((corner[0] + a) * shape[1] + corner[1] + b) * shape[2] + corner[2];
      what(place + from, (a * sides[1] + b) * sides[2] + from, a, b, to - from);
    }
  }
}

function tileOf(channel, shape, corner, sides) {
  const tile = new Float32Array(sides[0] * sides[1] * sides[2]);
  lines(shape, corner, sides, (place, at, a, b, length) => tile.set(channel.subarray(place, place + length), at));
  return tile;
}

function addTile(logits, shape, tile, corner, sides, shares) {
  lines(shape, corner, sides, (place, at, a, b, length) => {
    const share = shares[0][a] * shares[1][b], first = at % sides[2];
    for (let i = 0; i < length; i++) logits[place + i] += tile[at + i] * share * shares[2][first + i];
  });
}
