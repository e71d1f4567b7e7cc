// Segments one case, apart from the page, which stays alive and can end it at any time.
// Messages to it: {runtime: ONNX Runtime's module, wasm, model: buffers, description, files}.
// Messages from it: {step, done, count}, in the end {result} or {problem}.

const SAME_SPACING = 1e-3; // mm, between channels

async function networkOf({ runtime, wasm, model, description }) {
  // Of a page that is a file, a worker has an origin of its own, and may import only what it has made itself
  const ort = await import(URL.createObjectURL(new Blob([runtime], { type: "text/javascript" })));
  ort.env.wasm.wasmBinary = wasm;
  ort.env.wasm.numThreads = 1; // more need a server that isolates the page
  ort.env.logLevel = "error";
  const session = await ort.InferenceSession.create(new Uint8Array(model), { executionProviders: ["wasm"] });
  const patch = description.patch.reduce((a, b) => a * b), count = description.channels.length;
  return async (tiles) => {
    const input = new Float32Array(count * patch);
    tiles.forEach((tile, channel) => input.set(tile, channel * patch));
    const image = new ort.Tensor("float32", input, [1, count, ...description.patch]);
    const { logits } = await session.run({ image });
    const values = logits.data;
    return Array.from({ length: description.outputs }, (_, output) => values.subarray(output * patch, (output + 1) * patch));
  };
}

/** Files of all channels, in their order, on one grid. */
async function readCase(files, { reader }) {
  const images = [];
  for (const file of files) images.push(await readNifti(file, reader));
  const [first, ...others] = images;
  for (const [index, image] of others.entries()) {
    const sizes = image.shape.every((size, axis) => size === first.shape[axis]);
    const spacings = image.spacing.every((mm, axis) => Math.abs(mm - first.spacing[axis]) < SAME_SPACING);
    if (sizes && spacings) continue;
    throw new Refusal(`${files[index + 1].name} has voxels of another number or size than ${files[0].name}.`);
  }
  return images;
}

async function segment(task) {
  const { description } = task;
  postMessage({ step: "Reading the image" });
  const images = await readCase(task.files, description);
  const turn = turnOf(images[0], description);
  const spacing = turn.axes.map((axis) => images[0].spacing[axis]);
  postMessage({ step: "Preparing the image" });
  const shape = turn.axes.map((axis) => images[0].shape[axis]);
  const inOrder = images.map((image) => turned(image.voxels, image.shape, turn).data);
  const { channels, grid } = prepare(inOrder, shape, spacing, description);
  postMessage({ step: "Starting the network" });
  const network = await networkOf(task);
  const done = (number, count) => postMessage({ step: "Segmenting", done: number, count });
  const logits = await slidingWindow(channels, grid.shape, description, network, done);
  postMessage({ step: "Finding the labels" });
  const found = turned(labelsOf(logits, grid, description), shape, undone(turn));
  keepLargest(found.data, found.shape, description.postprocessing);
  const { header, little, voxels, affine } = images[0];
  const nifti = writeNifti(header, little, found.data);
  return { labels: found.data, shape: found.shape, spacing: images[0].spacing, affine, voxels, nifti };
}

self.onmessage = async ({ data }) => {
  try {
    const result = await segment(data);
    postMessage({ result }, [result.labels.buffer, result.voxels.buffer, result.nifti.buffer]);
  } catch (error) {
    const unexpected = `This browser cannot segment it: ${error.message ?? error}`;
    postMessage({ problem: error instanceof Refusal ? error.message : unexpected });
  }
};
