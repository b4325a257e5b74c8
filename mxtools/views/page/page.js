// The page: what is open and selected, search, keys, the address, and the start. Text from the model is only ever set as text.
"use strict";

const MOST_FOUND = 100, MOST_CRUMBS = 6;
/** `picked` holds what is selected in each model: a module in both of them, a node in its own. */
const state = { open: 0, picked: [0, 0], metric: "", constants: false, differing: data.changes.length > 0, unfolded: new Set([0]), expanded: new Set() };
const graphs = models.map((model, side) => new Graph(model, $(side ? "other" : "graph")));

/** Give the side and the item that are selected. */
function pickedItem() {
  const side = state.picked[0] === undefined ? 1 : 0;
  return [side, state.picked[side]];
}

/** Give the place that is selected, undefined where a node is. */
function pickedPlace() {
  const [side, item] = pickedItem();
  return models[side].isScope(item) ? placeOf(side, item) : undefined;
}

// Moving about: `open` shows the graph of a place, `pick` selects, `go` does both for an item anywhere.
function open(place, picked = places[place].at, isNew = place !== state.open) {
  for (let up = place; up !== OUTSIDE; up = places[up].parent) {
    state.unfolded.add(up);
    if (state.differing && !differs(up) && up) state.differing = $("differing").checked = false;
    uncover(up);
  }
  Object.assign(state, { open: place, picked: [picked[0], picked[1]] });
  for (const graph of graphs) graph.draw();
  paint();
  tree();
  crumbs();
  details();
  setAddress(isNew);
}

function enter(side, item) { if (models[side].isScope(item) && placeOf(side, item) !== state.open) open(placeOf(side, item)); }

function pick(side, item) {
  const model = models[side];
  state.picked = model.isScope(item) ? [...places[placeOf(side, item)].at] : side ? [undefined, item] : [item, undefined];
  for (const graph of graphs) {
    graph.mark();
    const chosen = graph.cells.find((c) => graph.isPicked(c.item));
    if (chosen) graph.show(chosen);
  }
  if (model.isScope(item)) reach(placeOf(side, item));
  select();
  details();
  $("spoken").textContent = [model.label(item), model.isScope(item) ? model.items[item].type : model.items[item].name].filter(Boolean).join(", ");
  setAddress(false);
}

/** Unfold the tree as far as a place's row, where it is not there. */
function reach(place) {
  if ($(`t${place}`) || (state.differing && !differs(place))) return;
  for (let { parent } = places[place]; parent !== OUTSIDE; { parent } = places[parent]) state.unfolded.add(parent);
  for (let up = place; up !== OUTSIDE; up = places[up].parent) uncover(up);
  tree();
}

function go(side, item) {
  const model = models[side];
  if (model.isScope(item)) { open(placeOf(side, item)); return; }
  if (model.items[item].constant && !state.constants) state.constants = $("constants").checked = true;
  if (graphs[side].find(item)) pick(side, item);
  else open(placeOf(side, model.items[item].parent), side ? [undefined, item] : [item, undefined]);
}

/** Open a module in place, within the graph of the module around it; or close it. */
function expand(place) {
  if (place === undefined || place === state.open) return;
  state.expanded[state.expanded.has(place) ? "delete" : "add"](place);
  for (const graph of graphs) graph.draw(places[place].at[graph.model.side] ?? null);
  paint();
  setAddress(false);
}

function up() { if (state.open) open(places[state.open].parent, places[state.open].at); }

function crumbs() {
  const path = [];
  for (let up = state.open; up !== OUTSIDE; up = places[up].parent) path.unshift(up);
  const left = path.length > MOST_CRUMBS ? path.splice(1, path.length - MOST_CRUMBS) : [];
  const named = (place) => left.at(-1) !== undefined && place === path[0] ? [place, left.at(-1)] : [place];
  $("crumbs").replaceChildren(...path.flatMap(named).map((place) => make("button", place && place === left.at(-1) ? "…" : titleOf(place), { title: places[place].scope, ...(place === state.open ? { "aria-current": "page" } : {}) }, () => open(place))));
}

// The address: the open module, and after it what is selected, the colours, and what is open in place.
function setAddress(moved) {
  const [side, item] = pickedItem(), place = pickedPlace(), parts = [state.open ? encodeURIComponent(places[state.open].scope) : ""];
  const add = (name, value) => parts.push(`${name}=${encodeURIComponent(value)}`);
  if (place === undefined) add(side ? "before" : "node", models[side].items[item].name || item); else if (place !== state.open) add("module", places[place].scope);
  if (state.metric !== data.metric) add("colour", state.metric);
  for (const shown of state.expanded) add("in", places[shown].scope);
  const hash = parts.length > 1 || parts[0] ? "#" + parts.join("&") : "";
  if (location.hash === hash) return;
  history[moved ? "pushState" : "replaceState"](null, "", hash || location.pathname + location.search);
}

function decoded(text) {
  try { return decodeURIComponent(text); } catch { return text; }
}

/** Open what the address says; without one, show a module in the graph around it, or the whole model. */
function readAddress(shown = 0) {
  const [scope, ...parts] = location.hash.slice(1).split("&");
  const given = parts.map((part) => [part.slice(0, part.indexOf("=")), decoded(part.slice(part.indexOf("=") + 1))]);
  const of = (name) => given.filter(([key]) => key === name).map(([, value]) => value);
  state.expanded = new Set(of("in").filter((name) => placed.has(name)).map((name) => placed.get(name)));
  state.metric = of("colour").find((name) => !name || models.some((model) => model.metrics.has(name))) ?? data.metric;
  $("metric").value = state.metric;
  const place = location.hash ? placed.get(decoded(scope)) ?? 0 : Math.max(places[shown].parent, 0), [module] = of("module").filter((name) => placed.has(name));
  let picked = places[module !== undefined ? placed.get(module) : location.hash ? place : shown].at;
  for (const [side, name] of [...of("node").map((name) => [0, name]), ...of("before").map((name) => [1, name])]) {
    const model = models[side], node = model ? model.nodes.findIndex((n, at) => n.name === name || String(at + model.scopes.length) === name) : -1;
    if (node >= 0) picked = side ? [undefined, node + model.scopes.length] : [node + model.scopes.length, undefined];
    if (node >= 0 && model.nodes[node].constant) state.constants = $("constants").checked = true;
  }
  open(place, picked, false);
}

let index = null, found = [], chosen = 0;

/** Find modules by scope and tag, nodes by name, operator and the names of what they take and give. */
function search(text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  index ||= models.flatMap(textsOf);
  const rank = (name) => name.toLowerCase() === text.toLowerCase() ? 0 : name.toLowerCase().endsWith(text.toLowerCase()) ? 1 : 2;
  found = words.length ? index.filter((entry) => words.every((word) => entry.text.includes(word))) : [];
  found = found.map((entry, at) => ({ ...entry, at, rank: rank(models[entry.side].full(entry.item)) })).sort((a, b) => a.rank - b.rank || a.at - b.at);
  chosen = 0;
  const rows = found.slice(0, MOST_FOUND).map(({ side, item }, at) => {
    const model = models[side], of = model.items[item], where = compared && !model.isScope(item) ? ` · ${model.title}` : "";
    return make("li", [model.full(item), make("small", (model.isScope(item) ? of.type : `${of.type} in ${model.scopes[of.parent].scope}`) + where)],
      { role: "option", id: `f${at}`, "aria-selected": at === 0 }, () => { choose(at); });
  });
  if (words.length && !rows.length) rows.push(make("li", "nothing found", { class: "soft" }));
  if (found.length > MOST_FOUND) rows.push(make("li", `and ${found.length - MOST_FOUND} more`, { class: "soft" }));
  $("results").replaceChildren(...rows);
  $("results").hidden = !words.length;
  $("tree").hidden = $("head").hidden = Boolean(words.length);
  $("search").setAttribute("aria-expanded", Boolean(words.length));
  if (words.length) $("spoken").textContent = `${found.length} found`;
}

function textsOf(model) {
  return model.items.map((of, item) => ({ side: model.side, item, text: (model.isScope(item) ? [of.scope, of.tag] : [of.name, of.type, model.scopes[of.parent].scope,
    ...[...of.outputs, ...of.inputs].map((value) => model.values[value].name)]).join("\n").toLowerCase() }))
    .filter(({ item }) => !model.side || !model.isScope(item) || places[placeOf(1, item)].at[0] === undefined);
}

function choose(at) { if (found[at]) { go(found[at].side, found[at].item); panes("graphs"); } }

function searchKey(key) {
  const rows = $("results").children, last = Math.min(found.length, MOST_FOUND) - 1;
  if (key === "ArrowDown" || key === "ArrowUp") {
    rows[chosen]?.setAttribute("aria-selected", "false");
    chosen = Math.max(0, Math.min(last, chosen + (key === "ArrowDown" ? 1 : -1)));
    rows[chosen]?.setAttribute("aria-selected", "true");
    rows[chosen]?.scrollIntoView({ block: "nearest" });
    $("search").setAttribute("aria-activedescendant", `f${chosen}`);
  } else if (key === "Enter") choose(chosen);
  else if (key === "Escape") { $("search").value = ""; search(""); $("graph").focus(); }
  else return false;
  return true;
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  paint();
}

function setMetric(name) {
  state.metric = name;
  paint();
  tree();
  details();
  setAddress(false);
}

/** Show a pane where there is room for one only. */
function panes(name) {
  document.body.dataset.pane = name;
  for (const button of document.querySelectorAll("#panes button")) button.setAttribute("aria-pressed", button.dataset.pane === name);
  for (const graph of graphs) if (name === "graphs" && graph.pane.clientWidth && !graph.cells.some((c) => c.group)) graph.fit();
}

const zoomAll = (factor) => { for (const graph of graphs) graph.zoom(factor); };
const KEYS = {
  "/": () => { panes("left"); $("search").focus(); $("search").select(); }, u: () => up(), Backspace: () => up(), g: () => $("graph").focus(),
  m: () => $("tree").focus(), "+": () => zoomAll(1.3), "=": () => zoomAll(1.3), "-": () => zoomAll(0.77), 0: () => zoomAll(0),
  c: () => $("constants").click(), t: () => $("theme").click(), "?": () => $("keys").showModal(), Enter: () => enter(...pickedItem()),
  e: () => expand(pickedPlace()), d: () => { if (compared) $("differing").click(); }, y: () => { const [side, item] = pickedItem(); copy(models[side].full(item), "name"); },
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || $("keys").open) return;
  const at = document.activeElement, graph = graphs.find(({ pane }) => pane === at);
  const own = at === $("search") ? searchKey : at === $("tree") ? treeKey : graph ? (key) => graph.key(key) : null;
  if (own?.(event.key)) event.preventDefault();
  else if (!["INPUT", "SELECT"].includes(at.tagName) && KEYS[event.key] && !(event.key === "Enter" && ["BUTTON", "A"].includes(at.tagName))) {
    event.preventDefault();
    KEYS[event.key]();
  }
});
$("search").addEventListener("input", () => search($("search").value.trim()));
$("metric").addEventListener("change", () => setMetric($("metric").value));
$("constants").addEventListener("change", () => { state.constants = $("constants").checked; for (const graph of graphs) graph.draw(); paint(); });
$("differing").addEventListener("change", () => { state.differing = $("differing").checked; tree(); });
$("theme").addEventListener("click", () => setTheme(isDark() ? "light" : "dark"));
$("help").addEventListener("click", () => $("keys").showModal());
$("zoom").addEventListener("click", (event) => { if (event.target.dataset.zoom) zoomAll(Number(event.target.dataset.zoom)); });
$("panes").addEventListener("click", (event) => { if (event.target.dataset.pane) panes(event.target.dataset.pane); });
$("tree").addEventListener("click", (event) => { if (event.target.closest(".row")) panes("graphs"); });
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
window.addEventListener("popstate", () => readAddress());
let width = window.innerWidth;
window.addEventListener("resize", () => { if (width !== window.innerWidth) { width = window.innerWidth; zoomAll(0); } });

document.querySelector("h1").textContent = compared ? `${models[1].title} → ${models[0].title}` : models[0].title;
document.querySelector("h1").title = document.querySelector("h1").textContent;
$("metric").append(make("option", "none", { value: "" }), ...[...new Set(models.flatMap((model) => [...model.metrics.keys()]))].map((name) => make("option", name, { value: name })));
document.body.classList.toggle("compared", compared);
$("both").hidden = !compared;
$("differing").checked = state.differing;
$("other").parentNode.hidden = !compared;
if (compared) for (const [name, { title }] of [["before", models[1]], ["after", models[0]]]) $(name).textContent = title;
$("after").hidden = !compared;
state.metric = data.metric;
panes("graphs");
unfoldMost();
readAddress(worst());
