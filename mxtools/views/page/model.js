// The models that the page holds, and the module calls of all of them as places of one tree.
"use strict";

const OUTSIDE = -1;
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);

/** One model: the file that is shown (side 0), or the one that it is compared with (side 1). */
class Model {
  constructor(given, side) {
    Object.assign(this, { side, title: given.title, levels: given.levels });
    this.scopes = given.scopes.map(([scope, tag, name, type, parent, nodes]) => ({ scope, tag, name, type, parent, nodes }));
    this.nodes = given.nodes.map(([name, type, parent, evidence, inputs, outputs, constant, attributes, merged]) =>
      ({ name, type, parent, evidence, inputs, outputs, constant, attributes, merged }));
    this.values = given.values.map(([name, type, weight, statistics]) => ({ name, type, weight, statistics, from: OUTSIDE, to: [] }));
    this.items = [...this.scopes, ...this.nodes];
    this.metrics = new Map(given.metrics.map(([name, unit, total, numbers]) =>
      [name, { unit, total, numbers: new Map(numbers.map(([item, n]) => [item, Number(n)])) }]));
    this.numbered = new Map(this.scopes.map((scope, at) => [scope.scope, at]));
    this.nodes.forEach((node, at) => {
      for (const value of node.outputs) this.values[value].from = this.scopes.length + at;
      for (const value of node.inputs) this.values[value].to.push(this.scopes.length + at);
    });
    this.inner = this.children();
  }

  /** Give the children of each scope in the order of their first nodes; constants come where they are written, which tells nothing. */
  children() {
    const { scopes, nodes, items } = this, inner = scopes.map(() => []);
    for (const scope of scopes) scope.first = Infinity;
    for (const constants of [false, true]) nodes.forEach((node, at) => {
      if (Boolean(node.constant) !== constants) return;
      node.first = at;
      for (let up = node.parent; up !== OUTSIDE && scopes[up].first === Infinity; up = scopes[up].parent) scopes[up].first = at;
    });
    items.forEach((item, at) => { if (item.parent !== OUTSIDE) inner[item.parent].push(at); });
    for (const list of inner) list.sort((a, b) => items[a].first - items[b].first);
    return inner;
  }

  isScope(item) { return item >= 0 && item < this.scopes.length; }
  label(item) { return this.isScope(item) ? (item ? this.items[item].name : this.items[0].type) : this.items[item].type; }
  full(item) { return this.isScope(item) ? this.items[item].scope : this.items[item].name || this.items[item].type; }
  number(item, metric = state.metric) { return this.metrics.get(metric)?.numbers.get(item); }
  maker(value) { return this.values[value].from; }

  within(item, scope) {
    while (item !== OUTSIDE && item !== scope) item = this.items[item].parent;
    return item === scope;
  }

  /** Give the weights that a module's nodes use, the largest first. */
  weightsOf(scope) {
    const found = new Set();
    for (const node of this.nodes) if (this.within(node.parent, scope))
      for (const value of node.inputs) if (this.values[value].weight) found.add(value);
    const size = (value) => (this.values[value].type.match(/\d+(?=[,\]])/g) || []).reduce((product, n) => product * n, 1);
    return [...found].sort((a, b) => size(b) - size(a));
  }
}

const models = data.models.map((given, side) => new Model(given, side));
const compared = models.length > 1;

// Places: the calls of the shown model, numbered as its scopes are, then those that only the other one has.
const places = [], placed = new Map();
for (const model of models) model.scopes.forEach(({ scope, name, type, parent }, at) => {
  if (!placed.has(scope)) {
    const around = parent === OUTSIDE ? OUTSIDE : placed.get(model.scopes[parent].scope);
    placed.set(scope, places.push({ scope, name, type, parent: around, at: [], children: [], words: [], inside: 0 }) - 1);
  }
  places[placed.get(scope)].at[model.side] = at;
});
for (const model of models) model.inner.forEach((list, around) => {
  // Those that are known keep their order, and each new one stands behind the one that it follows in its own model.
  const after = new Map(), here = placed.get(model.scopes[around].scope), parent = places[here];
  let before = OUTSIDE;
  for (const item of list.filter((at) => model.isScope(at))) {
    const place = placed.get(model.scopes[item].scope);
    if (model.side === 0 || places[place].at[0] === undefined) after.has(before) ? after.get(before).push(place) : after.set(before, [place]);
    else if (places[place].parent === here) before = place;
  }
  if (after.size) parent.children = [OUTSIDE, ...parent.children].flatMap((place) => [place, ...(after.get(place) || [])]).slice(1);
});
for (const [scope, words] of data.changes) {
  const place = places[placed.get(scope)];
  if (!place) continue;
  place.words = words;
  for (let up = place.parent; up !== OUTSIDE; up = places[up].parent) places[up].inside++;
}

const placeOf = (side, item) => placed.get(models[side].scopes[item].scope);
const sideOf = (place) => places[place].at[0] === undefined ? 1 : 0;
const titleOf = (place) => place ? places[place].name : places[0].type;
/** Give a place's number by the metric; without one, of two models, how many modules there differ. */
function numberOf(place, side = sideOf(place)) {
  if (!state.metric && compared) return places[place].inside + (places[place].words.length ? 1 : 0);
  return models[side].number(places[place].at[side]);
}
const totalOf = (side = 0, metric = state.metric) => models[side].metrics.get(metric)?.total;
/** Say whether the numbers of a metric hold those of the modules inside: times do, own times and errors do not. */
const isNested = (side = 0) => totalOf(side) > 0 && totalOf(side) === models[side].number(0);
const differs = (place) => places[place].words.length > 0 || places[place].inside > 0;

/** Say whether a place is in both models: "" for one model, else "same", "inside", "changed", "new" or "gone". */
function change(place) {
  if (!compared) return "";
  const { at, words, inside } = places[place];
  return at[1] === undefined ? "new" : at[0] === undefined ? "gone" : words.length ? "changed" : inside ? "inside" : "same";
}
const MARKS = { changed: "≠", new: "+", gone: "−", inside: "•", same: "", "": "" };
const CHANGES = { changed: "differs", new: `only in ${models[0].title}`, gone: `only in ${models[1]?.title}`, inside: "differs inside", same: "", "": "" };

// Numbers with their units.
const SECONDS = { ns: 1e-9, "µs": 1e-6, us: 1e-6, ms: 1e-3, s: 1 };
const unitOf = (metric) => models.map((model) => model.metrics.get(metric)?.unit).find(Boolean) || "";

function short(number) {
  if (!Number.isFinite(number)) return String(number).replace("Infinity", "∞");
  const size = Math.abs(number);
  for (const [unit, name] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]])
    if (size >= unit) return Number((number / unit).toPrecision(3)) + " " + name;
  return size && size < 1e-3 ? number.toExponential(1) : String(Number(number.toPrecision(3)));
}

function amount(number, unit = unitOf(state.metric)) {
  if (SECONDS[unit] && Number.isFinite(number) && number) {
    const seconds = number * SECONDS[unit], size = Math.abs(seconds);
    const [name, one] = size >= 1 ? ["s", 1] : size >= 1e-3 ? ["ms", 1e-3] : size >= 1e-6 ? ["µs", 1e-6] : ["ns", 1e-9];
    return `${Number((seconds / one).toPrecision(3))} ${name}`;
  }
  const text = short(number);
  return !unit ? text : / [kMGT]$/.test(text) ? text + unit : `${text} ${unit}`;
}

/** Say which share of the model's total a number is; nothing where numbers do not add up to one. */
function share(number, side = 0, metric = state.metric) {
  const total = totalOf(side, metric);
  if (!total || !Number.isFinite(number)) return "";
  const percent = 100 * number / total;
  return percent && percent < 0.1 ? "<0.1 %" : `${percent >= 99.95 ? 100 : Number(percent.toPrecision(percent < 10 ? 2 : 3))} %`;
}

// Elements.
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
