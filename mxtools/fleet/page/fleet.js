"use strict";
// The jobs of a fleet: one row each, searched, filtered and sorted here; what is below a row is made when it is opened.
const shown = JSON.parse(document.getElementById("data").textContent);
const $$ = (id) => document.getElementById(id);
const FILTERS = ["exporter", "tool", "result"];

function element(name, options = {}, ...children) {
  const made = Object.assign(document.createElement(name), options);
  made.append(...children);
  return made;
}

const unit = (bytes) => {
  const power = bytes < 1000 ? 0 : Math.min(4, Math.floor(Math.log10(bytes) / 3));
  return `${Number((bytes / 1000 ** power).toPrecision(3))} ${["B", "kB", "MB", "GB", "TB"][power]}`;
};
const FORMS = {
  bytes: unit,
  share: (n) => n.toFixed(4),
  error: (n) => n.toExponential(1),
  seconds: (n) => n.toFixed(1),
  count: (n) => String(n),
};
const told = (value, form) => (value === null ? "" : typeof value === "string" ? value : FORMS[form](value));

// ---- rows
shown.jobs.forEach((job) => {
  job.result = job.kind || "done";
  job.text = [job.model, job.exporter, job.tool, job.kind, job.step, job.problem].join(" ").toLowerCase();
});

function changesOf(job) {
  return job.changes.map(([text, worse]) => element("div", { className: worse ? "worse" : "better", textContent: text }));
}

function resultOf(job) {
  const cell = element("td", { className: "result" });
  const failure = [job.step, job.problem].filter(Boolean).join(": ");
  cell.append(element("span", { className: "kind", textContent: job.result }), failure ? ` ${failure}` : "", ...changesOf(job));
  return cell;
}

function rowOf(job) {
  const row = element("tr", { className: job.kind ? "failed" : "" });
  const open = element("button", { type: "button", textContent: job.model });
  open.setAttribute("aria-expanded", "false");
  row.append(element("td", { className: "name" }, open));
  row.append(element("td", { textContent: job.exporter }), element("td", { textContent: job.tool }));
  shown.columns.forEach(([, form], at) => {
    row.append(element("td", { className: "number", textContent: told(job.figures[at], form) }));
  });
  const pages = job.pages.map(([name, href]) => element("a", { href, textContent: name }));
  row.append(element("td", {}, ...pages), resultOf(job));
  row.addEventListener("click", (event) => event.target.closest("a") || toggle(job, row, open));
  return row;
}

function toggle(job, row, open) {
  const was = open.getAttribute("aria-expanded") === "true";
  open.setAttribute("aria-expanded", String(!was));
  if (was) return row.nextElementSibling.remove();
  const steps = job.steps.map(([name, line, status, seconds, memory]) => element("tr", {},
    element("td", { textContent: name }), element("td", { className: "number", textContent: `${seconds.toFixed(1)} s` }),
    element("td", { className: "number", textContent: unit(memory) }),
    element("td", { className: status ? "worse" : "soft", textContent: status === null ? "no end" : String(status) }),
    element("td", {}, element("code", { textContent: line }))));
  const cell = element("td", { colSpan: row.children.length }, element("table", {}, ...steps));
  if (job.remedy) cell.append(element("p", { textContent: job.remedy }));
  if (job.log) cell.append(element("pre", { textContent: job.log }));
  const link = element("a", { href: job.file, textContent: "the report" });
  cell.append(element("p", { className: "soft" }, `attempts: ${job.attempts} `, link));
  row.after(element("tr", { className: "more" }, cell));
}

// ---- head: sorts by a column
const order = { at: -1, down: false };
const heads = [
  ["model", (job) => job.model], ["exporter", (job) => job.exporter], ["tool", (job) => job.tool],
  ...shown.columns.map(([name], at) => [name, (job) => job.figures[at]]),
  ["view", (job) => -job.pages.length], ["result", (job) => job.result],
];
heads.forEach(([name], at) => {
  const number = at > 2 && at < heads.length - 2;
  const head = element("th", { scope: "col", className: number ? "number" : "" });
  head.append(element("button", { type: "button", textContent: name, onclick: () => sort(at) }));
  $$("head").append(head);
});

function sort(at) {
  Object.assign(order, { down: order.at === at && !order.down, at });
  [...$$("head").children].forEach((head, n) => {
    n === at ? head.setAttribute("aria-sort", order.down ? "descending" : "ascending") : head.removeAttribute("aria-sort");
  });
  draw();
}

function compared(one, two) {
  if (one === two) return 0;
  if (one === null || two === null) return one === null ? 1 : -1;  // what was not measured comes last
  const way = order.down ? -1 : 1;
  const value = (n) => (n === "Infinity" ? Infinity : n);
  if (typeof one === "number" || typeof two === "number") return way * (value(one) - value(two));
  return way * one.localeCompare(two, undefined, { numeric: true });
}

// ---- filters, which the address keeps
function fill(name) {
  const values = [...new Set(shown.jobs.map((job) => job[name]))].sort();
  $$(name).append(element("option", { value: "*", textContent: "all" }));
  values.forEach((value) => $$(name).append(element("option", { value, textContent: value || "none" })));
}

function isWanted(job, words) {
  const change = $$("change").value;
  return FILTERS.every((name) => $$(name).value === "*" || $$(name).value === job[name])
    && (!change || job.changes.some(([, worse]) => change === "any" || worse))
    && words.every((word) => job.text.includes(word));
}

function draw() {
  const words = $$("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const wanted = shown.jobs.filter((job) => isWanted(job, words));
  if (order.at >= 0) wanted.sort((one, two) => compared(heads[order.at][1](one), heads[order.at][1](two)));
  $$("rows").replaceChildren(...wanted.map((job) => (job.row ??= rowOf(job))));
  document.querySelectorAll("#rows [aria-expanded=true]").forEach((open) => open.setAttribute("aria-expanded", "false"));
  const failed = wanted.filter((job) => job.kind).length;
  $$("count").textContent = `${wanted.length} of ${shown.jobs.length} jobs, ${failed} failed`;
  $$("none").hidden = wanted.length > 0;
}

function remember() {
  const kept = new URLSearchParams();
  if ($$("search").value) kept.set("search", $$("search").value);
  FILTERS.forEach((name) => $$(name).value !== "*" && kept.set(name, $$(name).value));
  if ($$("change").value) kept.set("change", $$("change").value);
  history.replaceState(null, "", `#${kept}`);
}

FILTERS.forEach(fill);
$$("against").hidden = !shown.against;
new URLSearchParams(location.hash.slice(1)).forEach((value, name) => {
  if (["search", "change", ...FILTERS].includes(name)) $$(name).value = value;
});
[...FILTERS, "change", "search"].forEach((name) => $$(name).addEventListener("input", () => { remember(); draw(); }));
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && event.target !== $$("search")) { event.preventDefault(); $$("search").focus(); }
});
draw();
