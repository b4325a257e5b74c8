// What is known of what is selected, and lines to copy.
"use strict";

const MOST_LISTED = 8;
const EVIDENCE = {
  metadata: "the exporter wrote the scope on the node", name: "the exporter's node name holds the scope",
  parameter: "the node uses a parameter of that module", value: "its output equals what the module returned",
  previous: "carried over from an earlier file", dataflow: "resolved from its neighbours",
  root: "nothing is known of it", "": "the node has no scope",
};

const rowOf = (name, value, kind = "") => make("tr", [make("td", name), make("td", value, kind ? { class: kind } : {})]);
const section = (name, content) => content.length ? [make("h3", name), ...content] : [];
const list = (name, rows) => section(name, rows.length ? [make("ul", rows)] : []);
const soft = (text, name = "span") => make(name, text, { class: "soft" });
const toPlace = (place) => make("a", places[place].scope, { href: "#" + encodeURIComponent(places[place].scope) }, (event) => { event.preventDefault(); open(place); });
const toItem = (side, item) => make("a", models[side].full(item), { href: "#" }, (event) => { event.preventDefault(); go(side, item); });

/** Give a list that shows its first rows, and the others when asked for. */
function shortened(rows, most = MOST_LISTED) {
  if (rows.length <= most + 1) return rows.map((row) => row());
  const more = make("li", make("button", `${rows.length - most} more`, {}, () => more.replaceWith(...rows.slice(most).map((row) => row()))));
  return [...rows.slice(0, most).map((row) => row()), more];
}

function tensor(side, value, arrow, others) {
  const model = models[side], { name, type, weight, statistics } = model.values[value];
  const parts = [make("code", name), " ", soft(type)];
  if (weight && arrow) parts.push(soft(" weight"));
  if (statistics) parts.push(soft(inWords(statistics), "div"));
  for (const other of others.slice(0, MOST_LISTED)) parts.push(make("div", [arrow + " ", toItem(side, other), soft(" " + model.scopes[model.items[other].parent].scope)]));
  if (others.length > MOST_LISTED) parts.push(soft(`and ${others.length - MOST_LISTED} more`, "div"));
  return make("li", parts);
}

/** Say the statistics of a weight. */
function inWords([least, most, mean, deviation, zeros, odd]) {
  const known = least === null ? [] : [`${short(least)} to ${short(most)}`, mean === null ? "" : `mean ${short(mean)}`, deviation === null ? "" : `deviation ${short(deviation)}`];
  const parts = known.filter(Boolean);
  if (zeros) parts.push(`${zeros < 0.001 ? "<0.1" : Number((100 * zeros).toPrecision(3))} % zeros`);
  if (odd) parts.push(`${odd} not finite`);
  return parts.join(" · ");
}

function details() {
  const [side, item] = pickedItem(), model = models[side];
  $("details").replaceChildren(...(model.isScope(item) ? ofModule(placeOf(side, item), side, item) : ofNode(side, item)));
  $("details").scrollTop = 0;
}

/** Give the numbers of an item by all metrics; where two models have them, those of both. */
function measures(side, item, place) {
  const rows = [];
  for (const name of new Set(models.flatMap((model) => [...model.metrics.keys()]))) {
    const unit = unitOf(name), of = (at) => place === undefined ? (at === side ? models[at].number(item, name) : undefined) : models[at].number(places[place].at[at], name);
    const exact = (n) => Number.isFinite(n) && !unit && (!n || Math.abs(n) >= 1e-3) ? n.toLocaleString("en", { maximumSignificantDigits: 6 }) : amount(n, unit);
    const [now, before] = [of(0), compared ? of(1) : undefined], part = now === undefined ? "" : share(now, 0, name);
    if (now === undefined && before === undefined) continue;
    const text = before === undefined || before === now ? exact(now) : now === undefined ? exact(before) : `${exact(before)} → ${exact(now)}`;
    rows.push(make("tr", [make("td", name), make("td", text, { class: "number" }), make("td", part, { class: "number soft" })]));
  }
  return section("Metrics", rows.length ? [make("table", rows)] : []);
}

/** Give the modules in a place that have most of the metric: each by what it has besides the modules in it. */
function heaviest(place) {
  const metric = models[0].metrics.get(state.metric);
  if (!metric || places[place].at[0] === undefined) return [];
  const nested = isNested(), found = [];
  const visit = (at) => {
    const number = numberOf(at, 0), { children } = places[at];
    const inner = nested ? children.reduce((sum, child) => sum + (numberOf(child, 0) || 0), 0) : 0;
    if (number !== undefined) found.push([at, number === Infinity ? number : Math.max(0, number - inner)]);
    children.forEach(visit);
  };
  places[place].children.forEach(visit);
  const size = (n) => Number.isNaN(n) ? Infinity : n;
  found.sort((a, b) => size(b[1]) - size(a[1]) || b[0] - a[0]);
  const rows = found.filter(([, number]) => number !== 0).map(([at, number]) => () =>
    make("li", [make("div", [toPlace(at), make("span", amount(number), { class: "number" }), make("span", share(number), { class: "share" })], { class: "ranked" })]));
  return list(`${totalOf() ? "Most" : "Largest"} ${state.metric}${nested ? " of their own" : ""}`, shortened(rows));
}

/** Give how a module differs from the one of the other model, and which modules in it do. */
function differences(place) {
  if (!compared) return [];
  const { words } = places[place], inner = [];
  const visit = (at) => { if (places[at].words.length) inner.push(at); places[at].children.forEach(visit); };
  places[place].children.forEach(visit);
  const rows = inner.map((at) => () => make("li", [make("span", MARKS[change(at)], { class: `mark ${change(at)}` }), toPlace(at), soft(places[at].words.join("; "), "div")]));
  const whole = place ? [] : data.interface;
  return [
    ...list("Interface", whole.map((word) => make("li", word))),
    ...list("What differs", words.map((word) => make("li", word))),
    ...(inner.length ? list(inner.length === 1 ? "1 module in it differs" : `${inner.length} modules in it differ`, shortened(rows)) : []),
    ...(words.length || inner.length || whole.length ? [] : [soft(`No difference from ${models[1].title}.`, "p")]),
  ];
}

function ofModule(place, side, item) {
  const model = models[side], of = model.items[item], operators = new Map(), evidence = new Map();
  const count = (map, key) => map.set(key, (map.get(key) || 0) + 1);
  model.nodes.forEach((node) => { if (model.within(node.parent, item)) { count(operators, node.type); count(evidence, node.evidence || "none"); } });
  const table = (map) => [make("table", [...map].sort((a, b) => b[1] - a[1]).slice(0, 12).map(([key, n]) => rowOf(key, String(n), "number")))];
  const crossing = (way) => [...new Set(model.levels[item].filter((edge) => edge[way] === OUTSIDE).flatMap((edge) => edge[2]))];
  const ends = (way) => shortened(crossing(way).map((value) => () => way
    ? tensor(side, value, "→", model.values[value].to.filter((node) => !model.within(node, item))) : tensor(side, value, "←", makerOf(model, value))));
  return [
    make("h2", of.type), make("p", make("code", of.scope)), soft(of.tag, "p"),
    compared ? soft(`in ${places[place].at.length > 1 && places[place].at[0] !== undefined ? "both" : model.title}`, "p") : null,
    make("p", [
      ...(place === state.open ? [] : [make("button", "Open (Enter)", {}, () => open(place))]),
      make("button", "Copy scope", {}, () => copy(of.scope, "scope")),
      ...(place ? [make("button", "Copy mx filter", { title: filterLine(model, of.scope) }, () => copy(filterLine(model, of.scope), "command"))] : []),
      make("button", "Copy link", {}, () => copy(location.href, "link")),
    ], { class: "buttons" }),
    ...differences(place), ...measures(side, item, place), ...heaviest(place), ...list("Takes", ends(0)), ...list("Gives", ends(1)),
    ...list("Weights", shortened(model.weightsOf(item).map((value) => () => tensor(side, value, "", [])))),
    ...section("Operators", table(operators)), ...section("Evidence of its nodes", table(evidence)),
    ...(place ? section("Cut it out", [make("pre", make("code", filterLine(model, of.scope)))]) : []),
  ].filter(Boolean);
}

const makerOf = (model, value) => model.maker(value) === OUTSIDE ? [] : [model.maker(value)];

function ofNode(side, item) {
  const model = models[side], of = model.items[item], { scope, tag } = model.scopes[of.parent];
  const merged = of.merged.flatMap((name) => [placed.has(name) ? toPlace(placed.get(name)) : name, make("br")]);
  const attributes = Object.entries(of.attributes).map(([name, value]) => rowOf(name, value));
  return [
    make("h2", of.type), make("p", make("code", of.name || "(no name)")), compared ? soft(`in ${model.title}`, "p") : null,
    make("p", [
      ...(of.name ? [make("button", "Copy name", {}, () => copy(of.name, "name"))] : []),
      make("button", "Copy scope", {}, () => copy(scope, "scope")),
      make("button", "Copy link", {}, () => copy(location.href, "link")),
    ], { class: "buttons" }),
    make("table", [
      rowOf("in", toPlace(placeOf(side, of.parent))), rowOf("tag", tag),
      rowOf("evidence", [make("b", of.evidence || "none"), `: ${EVIDENCE[of.evidence] || ""}`]),
      ...(merged.length ? [rowOf("merged", merged)] : []),
    ]),
    ...measures(side, item), ...list("Takes", of.inputs.map((value) => tensor(side, value, "←", makerOf(model, value)))),
    ...list("Gives", of.outputs.map((value) => tensor(side, value, "→", model.values[value].to))),
    ...section("Attributes", attributes.length ? [make("table", attributes)] : []),
  ].filter(Boolean);
}

/** Quote a word for a shell, where that is needed. */
const quoted = (word) => /^[A-Za-z0-9_.,:@%+\/-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;

/** Give the command that cuts a module out: the scope as a glob that matches only itself. */
function filterLine(model, scope) {
  const glob = scope.replace(/[[*?]/g, "[$&]"), file = /\.onnx$/.test(model.title) && !/[\x00-\x1f\x7f-\x9f]/.test(model.title) ? model.title : "model.onnx";
  const made = scope.replace(/[^A-Za-z0-9_.-]+/g, "_").replace(/^[.-]+/, "").slice(-80) || "module";
  return `mx filter ${quoted(file.replace(/^-/, "./-"))} --scope=${quoted(glob)} -o ${made}.onnx`;
}

function copy(text, what) {
  const done = () => tell(`Copied: ${what}`);
  const byHand = () => {
    const area = make("textarea", [], { class: "unseen" });
    area.value = text;
    document.body.append(area);
    area.select();
    if (document.execCommand("copy")) done(); else tell("The browser does not let a page copy: select the text instead");
    area.remove();
  };
  if (navigator.clipboard) navigator.clipboard.writeText(text).then(done, byHand); else byHand();
}

/** Show a short message, which screen readers say. */
function tell(text) {
  $("said").textContent = text;
  clearTimeout(tell.timer);
  tell.timer = setTimeout(() => { $("said").textContent = ""; }, 4000);
}
