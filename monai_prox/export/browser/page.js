// The page: files in, a worker that segments them, and its result in a viewer and as a file.

const byId = (id) => document.getElementById(id);
const description = JSON.parse(byId("description").textContent);
const colours = new Map(description.legend.map(({ value }, index) => [value, rgb(COLOURS[index % COLOURS.length])]));
let parts = null, worker = null, cases = 0, shown = null, saved = null;

/** What is embedded in the page, as bytes: gzip in base64. */
async function embedded(id) {
  const packed = Uint8Array.from(atob(byId(id).textContent), (letter) => letter.charCodeAt(0));
  return new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

function say(text, problem = "") {
  byId("status").textContent = text;
  byId("problem").textContent = problem;
}

function stop() {
  cases += 1;
  worker?.terminate();
  worker = null;
  byId("running").hidden = true;
}

async function segment(files) {
  stop();
  byId("result").hidden = true;
  const names = description.channels;
  if (files.length !== names.length) {
    say("", `The network needs ${names.length} file${names.length > 1 ? "s" : ""} (${names.join(", ")}), got ${files.length}.`);
    return;
  }
  const sorted = [...files].sort((a, b) => (a.name < b.name ? -1 : 1)); // case_0000, case_0001 and so on
  say("Loading the network");
  byId("running").hidden = false;
  byId("progress").removeAttribute("value");
  const number = cases;
  parts ??= Promise.all(["worker", "runtime", "wasm", "model"].map(embedded)); // once, for all cases
  const [program, runtime, wasm, model] = await parts;
  if (number !== cases) return; // cancelled, or another image was chosen
  const address = URL.createObjectURL(new Blob([program], { type: "text/javascript" }));
  worker = new Worker(address);
  URL.revokeObjectURL(address);
  worker.onmessage = ({ data }) => receive(data, sorted[0].name);
  worker.onerror = (event) => receive({ problem: `This browser cannot segment it: ${event.message}` });
  worker.postMessage({ runtime, wasm, model, description, files: sorted });
}

function receive({ step, done, count, result, problem }, name) {
  if (step !== undefined) {
    say(done === undefined ? step : `${step}: ${done} of ${count}`);
    if (done !== undefined) byId("progress").value = done / count;
    else byId("progress").removeAttribute("value");
    return;
  }
  stop();
  if (problem !== undefined) say("", problem);
  else show(result, name);
}

function show(result, name) {
  shown = { ...result, window: windowOf(result.voxels) };
  say("");
  const counts = new Map();
  for (const label of result.labels) counts.set(label, (counts.get(label) ?? 0) + 1);
  const millilitres = result.spacing.reduce((a, b) => a * b) / 1000;
  byId("labels").replaceChildren(...description.legend.map(({ value, name: label }) => {
    const row = document.createElement("tr"), head = document.createElement("th"), mark = document.createElement("i");
    mark.style.background = `rgb(${colours.get(value).join(" ")})`;
    head.scope = "row";
    head.append(mark, label);
    row.append(head);
    row.insertCell().textContent = `${((counts.get(value) ?? 0) * millilitres).toFixed(2)} ml`;
    return row;
  }));
  byId("found").textContent = `Segmentation of ${name}`;
  byId("result").hidden = false;
  choosePlane();
  offer(name);
}

async function offer(name) {
  if (saved !== null) URL.revokeObjectURL(saved);
  const zipped = new Blob([shown.nifti]).stream().pipeThrough(new CompressionStream("gzip"));
  saved = URL.createObjectURL(await new Response(zipped).blob());
  byId("download").href = saved;
  byId("download").download = `${name.replace(/\.nii(\.gz)?$/, "").replace(/_0000$/, "")}_segmentation.nii.gz`;
}

/** Begins in the slice that has most labels. */
function choosePlane() {
  const along = PLANES[byId("plane").value][1];
  const labelled = new Array(shown.shape[along]).fill(0);
  bySlices(shown.shape, along, (i, slice) => {
    if (shown.labels[i] > 0) labelled[slice] += 1;
  });
  const most = labelled.reduce((a, b) => Math.max(a, b));
  byId("place").max = shown.shape[along] - 1;
  byId("place").value = most > 0 ? labelled.indexOf(most) : Math.floor(shown.shape[along] / 2);
  draw();
}

function draw() {
  if (shown === null) return;
  const place = Number(byId("place").value), total = Number(byId("place").max) + 1;
  drawSlice(byId("slice"), shown, byId("plane").value, place, byId("opacity").value / 100, colours);
  byId("number").textContent = `${place + 1} of ${total}`;
  byId("slice").setAttribute("aria-label", `Slice ${place + 1} of ${total} of the image, with the segmentation over it`);
}

byId("plane").append(...PLANES.map(([name], index) => new Option(`along ${name}`, index)));
byId("plane").addEventListener("change", choosePlane);
byId("place").addEventListener("input", draw);
byId("opacity").addEventListener("input", draw);
byId("cancel").addEventListener("click", () => {
  stop();
  say("Cancelled.");
});
byId("files").addEventListener("change", (event) => {
  if (event.target.files.length > 0) segment([...event.target.files]);
  event.target.value = ""; // so that the same file can be chosen again
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    byId("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files.length > 0) segment([...event.dataTransfer.files]);
  });
}
