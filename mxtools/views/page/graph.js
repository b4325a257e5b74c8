// Graphs: of the open module in each model. Modules in it are boxes, which open in place too.
"use strict";

const PAD = 14, HEAD = 30, SMALLEST = 0.3;
/** Below this scale nobody can read names: the graph is shown in part. */

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
  const of = (list, pick, start) => list.reduce((a, b) => pick(a, b), start);  // there may be too many to be arguments
  const most = of(known, Math.max, 0), least = of(known, Math.min, 0), small = of(positive, Math.min, Infinity);
  const logarithmic = least >= 0 && most / small >= 1000;
  const bottom = logarithmic ? small : least;
  return { bottom, most, logarithmic, share: (n) => n === Infinity || Number.isNaN(n) ? 1 : most === bottom ? (most ? 1 : 0)
    : logarithmic ? (n > 0 ? 0.08 + 0.92 * Math.log(n / small) / Math.log(most / small) : 0) : (n - bottom) / (most - bottom) };
}

const wide = (text, minimum) => Math.max(minimum, Math.min(260, 7.2 * text.length + 26));

/** Shorten a text to a width: names of tensors at their beginning, which is the path to the module that made them. */
function clip(text, width, atStart) {
  const most = Math.max(2, Math.floor((width - 14) / 6.6));
  if (text.length <= most) return text;
  return atStart ? "…" + text.slice(1 - most) : text.slice(0, most - 1) + "…";
}

class Graph {
  constructor(model, pane) {
    Object.assign(this, { model, pane, cells: [], edges: [], layers: [], extent: { width: 0, height: 0 }, view: { x: 0, y: 0, k: 1 } });
    this.scene = pane.querySelector(".scene");
    this.handle();
  }

  get scope() { return places[state.open].at[this.model.side]; }
  isPicked(item) { return item !== undefined && item === state.picked[this.model.side]; }
  find(item) { return this.cells.find((c) => c.item === item); }

  /** Lay out the graph of a scope; `nested` ones, inside of a box, have small ends. */
  gather(scope, nested) {
    const { model } = this;
    const children = model.inner[scope].filter((item) => state.constants || model.isScope(item) || !model.items[item].constant);
    const known = new Set(children), ends = new Map(), edges = [];
    const endOf = (kind, value) => {
      const id = `${scope} ${kind}${value}`, size = nested ? { w: 12, h: 12 } : { w: wide(model.values[value].name, 50), h: 24 };
      if (!ends.has(id)) ends.set(id, { id, end: kind, value, nested, ...size });
      return id;
    };
    for (const [source, target, carried] of model.levels[scope]) {
      if (source !== OUTSIDE && target !== OUTSIDE) {
        if (known.has(source) && known.has(target)) edges.push({ source, target, values: carried });
        continue;
      }
      for (const value of carried) {
        const from = model.values[value].from;
        if (!state.constants && from !== OUTSIDE && model.items[from].constant) continue;
        if (source === OUTSIDE && known.has(target)) edges.push({ source: endOf("in", value), target, values: [value] });
        if (target === OUTSIDE && known.has(source)) edges.push({ source, target: endOf("out", value), values: [value] });
      }
    }
    const all = [...ends.values()];
    const cells = [...all.filter((c) => c.end === "in"), ...children.map((item) => this.cell(item)), ...all.filter((c) => c.end === "out")];
    return { cells, edges, ...layout(cells, edges) };
  }

  cell(item) {
    const { model } = this, of = model.items[item];
    if (!model.isScope(item)) return { id: item, item, w: wide(of.type, 64), h: 28 };
    const place = placeOf(model.side, item), head = Math.max(wide(model.label(item), 64), wide(of.type, 64) - 12) + 34;
    const inside = state.expanded.has(place) ? this.gather(item, true) : null;
    if (!inside?.cells.length) return { id: item, item, place, w: head, h: 46 };
    return { id: item, item, place, inside, w: Math.max(head, inside.width + 2 * PAD), h: inside.height + HEAD + PAD };
  }

  /** Give all cells and edges of a graph, with those inside of boxes, their places on the whole. */
  settle(graph, dx, dy, depth) {
    for (const c of graph.cells) {
      Object.assign(c, { x: c.x + dx, y: c.y + dy, depth, around: graph });
      this.cells.push(c);
      if (c.inside) this.settle(c.inside, c.x - c.inside.width / 2, c.y + HEAD, depth + 1);
    }
    for (const edge of graph.edges) this.edges.push(Object.assign(edge, { dx, dy, depth }));
  }

  /** Draw the open module; a box that is given, the one that was opened in place, stays where it is on the screen. */
  draw(anchor = null) {
    const before = anchor === null ? null : this.find(anchor), kept = this.view;
    const graph = this.scope === undefined ? { cells: [], edges: [], width: 0, height: 0 } : this.gather(this.scope, false);
    Object.assign(this, { cells: [], edges: [], extent: graph });
    this.settle(graph, 0, 0, 0);
    const scene = document.createElementNS("http://www.w3.org/2000/svg", "g");
    scene.setAttribute("class", "scene");
    this.layers = Array.from({ length: 1 + this.cells.reduce((most, c) => Math.max(most, c.depth), 0) },
      () => ({ edges: drawn("g", {}, scene), boxes: drawn("g", {}, scene) }));
    this.scene.replaceWith(scene);
    this.scene = scene;
    const empty = this.pane.querySelector(".empty");
    empty.hidden = this.cells.length > 0;
    empty.textContent = this.scope === undefined ? `This module is not in ${this.model.title}.` : "Nothing to draw here but constants.";
    this.pane.setAttribute("aria-label", `Graph of ${titleOf(state.open)}${compared ? ` in ${this.model.title}` : ""}`);
    const now = before && this.find(anchor);
    if (!now) { this.fit(); return; }
    this.view = { k: kept.k, x: kept.x + (before.x - now.x) * kept.k, y: kept.y + (before.y - now.y) * kept.k };
    this.apply();
  }

  /** Draw what came into sight: what was drawn before stays. */
  reveal() {
    const { x, y, k } = this.view, { clientWidth, clientHeight } = this.pane;
    const near = (left, right, top, bottom) => right * k + x > -200 && left * k + x < clientWidth + 200
      && bottom * k + y > -200 && top * k + y < clientHeight + 200;
    for (const edge of this.edges) {
      const { from, to } = edge, left = Math.min(from.x, to.x) - 200, right = Math.max(from.x, to.x) + 200;
      if (edge.line || !near(left, right, Math.min(from.y, to.y), Math.max(from.y, to.y))) continue;
      edge.line = drawn("path", { class: edge.back ? "edge back" : "edge", d: path(edge) }, this.layers[edge.depth].edges);
      const names = edge.values.slice(0, 5).map((value) => `${this.model.values[value].name}  ${this.model.values[value].type}`);
      drawn("title", {}, edge.line, names.join("\n") + (edge.values.length > 5 ? `\n… ${edge.values.length} values` : ""));
      this.highlight(edge);
    }
    for (const c of this.cells) {
      if (c.group || !near(c.x - c.w, c.x + c.w, c.y, c.y + c.h)) continue;
      this.box(c);
      this.shade(c);
      this.choose(c);
    }
  }

  box(c) {
    const { model } = this, of = model.items[c.item], changed = c.place === undefined ? "" : change(c.place);
    const aside = !c.end && c.place === undefined && ["dataflow", "root", ""].includes(of.evidence);
    const kind = c.end ? (c.nested ? "end small" : "end") : c.place === undefined ? (aside ? "node aside" : "node") : `module ${c.inside ? "expanded" : ""} ${changed}`;
    c.group = drawn("g", { class: `box ${kind}`, transform: `translate(${Math.round(c.x - c.w / 2)} ${Math.round(c.y)})` }, this.layers[c.depth].boxes);
    drawn("rect", { width: c.w, height: c.h }, c.group);
    const line = (text, y, name = "", room = c.w) => drawn("text", { x: c.w / 2, y, class: name }, c.group, clip(text, room, c.end));
    if (c.end) { if (!c.nested) line(model.values[c.value].name, 16); }
    else if (c.place === undefined) line(model.label(c.item), 18);
    else {
      line(model.label(c.item), 19, "", c.w - 28);
      if (!c.inside) line(of.type, 35, "class");
      if (MARKS[changed]) drawn("text", { x: 10, y: 18, class: "mark" }, c.group, MARKS[changed]);
      this.toggle(c);
    }
    c.title = drawn("title", {}, c.group, c.end ? `${model.values[c.value].name}  ${model.values[c.value].type}` : "");
    c.group.addEventListener("click", () => c.end ? this.leave(c) : pick(model.side, c.item));
    c.group.addEventListener("dblclick", () => { if (c.item !== undefined) enter(model.side, c.item); });
    if (c.end) return;
    c.group.id = `g${model.side}-${c.item}`;
    c.group.setAttribute("role", "option");
  }

  /** Add the button that opens a module in place, or closes it. */
  toggle(c) {
    const button = drawn("path", { class: "toggle", d: `M${c.w - 20} 6h14v14h-14zm3.5 7h7${c.inside ? "" : "m-3.5-3.5v7"}` }, c.group);
    drawn("title", {}, button, c.inside ? "Close (e)" : "Open here (e)");
    button.addEventListener("click", (event) => { event.stopPropagation(); expand(c.place); });
    button.addEventListener("dblclick", (event) => event.stopPropagation());
  }

  shade(c) {
    if (!c.group || c.end) return;
    const number = this.model.number(c.item), colour = number === undefined || c.inside ? null : ramp(scaled.share(number));
    c.group.firstChild.style.fill = colour ? `rgb(${colour})` : "";
    const bright = colour && 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 140;
    c.group.classList.toggle("light", Boolean(colour && bright));
    c.group.classList.toggle("dark", Boolean(colour && !bright));
    const { words, type } = c.place === undefined ? { words: [], type: "" } : places[c.place];
    const told = [this.model.label(c.item), type, c.place === undefined ? "" : CHANGES[change(c.place)], number === undefined ? "" : `${state.metric} ${amount(number)}`];
    c.group.setAttribute("aria-label", told.filter(Boolean).join(", "));
    c.title.textContent = [this.model.full(c.item), number === undefined ? "" : `${state.metric}: ${amount(number)} ${share(number, this.model.side)}`.trim(), ...words].filter(Boolean).join("\n");
  }

  choose(c) {
    if (!c.group) return;
    c.group.classList.toggle("picked", this.isPicked(c.item));
    if (c.item === undefined) return;
    c.group.setAttribute("aria-selected", this.isPicked(c.item));
    if (this.isPicked(c.item)) this.pane.setAttribute("aria-activedescendant", c.group.id);
  }

  /** Go from an end of the module's graph to the node outside that makes or takes the value. */
  leave(c) {
    const { model } = this, value = model.values[c.value], inside = Number(c.id.split(" ")[0]);
    const other = c.end === "in" ? value.from : value.to.find((node) => !model.within(node, inside));
    if (other !== undefined && other !== OUTSIDE) go(model.side, other);
  }

  highlight(edge) { edge.line.classList.toggle("near", this.isPicked(edge.source) || this.isPicked(edge.target)); }

  mark() {
    this.pane.removeAttribute("aria-activedescendant");
    for (const c of this.cells) this.choose(c);
    for (const edge of this.edges) if (edge.line) this.highlight(edge);
  }

  apply() {
    this.scene.setAttribute("transform", `translate(${this.view.x} ${this.view.y}) scale(${this.view.k})`);
    this.reveal();
  }

  fit() {
    const { clientWidth: width, clientHeight: height } = this.pane, pad = Math.min(24, width / 20), { extent } = this;
    if (!width || !this.cells.length) return;
    const all = Math.min((width - 2 * pad) / extent.width, (height - 2 * pad) / extent.height, 1.25), k = all < SMALLEST ? 0.75 : all;
    this.view = { k, x: (width - extent.width * k) / 2, y: all < SMALLEST ? pad : (height - extent.height * k) / 2 };
    if (all < SMALLEST) this.view.x = width / 2 - this.cells.reduce((best, c) => c.y < best.y ? c : best).x * k;
    this.apply();
    const chosen = this.cells.find((c) => this.isPicked(c.item));
    if (chosen && all < SMALLEST) this.show(chosen);
  }

  /** Move the graph so that a cell is in sight. */
  show(c) {
    const { clientWidth: width, clientHeight: height } = this.pane, { view } = this;
    const x = view.x + c.x * view.k, y = view.y + c.y * view.k;
    if (x < 60 || x > width - 60) view.x = width / 2 - c.x * view.k;
    if (y < 20 || y + Math.min(c.h * view.k, height - 40) > height - 20) view.y = height / 2 - Math.min(c.h * view.k, height - 40) / 2 - c.y * view.k;
    this.apply();
  }

  zoom(factor, x = this.pane.clientWidth / 2, y = this.pane.clientHeight / 2) {
    if (!factor) { this.fit(); return; }
    const k = Math.min(4, Math.max(0.02, this.view.k * factor)), by = k / this.view.k;
    this.view = { k, x: x - (x - this.view.x) * by, y: y - (y - this.view.y) * by };
    this.apply();
  }

  key(key) {
    const { cells, edges } = this, here = cells.find((c) => this.isPicked(c.item)), real = cells.filter((c) => c.item !== undefined);
    if (!key.startsWith("Arrow") || !real.length) return false;
    const byId = new Map(cells.map((c) => [c.id, c]));
    const follow = (own, other) => edges.filter((e) => e[own] === here.item).map((e) => byId.get(e[other]));
    const beside = here ? here.around.cells.filter((c) => c.rank === here.rank && c.item !== undefined).sort((a, b) => a.x - b.x) : [];
    const found = !here ? real : key === "ArrowDown" ? follow("source", "target") : key === "ArrowUp" ? follow("target", "source")
      : [beside[beside.indexOf(here) + (key === "ArrowRight" ? 1 : -1)]];
    const next = found.find((c) => c && c.item !== undefined);
    if (next) pick(this.model.side, next.item);
    return true;
  }

  /** Follow the wheel, the mouse and fingers: one moves the graph, two make it larger or smaller. */
  handle() {
    const { pane } = this, fingers = new Map();
    let moved = false;
    const at = (event) => ({ x: event.clientX - pane.getBoundingClientRect().left, y: event.clientY - pane.getBoundingClientRect().top });
    const spread = () => {
      const [a, b] = [...fingers.values()];
      return { size: Math.hypot(a.x - b.x, a.y - b.y), x: (a.x + b.x) / 2, y: (a.y + b.y) / 2 };
    };
    pane.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoom(Math.exp(-event.deltaY / 500), at(event).x, at(event).y);
    }, { passive: false });
    pane.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      if (!fingers.size) moved = false;
      fingers.set(event.pointerId, { ...at(event), start: at(event) });
    });
    pane.addEventListener("pointermove", (event) => {
      const finger = fingers.get(event.pointerId), now = at(event);
      if (!finger || (!moved && fingers.size === 1 && Math.hypot(now.x - finger.start.x, now.y - finger.start.y) < 5)) return;
      if (!moved) pane.setPointerCapture(event.pointerId);
      moved = true;
      const before = fingers.size === 2 ? spread() : finger;
      fingers.set(event.pointerId, { ...now, start: finger.start });
      const after = fingers.size === 2 ? spread() : now;
      this.view = { ...this.view, x: this.view.x + after.x - before.x, y: this.view.y + after.y - before.y };
      if (fingers.size === 2 && before.size) this.zoom(after.size / before.size, after.x, after.y); else this.apply();
    });
    for (const name of ["pointerup", "pointercancel"]) window.addEventListener(name, (event) => fingers.delete(event.pointerId));
    pane.addEventListener("click", (event) => { if (moved) event.stopPropagation(); }, true);
  }
}

let scaled = scale([]);

/** Colour both graphs by one scale, and say what the colours mean. */
function paint() {
  const numbers = graphs.flatMap((graph) => graph.cells.filter((c) => !c.inside && !c.end).map((c) => graph.model.number(c.item))).filter((n) => n !== undefined);
  scaled = scale(numbers);
  for (const graph of graphs) graph.cells.forEach((c) => graph.shade(c));
  $("legend").hidden = !numbers.length;
  $("least").textContent = amount(scaled.bottom);
  $("most").textContent = amount(scaled.most) + (scaled.logarithmic ? " (log)" : "");
  $("ramp").style.background = `linear-gradient(90deg,${[0, 1, 2, 3].map((i) => `rgb(${ramp(i / 3)})`)})`;
}
