// Layered layout: ranks by longest path, order by neighbours' means, edges of one source share a line past the ranks
// between. Edges that close a cycle, where a module is entered again, are drawn backwards.
"use strict";

const GAP = 22, RANK_GAP = 40, SWEEPS = 4, MOST_BENDS = 30000;

/** Give x and y to `cells` (`{id, w, h}`), cells and bends to `edges` (`{source, target}`, ids); give width and height. */
function layout(cells, edges) {
  const number = new Map(cells.map((cell, at) => [cell.id, at]));
  const after = cells.map(() => []), before = cells.map(() => []);
  for (const edge of edges) {
    [edge.from, edge.to] = [number.get(edge.source), number.get(edge.target)];
    after[edge.from].push(edge.to);
  }
  const order = sequence(after), position = [];
  order.forEach((cell, at) => { position[cell] = at; });
  for (const edge of edges) {
    edge.back = position[edge.from] >= position[edge.to];
    if (!edge.back) before[edge.to].push(edge.from);
  }
  const rank = ranks(order, before, after.map((targets, at) => targets.filter((to) => position[to] > position[at])));
  const { rows, route } = place(cells, edges, rank);
  arrange(rows);
  const width = coordinates(rows);
  let y = 0;
  for (const row of rows) {
    row.h = row.reduce((most, cell) => Math.max(most, cell.h), 10);
    row.y = y;
    for (const cell of row) cell.y = y + (row.h - cell.h) / 2;
    y += row.h + RANK_GAP;
  }
  for (const edge of edges) {
    const from = cells[edge.from], to = cells[edge.to];
    Object.assign(edge, { from, to, rows, bends: route.get(edge) || [] });
  }
  return { width, height: Math.max(0, y - RANK_GAP) };
}

/** Give the cells in an order in which all edges lead forward but those that close a cycle: depth first, without calls. */
function sequence(after) {
  const seen = after.map(() => false), done = [];
  for (let root = 0; root < after.length; root++) {
    const stack = seen[root] ? [] : [[root, 0]];
    seen[root] = true;
    while (stack.length) {
      const top = stack[stack.length - 1], next = after[top[0]][top[1]++];
      if (next === undefined) done.push(stack.pop()[0]);
      else if (!seen[next]) { seen[next] = true; stack.push([next, 0]); }
    }
  }
  return done.reverse();
}

function ranks(order, before, after) {
  const rank = after.map(() => 0);
  for (const at of order) for (const to of after[at]) rank[to] = Math.max(rank[to], rank[at] + 1);
  for (const at of order.reverse())  // what is fed by nothing stands right above what it feeds
    if (!before[at].length && after[at].length) rank[at] = after[at].reduce((least, to) => Math.min(least, rank[to]), Infinity) - 1;
  return rank;
}

/** Give rows of cells, with bends where edges pass, and for each edge the bends that it takes. */
function place(cells, edges, rank) {
  const rows = [], route = new Map(), lines = new Map();
  const put = (cell, at) => { cell.rank = at; cell.up = []; cell.down = []; (rows[at] ||= []).push(cell); };
  cells.forEach((cell, at) => put(cell, rank[at]));
  const link = (upper, lower) => { upper.down.push(lower); lower.up.push(upper); };
  let bends = 0;
  for (const edge of edges) {
    if (edge.back) continue;
    const source = cells[edge.from], target = cells[edge.to], length = target.rank - source.rank - 1;
    const line = lines.get(source) || [];
    lines.set(source, line);
    if (bends + length > MOST_BENDS) { link(source, target); continue; }
    for (; line.length < length; bends++) {
      const bend = { bend: true, w: 6, h: 0 };
      put(bend, source.rank + line.length + 1);
      link(line[line.length - 1] || source, bend);
      line.push(bend);
    }
    link(length ? line[length - 1] : source, target);
    route.set(edge, line.slice(0, length));
  }
  for (let at = 0; at < rows.length; at++) rows[at] ||= [];
  return { rows, route };
}

/** Order each row by the mean place of what its cells are linked to. */
function arrange(rows) {
  const number = (row) => row.forEach((cell, at) => { cell.at = at; });
  const mean = (links, own) => links.length ? links.reduce((sum, cell) => sum + cell.at, 0) / links.length : own;
  rows.forEach(number);
  for (let sweep = 0; sweep < SWEEPS; sweep++) {
    const downwards = sweep % 2 === 0;
    for (const row of downwards ? rows : [...rows].reverse()) {
      if (row.length < 2) continue;
      for (const cell of row) cell.mean = mean(downwards ? cell.up : cell.down, cell.at);
      row.sort((a, b) => a.mean - b.mean || a.at - b.at);
      number(row);
    }
  }
}

/** Give each cell an x, its middle: near what it is linked to, and none over another; give the width. */
function coordinates(rows) {
  for (const row of rows) {
    let x = 0;
    for (const cell of row) { cell.x = x + cell.w / 2; x += cell.w + GAP; }
    for (const cell of row) cell.x -= (x - GAP) / 2;
  }
  for (let sweep = 0; sweep < 2 * SWEEPS; sweep++) {
    const downwards = sweep % 2 === 0;
    for (const row of downwards ? rows : [...rows].reverse()) settle(row, downwards ? "up" : "down");
  }
  let least = Infinity, most = -Infinity;
  for (const row of rows) for (const cell of row) {
    least = Math.min(least, cell.x - cell.w / 2);
    most = Math.max(most, cell.x + cell.w / 2);
  }
  for (const row of rows) for (const cell of row) cell.x -= least;
  return Math.max(0, most - least);
}

/** Move the cells of a row to their links as far as their order allows: between packing from either side. */
function settle(row, links) {
  if (row.length === 1) {
    const [cell] = row, others = cell[links];
    if (others.length) cell.x = others.reduce((sum, other) => sum + other.x, 0) / others.length;
    return;
  }
  const wanted = row.map((cell) => cell[links].length
    ? cell[links].reduce((sum, other) => sum + other.x, 0) / cell[links].length : cell.x);
  const apart = (i) => (row[i].w + row[i + 1].w) / 2 + (row[i].bend || row[i + 1].bend ? 8 : GAP);
  const left = [...wanted], right = [...wanted];
  for (let i = 1; i < row.length; i++) left[i] = Math.max(left[i], left[i - 1] + apart(i - 1));
  for (let i = row.length - 2; i >= 0; i--) right[i] = Math.min(right[i], right[i + 1] - apart(i));
  row.forEach((cell, i) => { cell.x = (left[i] + right[i]) / 2; });
}

/** Give the line of an edge; it is only asked for where that is drawn. `dx` and `dy` are where its graph has its origin. */
function path({ from: source, to: target, bends, rows, back, dx, dy }) {
  const round = Math.round;
  if (back) {
    const from = [source.x + source.w / 2, source.y + source.h / 2], to = [target.x + target.w / 2, target.y + target.h / 2];
    const side = Math.max(from[0], to[0]) + 50;
    return `M${from.map(round)}C${round(side)} ${round(from[1])} ${round(side)} ${round(to[1])} ${to.map(round)}`;
  }
  let x = source.x, y = source.y + source.h, text = `M${round(x)} ${round(y)}`;
  const curve = (nx, ny) => {
    const middle = round((y + ny) / 2);
    text += `C${round(x)} ${middle} ${round(nx)} ${middle} ${round(nx)} ${round(ny)}`;
  };
  for (const bend of bends) {
    const row = rows[bend.rank];
    curve(bend.x + dx, row.y + dy);
    y = row.y + row.h + dy;
    text += `V${round(y)}`;
    x = bend.x + dx;
  }
  curve(target.x, target.y);
  return text;
}
