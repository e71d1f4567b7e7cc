// NIfTI-1 files, .nii and .nii.gz: what a page reads from outside, so every number of a header is checked before it is used.

const HEADER = 348; // bytes
const BEFORE_VOXELS = 352; // bytes of what is written: the header and four zeros, which say that nothing else follows it
const MOST_SKIPPED = 2 ** 24; // bytes between the header and the voxels
const VOXELS = new Map([ // arrays of the numbers of a file, by the code of the type
  [2, Uint8Array], [4, Int16Array], [8, Int32Array], [16, Float32Array], [64, Float64Array],
  [256, Int8Array], [512, Uint16Array], [768, Uint32Array], [1024, BigInt64Array], [1280, BigUint64Array],
]);
const MILLIMETRES = new Set([0, 2]); // codes of the unit: unknown, mm

/** What is wrong with a file or too large, in words for whoever uses the page. */
class Refusal extends Error {}

/** Gives as many bytes of a stream as are asked for, in order. */
class Bytes {
  constructor(stream) {
    this.reader = stream.getReader();
    this.rest = new Uint8Array(0);
  }

  async read(count) {
    const bytes = allocate(Uint8Array, count);
    for (let at = 0; at < count;) {
      if (this.rest.length === 0) {
        const { done, value } = await this.reader.read();
        if (done) throw new Refusal("it ends too early");
        this.rest = value;
        continue;
      }
      const part = this.rest.subarray(0, count - at);
      bytes.set(part, at);
      at += part.length;
      this.rest = this.rest.subarray(part.length);
    }
    return bytes;
  }
}

/** An array of numbers; browsers say only "allocation failed" for one that does not fit. */
function allocate(type, count) {
  try {
    return new type(count);
  } catch {
    throw new Refusal("there is not enough memory for it in this browser; use monai-prox predict");
  }
}

/** Reads a file as ``reader``, nnU-Net's, does. -> {header: bytes, little, shape: (z, y, x), spacing: (z, y, x) in mm, affine: 3 x 4, voxels: Float32Array} */
async function readNifti(file, reader) {
  const byITK = reader === "SimpleITKIO";
  const start = new Uint8Array(await file.slice(0, 2).arrayBuffer());
  const zipped = start[0] === 0x1f && start[1] === 0x8b;
  const bytes = new Bytes(zipped ? file.stream().pipeThrough(new DecompressionStream("gzip")) : file.stream());
  try {
    const header = await bytes.read(HEADER);
    const image = parseHeader(header, byITK);
    await bytes.read(image.offset - HEADER);
    const raw = await bytes.read(image.shape.reduce((a, b) => a * b) * image.type.BYTES_PER_ELEMENT);
    return { ...image, header, voxels: numbers(raw, image, byITK) };
  } catch (error) {
    if (error instanceof Refusal) throw new Refusal(`${file.name} cannot be read: ${error.message}.`);
    throw new Refusal(`${file.name} cannot be read: it is no whole gzip file of one part.`);
  } finally {
    bytes.reader.cancel().catch(() => {});
  }
}

function parseHeader(header, byITK) {
  const view = new DataView(header.buffer);
  const little = view.getInt32(0, true) === HEADER;
  if (!little && view.getInt32(0, false) !== HEADER) throw new Refusal("it is no NIfTI-1 file");
  if (String.fromCharCode(...header.subarray(344, 347)) !== "n+1") throw new Refusal("its voxels are in another file");
  const short = (at) => view.getInt16(at, little);
  const float = (at) => view.getFloat32(at, little);
  const more = [48, 50, 52, 54].slice(0, Math.max(short(40) - 3, 0)).map(short); // beyond three axes; ITK leaves out those of 1
  if (short(40) < 3 || short(40) > 7 || (more.length > 0 && !(byITK && more.every((count) => count === 1)))) {
    throw new Refusal(`it has ${short(40)} axes; expected 3, and a file for each channel`);
  }
  const size = [short(42), short(44), short(46)];
  if (Math.min(...size) < 1) throw new Refusal(`its header says ${size.join(" x ")} voxels`);
  const voxels = size.reduce((a, b) => a * b);
  if (voxels > MOST_VOXELS) {
    throw new Refusal(`it has ${voxels.toLocaleString("en")} voxels, too many for a browser; use monai-prox predict`);
  }
  const type = VOXELS.get(short(70));
  if (type === undefined) throw new Refusal(`its voxels have the type ${short(70)}; allowed are real numbers of up to 8 bytes`);
  const zooms = [float(80), float(84), float(88)].map(Math.abs);
  if (!zooms.every((mm) => mm >= 1e-9 && mm <= 1e9)) throw new Refusal(`its voxels have ${zooms.join(" x ")} mm`);
  if (!MILLIMETRES.has(header[123] & 7)) throw new Refusal("its spacing is not in mm");
  const offset = float(108);
  if (!(Number.isInteger(offset) && offset >= HEADER && offset <= MOST_SKIPPED)) {
    throw new Refusal(`its voxels begin at the byte ${offset}`);
  }
  return {
    little, type, offset, shape: size.toReversed(), spacing: zooms.toReversed(), affine: affineOf(view, little, zooms),
    slope: float(112), intercept: float(116),
  };
}

/** Three rows of four: where a voxel (x, y, z) lies, in mm to the right, to the front and up. */
function affineOf(view, little, zooms) {
  const float = (at) => view.getFloat32(at, little);
  if (view.getInt16(254, little) > 0) { // the sform
    return [280, 296, 312].map((row) => [0, 4, 8, 12].map((at) => float(row + at)));
  }
  if (view.getInt16(252, little) <= 0) return [[-zooms[0], 0, 0, 0], [0, zooms[1], 0, 0], [0, 0, zooms[2], 0]];
  const [b, c, d] = [256, 260, 264].map(float);
  const a = Math.sqrt(Math.max(0, 1 - b * b - c * c - d * d));
  const last = float(76) < 0 ? -1 : 1;
  const turns = [
    [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
    [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
    [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
  ];
  return turns.map((row, axis) => [row[0] * zooms[0], row[1] * zooms[1], row[2] * zooms[2] * last, float(268 + 4 * axis)]);
}

/** raw: bytes of the file -> its numbers, scaled as its header says. ITK and nibabel differ where that is no number. */
function numbers(raw, { type, little, slope, intercept }, byITK) {
  if (!little) swap(raw, type.BYTES_PER_ELEMENT);
  const stored = new type(raw.buffer);
  if (byITK && (type === Float32Array || type === Float64Array)) {
    for (let i = 0; i < stored.length; i++) if (!Number.isFinite(stored[i])) stored[i] = 0;
  }
  const scales = Number.isFinite(slope) && slope !== 0;
  if (!byITK && scales && !Number.isFinite(intercept)) throw new Refusal("the intercept of its voxels is no number");
  const times = scales ? slope : 1, plus = Number.isFinite(intercept) && (scales || byITK) ? intercept : 0;
  if (times === 1 && plus === 0) return type === Float32Array ? stored : Float32Array.from(stored, Number);
  const scaled = allocate(Float32Array, stored.length);
  for (let i = 0; i < stored.length; i++) scaled[i] = Number(stored[i]) * times + plus;
  return scaled;
}

/** Turns the bytes of every number around. */
function swap(bytes, width) {
  for (let at = 0; width > 1 && at < bytes.length; at += width) bytes.subarray(at, at + width).reverse();
}

/** labels: Uint8Array or Uint16Array, (z, y, x), on the grid of the file with this header -> the bytes of a .nii file. */
function writeNifti(header, little, labels) {
  const width = labels.BYTES_PER_ELEMENT;
  const bytes = allocate(Uint8Array, BEFORE_VOXELS + labels.length * width);
  bytes.set(header);
  const view = new DataView(bytes.buffer);
  view.setInt16(40, 3, little);
  view.setInt16(70, width === 1 ? 2 : 512, little);
  view.setInt16(72, 8 * width, little);
  for (const [at, value] of [[108, BEFORE_VOXELS], [112, 1], [116, 0], [124, 0], [128, 0]]) view.setFloat32(at, value, little);
  bytes.set(new Uint8Array(labels.buffer, labels.byteOffset, labels.byteLength), BEFORE_VOXELS);
  if (!little) swap(bytes.subarray(BEFORE_VOXELS), width);
  return bytes;
}
