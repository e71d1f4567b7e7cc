// From logits on the network's grid to labels on the image's.

/** logits: one array for each output, which are given up one by one.
 * -> labels of the whole image, 0 in what was cropped away */
function labelsOf(logits, grid, description) {
  const values = description.regions ?? logits.map((_, output) => output);
  const cropped = allocate(Math.max(...values) < 255 ? Uint8Array : Uint16Array, grid.cropped.reduce((a, b) => a * b));
  const best = description.regions === null ? allocate(Float32Array, cropped.length).fill(-Infinity) : null;
  logits.forEach((output, index) => {
    logits[index] = null;
    const scores = resampled(output, grid.shape, grid.cropped, grid.spacing, grid.imageSpacing, description.logits, false);
    for (let i = 0; i < cropped.length; i++) {
      if (best === null) {
        if (scores[i] > 0) cropped[i] = values[index]; // later regions on top
      } else if (scores[i] > best[i]) {
        best[i] = scores[i];
        cropped[i] = values[index];
      }
    }
  });
  return surrounded(cropped, grid);
}

/** labels of the cropped image in the whole one. */
function surrounded(cropped, { whole, box }) {
  const result = allocate(cropped.constructor, whole[0] * whole[1] * whole[2]);
  const [z, y, x] = box;
  let at = 0;
  for (let a = z[0]; a < z[1]; a++) {
    for (let b = y[0]; b < y[1]; b++, at += x[1] - x[0]) {
      result.set(cropped.subarray(at, at + x[1] - x[0]), (a * whole[1] + b) * whole[2] + x[0]);
    }
  }
  return result;
}

/** nnU-Net's postprocessing: of some values together all but the largest component becomes 0. Voxels touch also at corners. */
function keepLargest(labels, shape, steps) {
  for (const values of steps) {
    const chosen = new Set(values);
    const component = allocate(Uint32Array, labels.length), sizes = [0];
    for (let i = 0; i < labels.length; i++) {
      if (component[i] === 0 && chosen.has(labels[i])) sizes.push(spread(labels, component, shape, i, chosen, sizes.length));
    }
    const most = sizes.reduce((a, b) => Math.max(a, b));
    for (let i = 0; i < labels.length; i++) if (component[i] > 0 && sizes[component[i]] < most) labels[i] = 0;
  }
}

/** Gives the component of voxel ``first`` its number. -> its size */
function spread(labels, component, shape, first, chosen, number) {
  const [depth, height, width] = shape;
  const waiting = [first];
  let size = 0;
  component[first] = number;
  while (waiting.length > 0) {
    const i = waiting.pop();
    size += 1;
    const c = i % width, b = Math.floor(i / width) % height, a = Math.floor(i / (width * height));
    for (let z = Math.max(a - 1, 0); z <= Math.min(a + 1, depth - 1); z++) {
      for (let y = Math.max(b - 1, 0); y <= Math.min(b + 1, height - 1); y++) {
        for (let x = Math.max(c - 1, 0); x <= Math.min(c + 1, width - 1); x++) {
          const near = (z * height + y) * width + x;
          if (component[near] === 0 && chosen.has(labels[near])) {
            component[near] = number;
            waiting.push(near);
          }
        }
      }
    }
  }
  return size;
}
