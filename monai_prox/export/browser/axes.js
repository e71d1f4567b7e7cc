// Axes of an image in another order, and mirrored. A volume is numbers with a shape of three axes, the last the fastest.

/** How the network's axes lie in the file's, (z, y, x).
 * -> {axes, flips}: axis i is the file's axes[i], mirrored if flips[i] */
function turnOf(image, description) {
  const { axes, flips } = description.reader === "NibabelIOWithReorient" ? toRAS(image.affine) : { axes: [0, 1, 2], flips: [] };
  const order = description.transpose;
  return { axes: order.map((axis) => axes[axis]), flips: order.map((axis) => flips[axis] ?? false) };
}

/** What turns the file's axes (z, y, x) to those of RAS, reversed as these are. */
function toRAS(affine) {
  const towards = directions(affine);
  const axes = [], flips = [];
  towards.forEach(([world, sign], axis) => {
    axes[2 - world] = 2 - axis;
    flips[2 - world] = sign < 0;
  });
  return { axes, flips };
}

/** For each of the file's axes (x, y, z) the axis of the world that it is nearest to, and its sign, as nibabel finds them. */
function directions(affine) {
  let matrix = affine.map((row) => row.slice(0, 3));
  const sizes = [0, 1, 2].map((axis) => Math.hypot(...matrix.map((row) => row[axis])));
  matrix = matrix.map((row) => row.map((value, axis) => value / sizes[axis]));
  for (let step = 0; step < 50; step++) { // to the nearest rotation: the mean of a matrix and its inverse, transposed
    const inverse = cofactors(matrix);
    if (inverse === null) throw new Refusal("The image does not say where it lies: an axis of its affine points nowhere.");
    matrix = matrix.map((row, i) => row.map((value, j) => (value + inverse[i][j]) / 2));
  }
  const taken = new Set();
  return [0, 1, 2].map((axis) => {
    const free = [0, 1, 2].filter((world) => !taken.has(world));
    const nearest = free.reduce((best, world) => Math.abs(matrix[world][axis]) > Math.abs(matrix[best][axis]) ? world : best);
    taken.add(nearest);
    return [nearest, Math.sign(matrix[nearest][axis]) || 1];
  });
}

/** The transposed inverse of a 3 x 3 matrix, null if it has none. */
function cofactors(m) {
  const minor = (i, j) => {
    const [a, b] = [0, 1, 2].filter((row) => row !== i), [c, d] = [0, 1, 2].filter((column) => column !== j);
    return (m[a][c] * m[b][d] - m[a][d] * m[b][c]) * ((i + j) % 2 ? -1 : 1);
  };
  const found = [0, 1, 2].map((i) => [0, 1, 2].map((j) => minor(i, j)));
  const determinant = m[0][0] * found[0][0] + m[0][1] * found[0][1] + m[0][2] * found[0][2];
  if (!Number.isFinite(determinant) || Math.abs(determinant) < 1e-6) return null;
  return found.map((row) => row.map((value) => value / determinant));
}

/** data with the axes of ``turn``. -> {data, shape} */
function turned(data, shape, { axes, flips }) {
  const strides = [shape[1] * shape[2], shape[2], 1];
  const sizes = axes.map((axis) => shape[axis]);
  const steps = axes.map((axis, i) => flips[i] ? -strides[axis] : strides[axis]);
  const first = axes.reduce((sum, axis, i) => sum + (flips[i] ? (shape[axis] - 1) * strides[axis] : 0), 0);
  const result = allocate(data.constructor, data.length);
  let at = 0;
  for (let a = 0; a < sizes[0]; a++) {
    for (let b = 0; b < sizes[1]; b++) {
      let from = first + a * steps[0] + b * steps[1];
      for (let c = 0; c < sizes[2]; c++, from += steps[2]) result[at++] = data[from];
    }
  }
  return { data: result, shape: sizes };
}

/** What undoes ``turn``. */
function undone({ axes, flips }) {
  const back = { axes: [], flips: [] };
  axes.forEach((axis, i) => {
    back.axes[axis] = i;
    back.flips[axis] = flips[i];
  });
  return back;
}

/** data within box, [start, stop] for each axis. */
function within(data, shape, box) {
  const [z, y, x] = box;
  const width = x[1] - x[0];
  const result = allocate(data.constructor, (z[1] - z[0]) * (y[1] - y[0]) * width);
  let at = 0;
  for (let a = z[0]; a < z[1]; a++) {
    for (let b = y[0]; b < y[1]; b++, at += width) {
      const from = (a * shape[1] + b) * shape[2];
      result.set(data.subarray(from + x[0], from + x[1]), at);
    }
  }
  return result;
}
