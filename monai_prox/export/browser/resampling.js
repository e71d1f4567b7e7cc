// Resampling axis by axis by splines of order 0, 1 or 3, with the values of scipy's zoom, as nnU-Net resamples:
// sample i of n lies at (i + 1/2) / n of the extent, and beyond the outermost voxels their values go on.

const THICK = 3; // times the finest spacing: above it nnU-Net resamples an axis separately
const PAD = 12; // voxels that go on beyond an axis for splines of order 3
const POLE = Math.sqrt(3) - 2; // of the filter that finds the coefficients of such splines

/** As Python rounds: halves to the even number. */
function rounded(value) {
  const below = Math.floor(value);
  return value - below === 0.5 ? below + (below % 2) : Math.round(value);
}

/** Voxels per axis at the spacing ``target`` of an image of ``old`` voxels of ``mm``. */
function resampledShape(old, mm, target) {
  return old.map((size, axis) => rounded(mm[axis] / target[axis] * size));
}

/** The axis that is resampled separately, or null. */
function thickAxis(rule, oldSpacing, newSpacing) {
  if (rule.separate_z === false) return null;
  for (const spacing of [oldSpacing, newSpacing]) {
    const most = Math.max(...spacing);
    if (rule.separate_z || most / Math.min(...spacing) > THICK) {
      const thickest = [0, 1, 2].filter((axis) => spacing[axis] === most);
      return thickest.length === 1 ? thickest[0] : null;
    }
  }
  return null;
}

/** What each of ``count`` samples of an axis of ``size`` voxels is the sum of: ``taps`` weighed voxels from ``first`` on. */
function tapsOf(size, count, order) {
  const taps = order + 1;
  const first = new Int32Array(count), weights = new Float64Array(count * taps);
  for (let i = 0; i < count; i++) {
    const at = (i + 0.5) * size / count - 0.5;
    if (order === 0) {
      first[i] = Math.min(Math.max(Math.floor(size / count * (i + 0.5)), 0), size - 1);
      weights[i] = 1;
    } else if (order === 1) {
      const inside = Math.min(Math.max(at, 0), size - 1);
      first[i] = Math.min(Math.floor(inside), Math.max(size - 2, 0));
      weights[2 * i + 1] = inside - first[i];
      weights[2 * i] = 1 - weights[2 * i + 1];
    } else {
      const below = Math.floor(at), t = at - below, u = 1 - t;
      first[i] = below - 1 + PAD;
      weights.set([u ** 3 / 6, 2 / 3 - t * t * (2 - t) / 2, 2 / 3 - u * u * (2 - u) / 2, t ** 3 / 6], taps * i);
    }
  }
  return { first, weights, taps };
}

/** line: values with PAD more at both ends, which becomes the coefficients of the spline through them. */
function toCoefficients(line) {
  const last = line.length - 1, gain = (1 - POLE) * (1 - 1 / POLE);
  for (let i = 0; i <= last; i++) line[i] *= gain;
  for (let i = 1, power = POLE; i <= last && i < 40; i++, power *= POLE) line[0] += power * line[i];
  for (let i = 1; i <= last; i++) line[i] += POLE * line[i - 1];
  line[last] = POLE / (POLE * POLE - 1) * (POLE * line[last - 1] + line[last]);
  for (let i = last - 1; i >= 0; i--) line[i] = POLE * (line[i + 1] - line[i]);
}

/** data with ``count`` samples along an axis. */
function resampledAlong(data, shape, axis, count, order) {
  const size = shape[axis];
  const outer = shape.slice(0, axis).reduce((a, b) => a * b, 1), inner = shape.slice(axis + 1).reduce((a, b) => a * b, 1);
  const result = allocate(Float32Array, outer * count * inner);
  const { first, weights, taps } = tapsOf(size, count, order);
  const pad = order === 3 ? PAD : 0;
  const line = new Float64Array(Math.max(size + 2 * pad, taps)); // an axis of one voxel has nothing beside it
  for (let a = 0; a < outer; a++) {
    for (let b = 0; b < inner; b++) {
      let from = a * size * inner + b;
      for (let i = 0; i < size; i++, from += inner) line[pad + i] = data[from];
      if (pad > 0) {
        line.fill(line[pad], 0, pad);
        line.fill(line[pad + size - 1], pad + size);
        toCoefficients(line);
      }
      let to = a * count * inner + b;
      for (let i = 0; i < count; i++, to += inner) {
        let sum = 0;
        for (let tap = 0; tap < taps; tap++) sum += weights[i * taps + tap] * line[first[i] + tap];
        result[to] = sum;
      }
    }
  }
  return result;
}

/** data, one image, at the shape ``to``. clipped: whether its range is kept, in images with thick slices that of each slice. */
function resampled(data, from, to, oldSpacing, newSpacing, rule, clipped) {
  if (from.every((size, axis) => size === to[axis])) return data;
  const thick = thickAxis(rule, oldSpacing, newSpacing);
  const kept = [0, 1, 2].filter((axis) => axis !== thick).sort((a, b) => to[a] / from[a] - to[b] / from[b]);
  const range = clipped ? rangesOf(data, from, thick) : null;
  const shape = [...from];
  let result = data;
  for (const axis of kept) { // what shrinks comes first
    if (shape[axis] === to[axis]) continue;
    result = resampledAlong(result, shape, axis, to[axis], rule.order);
    shape[axis] = to[axis];
  }
  if (range !== null && result !== data) clip(result, shape, thick, range);
  if (thick === null || shape[thick] === to[thick]) return result;
  return resampledAlong(result, shape, thick, to[thick], rule.order_z);
}

/** Calls what(place, slice) for every voxel, with its slice along an axis, 0 if that is null. */
function bySlices(shape, axis, what) {
  const inner = axis === null ? 1 : shape.slice(axis + 1).reduce((a, b) => a * b, 1);
  const count = axis === null ? 1 : shape[axis], voxels = shape[0] * shape[1] * shape[2];
  for (let i = 0; i < voxels; i++) what(i, Math.floor(i / inner) % count);
}

function rangesOf(data, shape, axis) {
  const count = axis === null ? 1 : shape[axis];
  const least = new Float32Array(count).fill(Infinity), most = new Float32Array(count).fill(-Infinity);
  bySlices(shape, axis, (i, slice) => {
    if (data[i] < least[slice]) least[slice] = data[i];
    if (data[i] > most[slice]) most[slice] = data[i];
  });
  return { least, most };
}

function clip(data, shape, axis, { least, most }) {
  bySlices(shape, axis, (i, slice) => {
    data[i] = Math.min(Math.max(data[i], least[slice]), most[slice]);
  });
}
