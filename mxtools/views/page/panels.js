// Details, search, keys, and the start of the page.
"use strict";

const link = (item, text = full(item)) => make("a", text, { href: "#", "data-to": item }, (event) => { event.preventDefault(); go(item); });
const rowOf = (name, value, kind = "") => make("tr", [make("td", name), make("td", value, kind ? { class: kind } : {})]);
const section = (name, content) => content.length ? [make("h3", name), ...content] : [];
const list = (name, rows) => section(name, rows.length ? [make("ul", rows)] : []);

function tensor(value, arrow, others) {
  const { name, type, weight } = values[value];
  const parts = [make("code", name), " ", make("span", type, { class: "soft" })];
  if (weight) parts.push(make("span", " weight", { class: "soft" }));
  for (const other of others.slice(0, 8)) parts.push(make("div", [arrow + " ", link(other), make("span", " " + scopes[items[other].parent].scope, { class: "soft" })]));
  if (others.length > 8) parts.push(make("div", `and ${others.length - 8} more`, { class: "soft" }));
  return make("li", parts);
}

function details() {
  const item = state.picked, of = items[item];
  const numbers = [...metrics].filter(([, known]) => known.has(item)).map(([name, known]) => rowOf(name, known.get(item).toLocaleString("en", { maximumSignificantDigits: 6 }), "number"));
  const shared = section("Metrics", numbers.length ? [make("table", numbers)] : []);
  $("details").replaceChildren(...(isScope(item) ? ofModule(item, of, shared) : ofNode(item, of, shared)));
}

const made = (value) => values[value].from === OUTSIDE ? [] : [values[value].from];

function ofModule(item, of, shared) {
  const operators = new Map(), evidence = new Map();
  const count = (map, key) => map.set(key, (map.get(key) || 0) + 1);
  nodes.forEach((node) => { if (within(node.parent, item)) { count(operators, node.type); count(evidence, node.evidence || "none"); } });
  const table = (map) => [make("table", [...map].sort((a, b) => b[1] - a[1]).slice(0, 12).map(([key, n]) => rowOf(key, String(n), "number")))];
  const crossing = (way) => [...new Set(data.levels[item].filter((edge) => edge[way] === OUTSIDE).flatMap((edge) => edge[2]))];
  const ends = (way) => crossing(way).slice(0, 12).map((value) => way
    ? tensor(value, "→", values[value].to.filter((node) => !within(node, item))) : tensor(value, "←", made(value)));
  return [
    make("h2", of.type), make("p", make("code", of.scope)), make("p", of.tag, { class: "soft" }),
    item === state.open ? null : make("p", make("button", "Open (Enter)", {}, () => open(item))),
    ...shared, ...list("Takes", ends(0)), ...list("Gives", ends(1)),
    ...section("Operators", table(operators)), ...section("Evidence of its nodes", table(evidence)),
  ].filter(Boolean);
}

function ofNode(item, of, shared) {
  const attributes = Object.entries(of.attributes).map(([name, value]) => rowOf(name, value));
  return [
    make("h2", of.type), make("p", make("code", of.name || "(no name)")),
    make("table", [
      rowOf("in", link(of.parent)), rowOf("tag", scopes[of.parent].tag),
      rowOf("evidence", [make("b", of.evidence || "none"), `: ${EVIDENCE[of.evidence] || ""}`]),
      ...(of.merged.length ? [rowOf("merged", of.merged.flatMap((scope) => [numbered.has(scope) ? link(numbered.get(scope)) : scope, make("br")]))] : []),
    ]),
    ...shared, ...list("Takes", of.inputs.map((value) => tensor(value, "←", made(value)))),
    ...list("Gives", of.outputs.map((value) => tensor(value, "→", values[value].to))),
    ...section("Attributes", attributes.length ? [make("table", attributes)] : []),
  ];
}

let index = null, found = [], chosen = 0;

/** Find modules by scope and tag, nodes by name, operator and the names of what they take and give. */
function search(text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  index ||= items.map((of, at) => (isScope(at) ? [of.scope, of.tag] : [of.name, of.type, scopes[of.parent].scope,
    ...[...of.outputs, ...of.inputs].map((value) => values[value].name)]).join("\n").toLowerCase());
  found = [];
  for (let at = 0; words.length && at < items.length; at++)
    if (words.every((word) => index[at].includes(word))) found.push(at);
  const rank = (item) => full(item).toLowerCase() === text.toLowerCase() ? 0 : full(item).toLowerCase().endsWith(text.toLowerCase()) ? 1 : 2;
  found.sort((a, b) => rank(a) - rank(b) || a - b);
  chosen = 0;
  const rows = found.slice(0, MOST_FOUND).map((item, at) => make("li", [full(item), make("small", isScope(item) ? items[item].type
    : `${items[item].type} in ${scopes[items[item].parent].scope}`)], { role: "option", "aria-selected": at === 0 }, () => { choose(at); }));
  if (words.length && !rows.length) rows.push(make("li", "nothing found", { class: "soft" }));
  if (found.length > MOST_FOUND) rows.push(make("li", `and ${found.length - MOST_FOUND} more`, { class: "soft" }));
  $("results").replaceChildren(...rows);
  $("results").hidden = !words.length;
  $("tree").hidden = Boolean(words.length);
}

function choose(at) { if (found[at] !== undefined) go(found[at]); }

function searchKey(key) {
  const rows = $("results").children, last = Math.min(found.length, MOST_FOUND) - 1;
  if (key === "ArrowDown" || key === "ArrowUp") {
    rows[chosen]?.setAttribute("aria-selected", "false");
    chosen = Math.max(0, Math.min(last, chosen + (key === "ArrowDown" ? 1 : -1)));
    rows[chosen]?.setAttribute("aria-selected", "true");
    rows[chosen]?.scrollIntoView({ block: "nearest" });
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
}

const KEYS = {
  "/": () => { $("search").focus(); $("search").select(); }, u: () => up(), Backspace: () => up(), g: () => $("graph").focus(),
  m: () => $("tree").focus(), "+": () => zoom(1.3), "=": () => zoom(1.3), "-": () => zoom(0.77), 0: () => zoom(0),
  c: () => $("constants").click(), t: () => $("theme").click(), "?": () => $("keys").showModal(), Enter: () => enter(state.picked),
};

function up() { if (state.open) open(scopes[state.open].parent, state.open); }

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || $("keys").open) return;
  const at = document.activeElement;
  const own = at === $("search") ? searchKey : at === $("tree") ? treeKey : at === $("graph") ? graphKey : null;
  if (own?.(event.key)) event.preventDefault();
  else if (!["INPUT", "SELECT"].includes(at.tagName) && KEYS[event.key] && !(event.key === "Enter" && ["BUTTON", "A"].includes(at.tagName))) {
    event.preventDefault();
    KEYS[event.key]();
  }
});
$("search").addEventListener("input", () => search($("search").value.trim()));
$("metric").addEventListener("change", () => setMetric($("metric").value));
$("constants").addEventListener("change", () => { state.constants = $("constants").checked; draw(); });
$("theme").addEventListener("click", () => setTheme(isDark() ? "light" : "dark"));
$("help").addEventListener("click", () => $("keys").showModal());
$("zoom").addEventListener("click", (event) => { if (event.target.dataset.zoom) zoom(Number(event.target.dataset.zoom)); });
$("graph").addEventListener("wheel", (event) => {
  event.preventDefault();
  const at = $("graph").getBoundingClientRect();
  zoom(Math.exp(-event.deltaY / 500), event.clientX - at.left, event.clientY - at.top);
}, { passive: false });
$("graph").addEventListener("pointerdown", (event) => {
  if (event.button || event.target.closest(".box, #zoom")) return;
  const start = { ...state.view }, { clientX, clientY } = event;
  const move = (now) => {
    state.view = { k: start.k, x: start.x + now.clientX - clientX, y: start.y + now.clientY - clientY };
    apply();
  };
  $("graph").addEventListener("pointermove", move);
  window.addEventListener("pointerup", () => $("graph").removeEventListener("pointermove", move), { once: true });
});
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
window.addEventListener("popstate", start);

function start() {
  const scope = decodeURIComponent(location.hash.slice(1));
  open(numbered.has(scope) ? numbered.get(scope) : 0);
}

document.querySelector("h1").textContent = data.title;
$("metric").append(make("option", "none", { value: "" }), ...[...metrics.keys()].map((name) => make("option", name, { value: name })));
$("metric").value = state.metric = metrics.has(data.metric) ? data.metric : "";
start();
