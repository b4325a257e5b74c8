// The page: what is open and selected, and the panes that show it. Text from the model is only ever set as text.
"use strict";

const OUTSIDE = -1, MOST_FOUND = 100;
const EVIDENCE = {
  metadata: "the exporter wrote the scope on the node", name: "the exporter's node name holds the scope",
  parameter: "the node uses a parameter of that module", value: "its output equals what the module returned",
  previous: "carried over from an earlier file", dataflow: "resolved from its neighbours",
  root: "nothing is known of it", "": "the node has no scope",
};
const data = JSON.parse(document.getElementById("data").textContent);
const scopes = data.scopes.map(([scope, tag, name, type, parent, nodes]) => ({ scope, tag, name, type, parent, nodes }));
const nodes = data.nodes.map(([name, type, parent, evidence, inputs, outputs, constant, attributes, merged]) =>
  ({ name, type, parent, evidence, inputs, outputs, constant, attributes, merged }));
const values = data.values.map(([name, type, weight]) => ({ name, type, weight, from: OUTSIDE, to: [] }));
const items = [...scopes, ...nodes];
const metrics = new Map(data.metrics.map(([name, numbers]) => [name, new Map(numbers.map(([i, n]) => [i, Number(n)]))]));
const numbered = new Map(scopes.map((scope, at) => [scope.scope, at]));
const isScope = (item) => item >= 0 && item < scopes.length;
const $ = (id) => document.getElementById(id);
const state = { open: 0, picked: 0, metric: "", constants: false, unfolded: new Set([0]), view: { x: 0, y: 0, k: 1 } };

nodes.forEach((node, at) => {
  for (const value of node.outputs) values[value].from = scopes.length + at;
  for (const value of node.inputs) values[value].to.push(scopes.length + at);
});
// Children in the order of their first nodes; constants come where they are written, which tells nothing.
const inner = scopes.map(() => []);
for (const scope of scopes) scope.first = Infinity;
for (const constants of [false, true]) nodes.forEach((node, at) => {
  if (Boolean(node.constant) !== constants) return;
  node.first = at;
  for (let up = node.parent; up !== OUTSIDE && scopes[up].first === Infinity; up = scopes[up].parent) scopes[up].first = at;
});
items.forEach((item, at) => { if (item.parent !== OUTSIDE) inner[item.parent].push(at); });
for (const list of inner) list.sort((a, b) => items[a].first - items[b].first);

/** Make an element with text or children, attributes, and what a click does. */
function make(name, content = [], attributes = {}, click = null) {
  const made = document.createElement(name);
  for (const part of [content].flat()) if (part !== null) made.append(part);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (click) made.addEventListener("click", click);
  return made;
}

function drawn(name, attributes, parent, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text) made.textContent = text;
  parent.append(made);
  return made;
}

function short(number) {
  if (!Number.isFinite(number)) return String(number).replace("Infinity", "∞");
  const size = Math.abs(number);
  for (const [unit, name] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]])
    if (size >= unit) return Number((number / unit).toPrecision(3)) + " " + name;
  return size && size < 1e-3 ? number.toExponential(1) : String(Number(number.toPrecision(3)));
}

const label = (item) => isScope(item) ? (item ? items[item].name : items[0].type) : items[item].type;
const full = (item) => isScope(item) ? items[item].scope : items[item].name || items[item].type;
const numberOf = (item) => state.metric ? metrics.get(state.metric).get(item) : undefined;

// Colours: a ramp from the pane's colour to one that stands out; logarithmic where numbers span three decades.
const LIGHT = [[237, 243, 250], [158, 194, 226], [66, 133, 190], [12, 66, 122]];
const DARK = [[38, 45, 58], [45, 87, 138], [86, 148, 205], [190, 222, 248]];
const isDark = () => getComputedStyle(document.documentElement).colorScheme === "dark";

function ramp(share) {
  const stops = isDark() ? DARK : LIGHT, at = Math.min(Math.max(share, 0), 1) * (stops.length - 1);
  const low = Math.floor(at), high = Math.min(low + 1, stops.length - 1);
  return stops[low].map((channel, i) => Math.round(channel + (stops[high][i] - channel) * (at - low)));
}

function scale(numbers) {
  const known = numbers.filter(Number.isFinite), positive = known.filter((n) => n > 0);
  const most = Math.max(...known, 0), least = Math.min(...known, 0), small = Math.min(...positive, Infinity);
  const logarithmic = least >= 0 && most / small >= 1000;
  const bottom = logarithmic ? small : least;
  return { bottom, most, logarithmic, share: (n) => n === Infinity || Number.isNaN(n) ? 1 : most === bottom ? (most ? 1 : 0)
    : logarithmic ? (n > 0 ? 0.08 + 0.92 * Math.log(n / small) / Math.log(most / small) : 0) : (n - bottom) / (most - bottom) };
}

let scaled = scale([]);

function paint() {
  const numbers = cells.map((c) => numberOf(c.item)).filter((n) => n !== undefined);
  scaled = scale(numbers);
  cells.forEach(shade);
  $("legend").hidden = !numbers.length;
  $("least").textContent = short(scaled.bottom);
  $("most").textContent = short(scaled.most) + (scaled.logarithmic ? " (log)" : "");
  $("ramp").style.background = `linear-gradient(90deg,${[0, 1, 2, 3].map((i) => `rgb(${ramp(i / 3)})`)})`;
}

function shade(c) {
  if (!c.group || c.end) return;
  const number = numberOf(c.item), colour = number === undefined ? null : ramp(scaled.share(number));
  c.group.firstChild.style.fill = colour ? `rgb(${colour})` : "";
  const bright = colour && 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 140;
  c.group.classList.toggle("light", Boolean(colour && bright));
  c.group.classList.toggle("dark", Boolean(colour && !bright));
  c.title.textContent = full(c.item) + (number === undefined ? "" : `\n${state.metric}: ${number}`);
}

// The graph of the open module.
let cells = [], edges = [], extent = { width: 0, height: 0 };

function measure(text, minimum) { return Math.max(minimum, Math.min(260, 7.2 * text.length + 26)); }

function cell(item) {
  const of = items[item], module = isScope(item);
  const width = Math.max(measure(label(item), 64), module ? measure(of.type, 64) - 12 : 0);
  return { id: item, item, w: width, h: module ? 46 : 28 };
}

function end(kind, value) {
  return { id: kind + value, end: kind, value, w: measure(values[value].name, 50), h: 24 };
}

function gather() {
  const children = inner[state.open].filter((item) => state.constants || isScope(item) || !items[item].constant);
  const known = new Set(children), ends = new Map();
  edges = [];
  const endOf = (kind, value) => {
    if (!ends.has(kind + value)) ends.set(kind + value, end(kind, value));
    return kind + value;
  };
  for (const [source, target, carried] of data.levels[state.open]) {
    if (source !== OUTSIDE && target !== OUTSIDE) {
      if (known.has(source) && known.has(target)) edges.push({ source, target, values: carried });
      continue;
    }
    for (const value of carried) {
      const from = values[value].from;
      if (!state.constants && from !== OUTSIDE && items[from].constant) continue;
      if (source === OUTSIDE && known.has(target)) edges.push({ source: endOf("in", value), target, values: [value] });
      if (target === OUTSIDE && known.has(source)) edges.push({ source, target: endOf("out", value), values: [value] });
    }
  }
  const all = [...ends.values()];
  cells = [...all.filter((c) => c.end === "in"), ...children.map(cell), ...all.filter((c) => c.end === "out")];
  extent = layout(cells, edges);
}

function draw() {
  gather();
  const scene = document.createElementNS("http://www.w3.org/2000/svg", "g");
  scene.id = "scene";
  drawn("g", {}, scene);
  $("scene").replaceWith(scene);
  $("empty").hidden = cells.length > 0;
  fit();
  paint();
}

/** Draw what came into sight: what was drawn before stays. */
function reveal() {
  const { x, y, k } = state.view, { clientWidth, clientHeight } = $("graph"), scene = $("scene");
  const near = (left, right, top, bottom) => right * k + x > -200 && left * k + x < clientWidth + 200
    && bottom * k + y > -200 && top * k + y < clientHeight + 200;
  for (const edge of edges) {
    const { from, to } = edge, left = Math.min(from.x, to.x) - 200, right = Math.max(from.x, to.x) + 200;
    if (edge.line || !near(left, right, Math.min(from.y, to.y), Math.max(from.y, to.y))) continue;
    edge.line = drawn("path", { class: edge.back ? "edge back" : "edge", d: edge.path }, scene.firstChild);
    const names = edge.values.slice(0, 5).map((value) => `${values[value].name}  ${values[value].type}`);
    drawn("title", {}, edge.line, names.join("\n") + (edge.values.length > 5 ? `\n… ${edge.values.length} values` : ""));
    highlight(edge);
  }
  for (const c of cells) {
    if (c.group || !near(c.x - c.w, c.x + c.w, c.y, c.y + c.h)) continue;
    box(c, scene);
    shade(c);
    c.group.classList.toggle("picked", c.item === state.picked);
  }
}

function box(c, scene) {
  const aside = c.item !== undefined && !isScope(c.item) && ["dataflow", "root", ""].includes(items[c.item].evidence);
  const kind = c.end ? "end" : isScope(c.item) ? "module" : aside ? "node aside" : "node";
  c.group = drawn("g", { class: `box ${kind}`, transform: `translate(${Math.round(c.x - c.w / 2)} ${Math.round(c.y)})` }, scene);
  drawn("rect", { width: c.w, height: c.h }, c.group);
  const line = (text, y, name = "") => drawn("text", { x: c.w / 2, y, class: name }, c.group, clip(text, c.w, c.end));
  if (c.end) line(values[c.value].name, 16);
  else if (isScope(c.item)) { line(label(c.item), 19); line(items[c.item].type, 35, "class"); }
  else line(label(c.item), 18);
  c.title = drawn("title", {}, c.group, c.end ? `${values[c.value].name}  ${values[c.value].type}` : "");
  c.group.addEventListener("click", () => c.end ? leave(c) : pick(c.item));
  c.group.addEventListener("dblclick", () => { if (c.item !== undefined) enter(c.item); });
}

/** Shorten a text to a width: names of tensors at their beginning, which is the path to the module that made them. */
function clip(text, width, atStart) {
  const most = Math.max(2, Math.floor((width - 14) / 6.6));
  if (text.length <= most) return text;
  return atStart ? "…" + text.slice(1 - most) : text.slice(0, most - 1) + "…";
}

/** Go from an end of the module's graph to the node outside that makes or takes the value. */
function leave(c) {
  const other = c.end === "in" ? values[c.value].from : values[c.value].to.find((node) => !within(node, state.open));
  if (other !== undefined && other !== OUTSIDE) go(other);
}

function within(item, scope) {
  while (item !== OUTSIDE && item !== scope) item = items[item].parent;
  return item === scope;
}

function highlight(edge) {
  edge.line.classList.toggle("near", edge.source === state.picked || edge.target === state.picked);
}

function mark() {
  for (const c of cells) c.group?.classList.toggle("picked", c.item === state.picked);
  for (const edge of edges) if (edge.line) highlight(edge);
}

function apply() {
  $("scene").setAttribute("transform", `translate(${state.view.x} ${state.view.y}) scale(${state.view.k})`);
  reveal();
}

function fit() {
  const { clientWidth: width, clientHeight: height } = $("graph"), pad = 24;
  const all = Math.min((width - 2 * pad) / extent.width, (height - 2 * pad) / extent.height, 1.25);
  const k = all < 0.3 ? 0.75 : all;
  state.view = { k, x: (width - extent.width * k) / 2, y: all < 0.3 ? pad : (height - extent.height * k) / 2 };
  if (all < 0.3) {
    const top = cells.reduce((best, c) => !best || c.y < best.y ? c : best, null);
    state.view.x = width / 2 - top.x * k;
  }
  apply();
  const chosen = cells.find((c) => c.item === state.picked);
  if (chosen && all < 0.3) show(chosen);
}

/** Move the graph so that a cell is in sight. */
function show(c) {
  const { clientWidth: width, clientHeight: height } = $("graph"), { k } = state.view;
  const x = state.view.x + c.x * k, y = state.view.y + c.y * k;
  if (x < 60 || x > width - 60) state.view.x = width / 2 - c.x * k;
  if (y < 20 || y + c.h * k > height - 20) state.view.y = height / 2 - c.y * k;
  apply();
}

function zoom(factor, x = $("graph").clientWidth / 2, y = $("graph").clientHeight / 2) {
  if (!factor) { fit(); return; }
  const k = Math.min(4, Math.max(0.02, state.view.k * factor)), by = k / state.view.k;
  state.view = { k, x: x - (x - state.view.x) * by, y: y - (y - state.view.y) * by };
  apply();
}

// Moving about: `open` shows the graph of a module, `pick` selects, `go` does both for a place anywhere.
function open(scope, picked = scope) {
  for (let up = scope; up !== OUTSIDE; up = scopes[up].parent) state.unfolded.add(up);
  Object.assign(state, { open: scope, picked });
  draw();
  tree();
  crumbs();
  details();
  const hash = scope ? "#" + encodeURIComponent(scopes[scope].scope) : "";
  if (location.hash !== hash) history.pushState(null, "", hash || location.pathname + location.search);
}

function enter(item) { if (isScope(item) && item !== state.open) open(item); }

function pick(item) {
  state.picked = item;
  mark();
  const chosen = cells.find((c) => c.item === item);
  if (chosen) show(chosen);
  for (const row of document.querySelectorAll(".row")) row.classList.toggle("picked", Number(row.dataset.item) === item);
  details();
}

function go(item) {
  if (!isScope(item) && items[item].constant && !state.constants) { state.constants = $("constants").checked = true; }
  if (isScope(item)) open(item); else if (items[item].parent === state.open && cells.some((c) => c.item === item)) pick(item);
  else open(items[item].parent, item);
}

function crumbs() {
  const path = [];
  for (let up = state.open; up !== OUTSIDE; up = scopes[up].parent) path.unshift(up);
  $("crumbs").replaceChildren(...path.map((scope) => make("button", label(scope), { title: full(scope) }, () => open(scope))));
}

// The tree of modules: only what is unfolded is on the page.
function tree() {
  const top = $("tree").scrollTop;
  $("tree").replaceChildren(branch(0, 0, 0));
  $("tree").scrollTop = top;
  const row = document.querySelector("#tree .row.picked, #tree .row.open");
  if (row) { row.scrollIntoView({ block: "nearest" }); $("tree").setAttribute("aria-activedescendant", row.parentNode.id); }
}

function branch(scope, level, most) {
  const children = inner[scope].filter(isScope), unfolded = state.unfolded.has(scope), number = numberOf(scope);
  const fold = make("span", children.length ? (unfolded ? "▼" : "▶") : "", { class: "fold" }, (event) => {
    event.stopPropagation();
    unfold(scope, !unfolded);
  });
  const parts = [fold, make("span", label(scope)), make("span", scope ? scopes[scope].type : "", { class: "class" })];
  if (number !== undefined) {
    const bar = make("i");
    bar.style.width = `${most > 0 ? Math.max(0, Math.min(100, 100 * number / most)) : 100}%`;
    if (scope) parts.push(make("span", bar, { class: "bar" }));
    parts.push(make("span", short(number), { class: "share" }));
  }
  const names = ["row", scope === state.open ? "open" : "", scope === state.picked ? "picked" : ""].join(" ");
  const row = make("div", parts, { class: names, title: full(scope), "data-item": scope }, () => open(scope));
  row.style.setProperty("--level", level);
  const made = make("li", row, { role: "treeitem", id: `t${scope}`, "aria-level": level + 1, "aria-selected": scope === state.picked });
  if (!children.length) return made;
  made.setAttribute("aria-expanded", unfolded);
  if (unfolded) {
    const numbers = children.map(numberOf).filter(Number.isFinite);
    made.append(make("ul", children.map((child) => branch(child, level + 1, Math.max(0, ...numbers))), { role: "group" }));
  }
  return made;
}

function unfold(scope, wanted) {
  state.unfolded[wanted ? "add" : "delete"](scope);
  tree();
}

function treeKey(key) {
  const rows = [...document.querySelectorAll("#tree .row")].map((row) => Number(row.dataset.item));
  const scope = isScope(state.picked) ? state.picked : state.open, at = rows.indexOf(scope);
  const children = inner[scope].filter(isScope), unfolded = state.unfolded.has(scope) && children.length > 0;
  if (key === "ArrowDown" && at + 1 < rows.length) open(rows[at + 1]);
  else if (key === "ArrowUp" && at > 0) open(rows[at - 1]);
  else if (key === "ArrowRight" && children.length) unfolded ? open(children[0]) : unfold(scope, true);
  else if (key === "ArrowLeft") unfolded ? unfold(scope, false) : scope && open(scopes[scope].parent);
  else return false;
  return true;
}

function graphKey(key) {
  const here = cells.find((c) => c.item === state.picked), real = cells.filter((c) => c.item !== undefined);
  if (!key.startsWith("Arrow") || !real.length) return false;
  const byId = new Map(cells.map((c) => [c.id, c]));
  const follow = (own, other) => edges.filter((e) => e[own] === state.picked).map((e) => byId.get(e[other]));
  const beside = here ? real.filter((c) => c.rank === here.rank).sort((a, b) => a.x - b.x) : [];
  const found = !here ? real : key === "ArrowDown" ? follow("source", "target") : key === "ArrowUp" ? follow("target", "source")
    : [beside[beside.indexOf(here) + (key === "ArrowRight" ? 1 : -1)]];
  const next = found.find((c) => c && c.item !== undefined);
  if (next) pick(next.item);
  return true;
}
