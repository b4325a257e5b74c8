// The tree of modules, of both models where two are compared: only what is unfolded is on the page.
"use strict";

/** Give the places below one that the tree shows. */
function below(place) {
  const { children } = places[place];
  return state.differing ? children.filter(differs) : children;
}

function tree() {
  const top = $("tree").scrollTop;
  $("tree").replaceChildren(branch(0, 0, 0));
  $("tree").scrollTop = top;
  $("measure").textContent = !state.metric ? (compared ? "modules that differ" : "") : totalOf() ? `${state.metric}, and its share of ${amount(totalOf())}` : state.metric;
  select();
}

const MOST_ROWS = 200;
/** Rows of one module's children that are drawn at once. */
const windows = new Map();

/** Give the children of a place that the tree draws: those around one that was opened, else the first ones. */
function windowOf(place, inner) {
  const [from, to] = windows.get(place) || [0, MOST_ROWS];
  return [Math.min(from, Math.max(0, inner.length - 1)), Math.min(to, inner.length)];
}

/** Move what is drawn of the children around a place, so that its row is there. */
function uncover(place) {
  const { parent } = places[place];
  if (parent === OUTSIDE) return;
  const inner = below(parent), at = inner.indexOf(place), [from, to] = windowOf(parent, inner);
  if (at < from || at >= to) windows.set(parent, [Math.max(0, at - MOST_ROWS / 2), at + MOST_ROWS / 2]);
}

/** Make a row for children that are not drawn; it leads to the nearest of them. */
function hidden(place, count, next, level, wanted) {
  const row = make("div", make("span", `… ${count} more`, { class: "name" }), { class: "row more", title: places[next].scope, "data-place": next }, (event) => {
    event.stopPropagation();
    windows.set(place, wanted);
    tree();
  });
  row.style.setProperty("--level", level);
  return make("li", row, { role: "treeitem", "aria-level": level + 1, "aria-label": `${count} more modules` });
}

function branches(place, inner, level) {
  const [from, to] = windowOf(place, inner), numbers = places[place].children.map((child) => numberOf(child)).filter(Number.isFinite);
  const most = numbers.reduce((a, b) => Math.max(a, b), 0);
  const made = inner.slice(from, to).map((child) => branch(child, level, most));
  if (from) made.unshift(hidden(place, from, inner[from - 1], level, [Math.max(0, from - MOST_ROWS), to]));
  if (to < inner.length) made.push(hidden(place, inner.length - to, inner[to], level, [from, to + MOST_ROWS]));
  return made;
}

function branch(place, level, most) {
  const inner = below(place), unfolded = state.unfolded.has(place);
  const row = make("div", cellsOf(place, most, inner.length ? unfolded : null), { class: `row ${change(place)}`, title: describe(place), "data-place": place }, () => open(place));
  row.style.setProperty("--level", level);
  const made = make("li", row, { role: "treeitem", id: `t${place}`, "aria-level": level + 1, "aria-label": spoken(place) });
  if (!inner.length) return made;
  made.setAttribute("aria-expanded", unfolded);
  if (unfolded) made.append(make("ul", branches(place, inner, level + 1), { role: "group" }));
  return made;
}

/** Give the cells of a row; the number and its share keep their places, and names get what is left. */
function cellsOf(place, most, unfolded) {
  const number = numberOf(place), mark = MARKS[change(place)];
  const fold = make("span", unfolded === null ? "" : unfolded ? "▼" : "▶", { class: "fold" }, (event) => {
    event.stopPropagation();
    unfold(place, !unfolded);
  });
  const parts = [fold, make("span", titleOf(place), { class: "name" }), make("span", place ? places[place].type : "", { class: "class" })];
  if (compared) parts.splice(1, 0, make("span", mark, { class: "mark" }));
  if (number === undefined) return parts;
  const bar = make("i"), part = number === Infinity || Number.isNaN(number) ? 1 : most > 0 ? Math.max(0, Math.min(1, number / most)) : 0;
  bar.style.width = `${100 * part}%`;
  if (place) parts.push(make("span", bar, { class: "bar" }));
  return [...parts, make("span", amount(number), { class: "number" }), make("span", share(number, sideOf(place)), { class: "share" })];
}

/** Say all that is known of a place: what a mouse shows. */
function describe(place) {
  return [places[place].scope, ...places[place].words].join("\n");
}

/** Say a row as a screen reader reads it. */
function spoken(place) {
  const number = numberOf(place);
  const measured = number === undefined || !state.metric ? "" : `${state.metric} ${amount(number)} ${share(number, sideOf(place))}`.trim();
  return [titleOf(place), place ? places[place].type : "", measured, CHANGES[change(place)]].filter(Boolean).join(", ");
}

/** Mark what is open and what is selected in the tree that is there already. */
function select() {
  const picked = pickedPlace();
  for (const row of document.querySelectorAll("#tree .row")) {
    const place = Number(row.dataset.place);
    row.classList.toggle("open", place === state.open);
    row.classList.toggle("picked", place === picked);
    row.parentNode.setAttribute("aria-selected", place === picked);
    if (place !== (picked ?? state.open)) continue;
    row.scrollIntoView({ block: "nearest" });
    $("tree").setAttribute("aria-activedescendant", row.parentNode.id);
  }
}

function unfold(place, wanted) {
  state.unfolded[wanted ? "add" : "delete"](place);
  tree();
}

/** Give the innermost place with the largest number, if numbers are no parts of a whole, such as errors; else the root. */
function worst() {
  if (data.changes.length || !state.metric || totalOf()) return 0;
  const inside = (place, around) => places[place].parent === around || (places[place].parent !== OUTSIDE && inside(places[place].parent, around));
  const sizes = places.map((_, place) => numberOf(place) || 0);
  return places.reduce((most, _, place) => sizes[place] > sizes[most] || (sizes[place] && sizes[place] === sizes[most] && inside(place, most)) ? place : most, 0);
}

/** Unfold what holds most of the model: as far as one module has half of it, or one alone differs. */
function unfoldMost() {
  for (let place = 0; ;) {
    state.unfolded.add(place);
    const numbers = places[place].children.map((child) => numberOf(child) || 0), most = numbers.reduce((a, b) => Math.max(a, b), 0);
    const heavy = isNested() && most >= totalOf() / 2 ? places[place].children[numbers.indexOf(most)] : undefined;
    const differing = compared ? places[place].children.filter(differs) : [];
    const next = data.changes.length ? (differing.length === 1 ? differing[0] : undefined) : heavy;
    if (next === undefined) return;
    place = next;
  }
}

function treeKey(key) {
  const rows = [...document.querySelectorAll("#tree .row")].map((row) => Number(row.dataset.place));
  const place = pickedPlace() ?? state.open, at = rows.indexOf(place), inner = below(place);
  const unfolded = state.unfolded.has(place) && inner.length > 0;
  if (key === "ArrowDown" && at + 1 < rows.length) open(rows[at + 1]);
  else if (key === "ArrowUp" && at > 0) open(rows[at - 1]);
  else if (key === "Home") open(rows[0]);
  else if (key === "End") open(rows[rows.length - 1]);
  else if (key === "ArrowRight" && inner.length) unfolded ? open(inner[0]) : unfold(place, true);
  else if (key === "ArrowLeft") unfolded ? unfold(place, false) : place && open(places[place].parent);
  else return false;
  return true;
}
