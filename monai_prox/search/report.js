
"use strict";
// What comes from the search is set as text or as an attribute, and never as markup.
const data = JSON.parse(document.getElementById("data").textContent);
const at = id => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const SPACE = "\u00a0"; // at which no line breaks
const NEAR = 22; // pixels from a point in which a tap still means it
const FEW_CLASSES = 4, SHOWN_CLASSES = 12; // that are columns of the table; that are shown in the details without a click
const PREFIXES = [["E", 1e18], ["P", 1e15], ["T", 1e12], ["G", 1e9], ["M", 1e6], ["k", 1e3]];
const ENDINGS = { onnx: ".onnx", openvino: ".xml", torchscript: ".ts", html: ".html", bundle: "" };
const measure = data.measure[0].toUpperCase() + data.measure.slice(1);
let axis = Object.keys(data.axes)[0], chosen = null, format = "onnx";
let now = {}; // ahead: the front of the present axis; of the budget, first: the recommended member, within: those within its error

// ---------------------------------------------------------------- members
const whole = new Set(data.measured.map(one => one.name));
const few = data.members.filter(one => !whole.has(one.name)).map(one => ({ ...one, score: one.expected, shift: one.expected - one.score }));
const choices = [...data.measured, ...few];
const left = Object.entries(data.cases.left_out);
const every = `all ${data.cases.all}${left.length ? " usable" : ""} cases`;
const byCost = () => [...choices].sort((a, b) => a.price[axis] - b.price[axis] || b.score - a.score);

function leading(among) {
  let reached = -Infinity;
  return byCost().filter(one => among(one) && one.score > reached && ((reached = one.score), true));
}
/* Of the present axis: those than which none is as cheap and better, from the cheapest on. A guessed score counts only where no measured one is as cheap */
function front() {
  const measured = Math.min(...data.measured.map(one => one.price[axis]));
  return [...leading(one => !whole.has(one.name) && one.price[axis] < measured), ...leading(one => whole.has(one.name))];
}
function range() {
  const costs = choices.map(one => one.price[axis]), low = Math.min(...costs), high = Math.max(...costs);
  return low < high ? [low * .93, high * 1.07] : [low * .9, high * 1.1];
}
function limit() {
  const [low, high] = range();
  return low * (high / low) ** (at("budget").value / 1000);
}
function best() {
  return front().filter(one => one.price[axis] <= limit()).pop() ?? null;
}
/* Whether the mean difference of two members' scores is within its standard error, over the cases that both were scored on */
function alike(one, other) {
  const known = (member, name) => Object.hasOwn(member.scores, name) && member.scores[name] !== null;
  const gaps = Object.keys(one.scores).filter(name => known(one, name) && known(other, name)).map(name => one.scores[name] - other.scores[name]);
  const mean = gaps.reduce((sum, gap) => sum + gap, 0) / gaps.length;
  const error = Math.sqrt(gaps.reduce((sum, gap) => sum + (gap - mean) ** 2, 0) / (gaps.length - 1) / gaps.length);
  return gaps.length > 1 && Math.abs(mean) <= error;
}
function see() {
  const first = best(), most = limit(), others = choices.filter(one => first && one !== first && one.price[axis] <= most);
  now = { ahead: front(), first, within: new Set(others.filter(one => alike(one, first))) };
}

// ---------------------------------------------------------------- words
const unit = name => data.axes[name].split(", ")[1] ?? "";
const prefixed = value => PREFIXES.find(([, factor]) => +value.toPrecision(3) >= factor) ?? ["", 1];
function short(value, digits = 3) {
  const [prefix, factor] = prefixed(value);
  return +(value / factor).toPrecision(digits) + (prefix && SPACE + prefix);
}
/* A cost without its unit. Megabytes and milliseconds have no prefix before them */
const plain = (value, name, digits = 3) => unit(name) ? (+value.toPrecision(digits)).toLocaleString("en", { maximumFractionDigits: 9 }) : short(value, digits);
/* The same with all three digits, for a column of a table */
function column(value, name) {
  const [prefix, factor] = unit(name) ? ["", 1] : prefixed(value);
  const digits = Math.max(0, 2 - Math.floor(Math.log10(value / factor)));
  return (value / factor).toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits }) + (prefix && SPACE + prefix);
}
const cost = (value, name) => plain(value, name) + (unit(name) && SPACE + unit(name));
const number = one => one.shift === undefined ? `${one.cases} of ${data.cases.all} cases` : `only ${one.cases} of ${data.cases.all} cases, shifted by ${one.shift < 0 ? "−" : "+"}${Math.abs(one.shift).toFixed(4)}`;
const decimals = value => value === null ? "–" : value.toFixed(4);
const slots = values => values.map(value => value || "–").join(" ");
const summary = one => `${one.name}\n${measure} ${one.score.toFixed(4)}, ${number(one)}\n${data.axes[axis].split(", ")[0]} ${cost(one.price[axis], axis)}`;
function marks(one) {
  const mark = one === now.first ? "best" : now.within.has(one) ? "≈ best" : "";
  return [mark, now.ahead.includes(one) ? "front" : ""].filter(Boolean).join(", ");
}

// ---------------------------------------------------------------- elements
function filled(made, attributes, content) {
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...[content].flat().filter(part => part !== undefined));
  return made;
}
const element = (name, attributes = {}, content) => filled(document.createElement(name), attributes, content);
const shape = (name, attributes = {}, content) => filled(document.createElementNS(SVG, name), attributes, content);
function rows(pairs) {
  return pairs.map(([title, value]) => element("tr", {}, [element("th", { scope: "row" }, title), element("td", {}, value)]));
}
const head = cells => element("thead", {}, element("tr", {}, cells));

// ---------------------------------------------------------------- ticks
/* Multiples of 1, 2 or 5 times a power of ten from low to high, about `most` of them */
function steps(low, high, most) {
  const raw = (high - low) / most, power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find(factor => factor * power >= raw * (1 - 1e-9));
  const found = [];
  for (let times = Math.ceil(low / step - 1e-9); times * step <= high * (1 + 1e-12); times++) found.push(+(times * step).toPrecision(12));
  return found;
}
/* The given digits times powers of ten, of every so many, from low to high */
function powers(low, high, digits, stride) {
  const found = [];
  for (let power = stride * Math.floor(Math.log10(low) / stride); power <= Math.log10(high); power += stride) found.push(...digits.map(digit => +(digit * 10 ** power).toPrecision(12)));
  return found.filter(value => value >= low && value <= high);
}
/* The finest of some sets of ticks whose labels have room, a number of pixels that depends on the set */
function roomy(sets, place, room) {
  const fits = found => found.every((value, index) => index === 0 || Math.abs(place(value) - place(found[index - 1])) >= room(found));
  return sets.filter(found => found.length).find(fits) ?? [];
}
const linear = (low, high) => [10, 8, 6, 5, 4, 3, 2, 1].map(most => steps(low, high, most));
function logarithmic(low, high) {
  const decades = [[[1, 2, 5], 1], [[1, 5], 1], [[1], 1], [[1], 2], [[1], 3]].map(([digits, stride]) => powers(low, high, digits, stride));
  return [...decades.filter(found => found.length > 2), ...linear(low, high).map(found => found.filter(value => value > 0))];
}

// ---------------------------------------------------------------- the chart
function chart() {
  const width = Math.max(at("chart").clientWidth, 240), height = Math.round(Math.min(620, Math.max(300, width > 480 ? width : width * .8)));
  const box = { left: 58, right: width - 10, top: 10, bottom: height - 50 };
  const [low, high] = range(), scores = choices.map(one => one.score), { ahead, within } = now, most = limit();
  const spread = Math.max(Math.max(...scores) - Math.min(...scores), .01), bottom = Math.min(...scores) - .08 * spread, top = Math.min(1, Math.max(...scores) + .12 * spread);
  const x = value => box.left + (box.right - box.left) * Math.log(value / low) / Math.log(high / low);
  const y = value => box.bottom - (box.bottom - box.top) * (value - bottom) / (top - bottom);
  const middle = (box.top + box.bottom) / 2, frame = shape("g", { "aria-hidden": "true" });
  const draw = (name, attributes, text) => frame.append(shape(name, attributes, text));
  const heights = roomy(linear(bottom, top), y, () => 36), digits = Math.max(...heights.map(value => (String(value).split(".")[1] ?? "").length));
  for (const value of heights) {
    draw("line", { class: "grid", x1: box.left, x2: box.right, y1: y(value), y2: y(value) });
    draw("text", { class: "y", x: box.left - 8, y: y(value) + 4, "text-anchor": "end" }, value.toFixed(digits));
  }
  const label = value => plain(value, axis, 12), long = found => 8 * Math.max(...found.map(value => label(value).length));
  const costs = roomy(logarithmic(low, high), x, found => Math.max(48, long(found) + 10));
  for (const value of costs) {
    draw("line", { class: "tick", x1: x(value), x2: x(value), y1: box.bottom, y2: box.bottom + 5 });
    draw("text", { class: "x", x: Math.min(x(value), width - long([value]) / 2), y: box.bottom + 19, "text-anchor": "middle" }, label(value));
  }
  draw("line", { class: "tick", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom });
  draw("text", { class: "title", x: (box.left + box.right) / 2, y: height - 8, "text-anchor": "middle" }, data.axes[axis]);
  draw("text", { class: "title", x: 13, y: middle, transform: `rotate(-90 13 ${middle})`, "text-anchor": "middle" }, "mean " + measure);
  let path = "";
  for (const one of ahead) path += path ? ` H ${x(one.price[axis])} V ${y(one.score)}` : `M ${x(one.price[axis])} ${y(one.score)}`;
  draw("path", { class: "front", d: path + ` H ${box.right}` });
  draw("line", { class: "limit", x1: x(most), x2: x(most), y1: box.top, y2: box.bottom });
  const points = shape("g", { role: "listbox", "aria-label": "members" }), order = byCost(), stop = chosen ?? order[0];
  const onTop = one => (one === chosen ? 2 : whole.has(one.name) ? 1 : 0);
  for (const one of [...choices].sort((a, b) => onTop(a) - onTop(b))) {
    const dear = one.price[axis] > most ? " dear" : "", place = { cx: x(one.price[axis]), cy: y(one.score) }, finalist = whole.has(one.name);
    const leads = ahead.includes(one), radius = finalist ? 6 : leads ? 5 : 3.5;
    if (finalist && one.standard_error && !dear) draw("line", { class: "error", x1: place.cx, x2: place.cx, y1: Math.min(box.bottom, y(one.score - one.standard_error)), y2: Math.max(box.top, y(one.score + one.standard_error)) });
    if (within.has(one)) draw("circle", { class: "ring" + dear, r: radius + 4, ...place });
    const kind = `choice ${finalist ? "finalist" : "member"}${leads ? " best" : ""}${dear}${one === chosen ? " chosen" : ""}${within.has(one) ? " alike" : ""}`;
    const said = [summary(one).replaceAll("\n", ", "), marks(one), dear && "over the budget"].filter(Boolean).join(", ");
    points.append(shape("circle", { class: kind, r: radius, role: "option", "aria-selected": one === chosen, "aria-label": said, tabindex: one === stop ? 0 : -1, "data-name": one.name, ...place }));
  }
  filled(at("chart"), { viewBox: `0 0 ${width} ${height}`, height, "aria-label": `${measure} over ${data.axes[axis]}, ${choices.length} members` }, []).replaceChildren(frame, points);
}
/* The member at or near a place on the screen */
function pointed(event) {
  const dots = [...at("chart").querySelectorAll(".choice")];
  const away = dot => { const box = dot.getBoundingClientRect(); return Math.hypot(event.clientX - box.x - box.width / 2, event.clientY - box.y - box.height / 2); };
  const nearest = dots.reduce((a, b) => away(a) <= away(b) ? a : b);
  return away(nearest) <= NEAR ? nearest : event.target.closest(".choice"); // a screen reader's click has no place
}
const named = name => choices.find(one => one.name === name);
const holding = (place, name) => place?.querySelector(`[data-name="${CSS.escape(name)}"]`);
const dotOf = one => holding(at("chart"), one.name);
function tip(one) {
  at("tip").hidden = !one;
  if (!one) return;
  const parts = Object.entries(one.subnet).map(([name, values]) => `${name.replace("_", " ")} ${slots(values)}`);
  at("tip").textContent = [summary(one), ...parts].join("\n");
  const dot = dotOf(one).getBoundingClientRect(), { offsetWidth: width, offsetHeight: height } = at("tip"), edge = document.documentElement.clientWidth;
  const below = dot.bottom + 12 + height <= innerHeight || dot.top < height + 12;
  at("tip").style.left = scrollX + Math.max(8, Math.min(dot.right + 8, edge - width - 8)) + "px";
  at("tip").style.top = scrollY + (below ? dot.bottom + 12 : dot.top - height - 12) + "px";
}
function listen() {
  const plot = at("chart"), area = plot.parentElement; // a drawing that listens for the focus would have it itself
  plot.addEventListener("click", event => { const dot = pointed(event); if (dot) { choose(named(dot.dataset.name)); tip(chosen); } });
  plot.addEventListener("pointermove", event => { if (event.pointerType === "mouse") { const dot = pointed(event); tip(dot && named(dot.dataset.name)); } });
  plot.addEventListener("pointerleave", event => { if (event.pointerType === "mouse") tip(null); });
  area.addEventListener("focusin", event => { if (event.target.matches(".choice:focus-visible")) tip(named(event.target.dataset.name)); });
  area.addEventListener("focusout", () => tip(null));
  plot.addEventListener("keydown", event => {
    const order = byCost(), here = order.findIndex(one => one.name === event.target.dataset.name), last = order.length - 1;
    const to = { ArrowRight: here + 1, ArrowDown: here + 1, ArrowLeft: here - 1, ArrowUp: here - 1, Home: 0, End: last }[event.key];
    if (here < 0 || (to === undefined && event.key !== "Enter" && event.key !== " ")) return;
    event.preventDefault();
    if (to !== undefined) dotOf(order[Math.max(0, Math.min(last, to))]).focus();
    else { choose(order[here]); tip(chosen); }
  });
  document.addEventListener("keydown", event => { if (event.key === "Escape") tip(null); });
  document.addEventListener("pointerdown", event => { if (!plot.contains(event.target) || !pointed(event)) tip(null); });
  let width = area.clientWidth;
  new ResizeObserver(() => { if (area.clientWidth !== width) { width = area.clientWidth; tip(null); keepingFocus(chart); } }).observe(area);
}

// ---------------------------------------------------------------- the chosen member
function command() {
  const output = format in ENDINGS ? ` --output ${chosen.name}${ENDINGS[format]}` : "";
  return `${chosen.command} --format ${format}${output}`;
}
/* The command's words as elements, so that lines break between them */
const words = () => command().split(" ").flatMap((word, index) => [index ? " " : "", element("span", {}, word)]);
function picker(one) {
  const button = element("button", { class: "link", type: "button", "data-name": one.name }, one.name);
  button.addEventListener("click", event => { event.stopPropagation(); choose(one); });
  return button;
}
/* What one would rather look at, if anything: the recommended member, or the cheapest that is as good for all that is known */
function instead() {
  const { first, within } = now;
  if (first && chosen !== first) return [within.has(chosen) ? "Within the error of the recommended member, " : "Recommended: ", picker(first), "."];
  const cheaper = byCost().filter(one => within.has(one) && one.price[axis] < chosen.price[axis]);
  const other = cheaper.find(one => whole.has(one.name)) ?? cheaper[0];
  if (!other) return [];
  return ["Within its error and cheaper: ", picker(other), `, ${cost(other.price[axis], axis)}${whole.has(other.name) ? "" : `, scored on ${other.cases} cases only`}.`];
}
function byClass() {
  const known = Object.entries(chosen.classes ?? {});
  if (!known.length) return [];
  const table = element("table", { id: "classes" }, [element("caption", {}, `${measure} by class`), element("tbody", {}, rows(known.map(([name, score]) => [name, decimals(score)])))]);
  return known.length <= SHOWN_CLASSES ? [table] : [element("details", {}, [element("summary", {}, `${known.length} classes`), table])];
}
function card() {
  if (!chosen) {
    at("card").replaceChildren(element("h2", {}, "No member is this cheap"), element("p", { class: "soft" }, "Move the budget to the right."));
    return;
  }
  const error = chosen.standard_error === null ? "" : ` ± ${chosen.standard_error.toFixed(4)} standard error,`;
  const facts = Object.entries(data.axes).map(([name, label]) => [label.split(", ")[0], cost(chosen.price[name], name)]);
  facts.push(["patches a case, median", short(chosen.patches_a_case)], ["the same with mirroring", short(chosen.patches_a_case_mirrored)], ["MACs a case", short(chosen.macs_a_case)]);
  for (const [name, values] of Object.entries(chosen.subnet)) facts.push([name.replace("_", " "), slots(values)]);
  const pick = element("select", { id: "format", "aria-label": "format" }, data.formats.map(name => element("option", name === format ? { selected: "" } : {}, name)));
  const line = element("code", { id: "command" }, words()), copy = element("button", { id: "copy", type: "button" }, "Copy");
  pick.addEventListener("change", () => { format = pick.value; line.replaceChildren(...words()); copy.textContent = "Copy"; });
  copy.addEventListener("click", async () => {
    try { await navigator.clipboard.writeText(command()); copy.textContent = "Copied"; }
    catch { getSelection().selectAllChildren(line); copy.textContent = "Selected"; }
  });
  at("card").replaceChildren(
    element("h2", { id: "chosen" }, chosen.name),
    element("div", { class: "big" }, chosen.score.toFixed(4)),
    element("p", { class: "soft", id: "cases" }, `mean ${measure},${error} held-out: ${number(chosen)}`),
    element("p", { id: "instead" }, instead()),
    ...byClass(),
    element("table", { "aria-label": "costs and choices" }, element("tbody", {}, rows(facts))),
    element("div", {}, ["Export as ", pick, " ", copy]),
    line,
  );
}

// ---------------------------------------------------------------- tables
function listed() {
  const { ahead, first, within } = now;
  const classes = data.classes.length <= FEW_CLASSES ? data.classes : [];
  const titles = ["member", measure, "standard error", `cases of ${data.cases.all}`, ...classes.map(name => `${measure} ${name}`), ...Object.values(data.axes), "marks"];
  const always = new Set(["member", measure, data.axes[axis], "marks"]), extra = titles.map(title => always.has(title) ? "" : "extra");
  extra[titles.length - 1] = "marks";
  extra.fill("extra class", 4, 4 + classes.length);
  const body = element("tbody");
  for (const one of byCost().filter(one => whole.has(one.name) || ahead.includes(one))) {
    const row = element("tr", one === chosen ? { class: "pick chosen", "aria-current": "true" } : { class: "pick" }, element("th", { scope: "row" }, picker(one)));
    const cells = [one.score.toFixed(4), decimals(one.standard_error), String(one.cases), ...classes.map(name => decimals(one.classes?.[name] ?? null)), ...Object.keys(data.axes).map(name => column(one.price[name], name)), marks(one)];
    row.append(...cells.map((cell, index) => element("td", { class: extra[index + 1] }, cell)));
    row.addEventListener("click", () => choose(one));
    body.append(row);
  }
  at("listed").textContent = `The front of ${data.axes[axis].split(", ")[0]}, and what is scored on ${every}`;
  at("choices").replaceChildren(head(titles.map((title, index) => element("th", { scope: "col", class: extra[index] }, title))), body);
  const others = within.size ? `${within.size} ${within.size === 1 ? "member is marked so, and ringed" : "members are marked so, and ringed"} in the chart.` : "No member is marked so.";
  at("alike").textContent = !first ? "" : `“best” is the recommended member, the best within the budget, ${first.name}. “≈ best” means that the mean difference to its score is within one standard error of this difference, over the cases that both were scored on: these cases do not tell which of the two is better. ${others}`;
}
function training() {
  const body = element("tbody");
  for (const stage of data.stages) {
    const trained = stage.train.map(role => Array.isArray(role) ? `${role.join(", ")} in turn` : role).join(" + ");
    body.append(element("tr", {}, [element("th", { scope: "row" }, String(stage.name)), ...[stage.first_epoch, trained, stage.teacher].map(cell => element("td", {}, String(cell)))]));
  }
  at("stages").replaceChildren(head(["stage", "first epoch", "trained in a step", "teacher"].map(title => element("th", { scope: "col" }, title))), body);
  const closed = data.monitor.filter(entry => entry.verdict === "closed").map(entry => `the last choice of ${entry.dimension} after epoch ${entry.epoch}`);
  at("monitor").textContent = data.monitor.length ? `The monitor compared choices ${data.monitor.length === 1 ? "once" : `${data.monitor.length} times`} and closed ${closed.join(", ") || "none"}.` : "The monitor compared nothing.";
}

// ---------------------------------------------------------------- the page
function about() {
  const budget = Object.entries(data.budget).map(([name, most]) => `${data.axes[name].split(", ")[0]} at most ${cost(most, name)}`);
  const device = data.device && `${data.device.name}, latency predicted within ${(100 * data.device.held_out_error).toFixed(1)} % (median)`;
  const image = data.case && `a case of ${data.case.size}, alone and without mirroring; beside the network its time is predicted within ${(100 * data.case.held_out_error).toFixed(1)} % (median)`;
  const scored = `${data.members.length} of ${data.space.toLocaleString("en")} members scored on ${few.length ? `${data.cases.some} held-out cases, ${whole.size} on ${every}` : `${every} held out`}`;
  at("about").textContent = [scored, ...budget, device, image].filter(Boolean).join(" · ");
  at("from").textContent = `${data.model} · ${data.date}`;
  if (left.length) at("left").textContent = `Left out of the ${data.cases.all + left.length} held-out cases: ${left.map(([name, why]) => why === null ? name : `${name} (${why})`).join("; ")}`;
  for (const [name, label] of Object.entries(data.axes)) at("axis").append(element("option", { value: name }, label));
}
function legend() {
  const dot = (kind, r) => shape("circle", { class: kind, cx: 11, cy: 9, r }), entries = [
    [[shape("line", { class: "error", x1: 11, x2: 11, y1: 0, y2: 18 }), dot("finalist", 5)], `on ${every}, ± standard error`],
    ...(few.length ? [[[dot("member", 3.5)], `on ${data.cases.some} of them, shifted`]] : []),
    ...(now.ahead.some(one => !whole.has(one.name)) ? [[[dot("member best", 5)], "of these, on the front"]] : []),
    [[shape("path", { class: "front", d: "M 1 14 H 11 V 5 H 21" })], "the front"],
    ...(now.within.size ? [[[dot("ring", 8), dot("finalist", 4)], "≈ best, within its error"]] : []),
    [[dot("choice chosen", 5)], "chosen"],
  ];
  at("legend").replaceChildren(...entries.map(([shapes, text]) => element("li", {}, [shape("svg", { viewBox: "0 0 22 18", "aria-hidden": "true" }, shapes), text])));
}
function help() {
  at("help").textContent = `Move the budget; hover, tap or reach a member with the arrow keys, and click or press Enter to choose it.${few.length ? ` A shifted score is less certain: it is raised or lowered by what the finalists have changed by on ${every}, up to 1 at most, and leads only where no member scored on all is as cheap.` : ""}${data.measure === "dice" ? " Dice: the mean over the classes of a case, then over the cases, of labels as monai-prox predict computes them, without mirroring." : ""}`;
}
/* Draws anew without taking the focus from the member that has it */
function keepingFocus(draw) {
  const held = document.activeElement, place = held.closest("[id]")?.id, name = held.dataset?.name;
  draw();
  if (name && !held.isConnected) (holding(at(place), name) ?? at("card")).focus({ preventScroll: true });
}
function show() {
  at("over").textContent = `${measure} over ${data.axes[axis].split(", ")[0]}`;
  at("limit").textContent = cost(limit(), axis);
  at("budget").setAttribute("aria-valuetext", cost(limit(), axis));
  see();
  keepingFocus(() => { chart(); legend(); card(); listed(); });
  at("said").textContent = chosen ? summary(chosen).replaceAll("\n", ", ") : "No member is this cheap";
}
function choose(one) { chosen = one; show(); }
function move() { choose(best()); }

about();
help();
training();
listen();
at("axis").addEventListener("change", event => { axis = event.target.value; move(); });
at("budget").addEventListener("input", move);
move();
