// The module tree of the layer table: names cut at their dots, and alike indices ("layers.0" to "layers.31") shown once.

/**
 * A node: {part, label, path, glob, key, rows, kids, row, times}. `rows` are the weights below it in the model's order;
 * `row` is the weight of a leaf, -1 for all else; `times` says how many alike parts of the model it stands for.
 */
function treeNode(part, fields = {}) {
  return { part, label: part, rows: [], kids: null, row: -1, times: 1, ...fields };
}

/** The roots of the tree over `rows`; with `fold`, children that are the same but for their index become one. */
function buildTree(data, rows, fold) {
  const known = new Set(data.name);
  const root = treeNode("", { kids: [], at: new Map() });
  for (const i of rows) {
    const parts = data.name[i].split(".");
    let node = root;
    let depth = 0;
    // A weight is no node: its bias ("q_proj.bias") stands beside it.
    for (let path = parts[0]; depth < parts.length - 1 && !known.has(path); path += `.${parts[(depth += 1)]}`) {
      if (!node.at.has(parts[depth])) addKid(node, treeNode(parts[depth], { kids: [], at: new Map() }));
      node = node.at.get(parts[depth]);
    }
    addKid(node, treeNode(parts.slice(depth).join("."), { rows: [i], row: i }));
  }
  const ids = new Map();
  const same = (text) => ids.get(text) ?? (ids.set(text, ids.size), ids.size - 1);
  finish(root, data, fold, same);
  return root.kids.map((kid) => named(joined(kid), "", "", data));
}

function addKid(node, kid) {
  node.kids.push(kid);
  node.at.set(kid.part, kid);
}

/** From the leaves up: gather rows, tell alike nodes by a number, fold them. */
function finish(node, data, fold, same) {
  if (!node.kids) {
    const i = node.row;
    node.like = same([node.part, data.kind?.[i], data.shape[i], data.decision[i], data.reason[i], data.after_bytes[i]].join("|"));
    node.bare = same([data.kind?.[i], data.shape[i], data.decision[i], data.reason[i], data.after_bytes[i]].join("|"));
    return;
  }
  for (const kid of node.kids) finish(kid, data, fold, same);
  if (fold) node.kids = foldAlike(node.kids);
  node.rows = [].concat(...node.kids.map((kid) => kid.rows));
  node.bare = same(`[${node.kids.map((kid) => kid.like)}]`);
  node.like = same(`${node.part}${node.bare}`);
}

/** Join siblings whose names are numbers and which are the same below. */
function foldAlike(kids) {
  const isIndex = (kid) => /^\d+$/.test(kid.part);
  const groups = new Map();
  for (const kid of kids.filter(isIndex)) groups.set(kid.bare, [...(groups.get(kid.bare) ?? []), kid]);
  if (![...groups.values()].some((group) => group.length > 1)) return kids;
  const folded = [];
  for (const kid of kids) {
    const group = isIndex(kid) ? groups.get(kid.bare) : [kid];
    if (group[0] !== kid) continue;
    folded.push(group.length > 1 ? merged(group, groups.size === 1 ? "*" : indexRanges(group.map((one) => Number(one.part)))) : kid);
  }
  return folded;
}

/** One node that stands for several which are the same below. */
function merged(nodes, part = nodes[0].part) {
  const node = treeNode(part, { rows: [].concat(...nodes.map((one) => one.rows)), like: nodes[0].like, bare: nodes[0].bare });
  node.times = nodes.reduce((sum, one) => sum + one.times, 0);
  node.star = part === nodes[0].part ? nodes[0].star : true;
  if (nodes[0].kids) node.kids = nodes[0].kids.map((_, k) => merged(nodes.map((one) => one.kids[k])));
  return node;
}

/** "0–3, 7, 9–31" of whole numbers. */
function indexRanges(numbers) {
  const runs = [];
  for (const n of [...numbers].sort((a, b) => a - b)) {
    const last = runs.at(-1);
    if (last && n === last[1] + 1) last[1] = n;
    else runs.push([n, n]);
  }
  return runs.map(([a, b]) => (a === b ? `${a}` : b === a + 1 ? `${a}, ${b}` : `${a}–${b}`)).join(", ");
}

/** A node with a single child becomes one line: "layers.*". */
function joined(node) {
  let at = node;
  const parts = [[at.part, at.star]];
  while (at.kids?.length === 1) {
    at = at.kids[0];
    parts.push([at.part, at.star]);
  }
  return { ...at, parts, label: parts.map(([part]) => part).join("."), kids: at.kids?.map(joined) ?? null };
}

/** From the roots down: the path that is shown, and the glob that finds the weights ("*" for every folded index). */
function named(node, path, glob, data) {
  node.path = path + node.label;
  const star = glob + node.parts.map(([part, folded]) => (folded ? "*" : part)).join(".");
  node.glob = !node.kids || star.endsWith("*") ? star : `${star}.*`;
  node.key = node.kids ? `${node.path}/` : node.row >= 0 ? data.name[node.row] : `${node.path}*`;
  if (node.kids) node.kids.forEach((kid) => named(kid, `${node.path}.`, `${star}.`, data));
  else if (node.rows.length > 1) {
    const labels = differing(node.rows.map((i) => data.name[i]));
    node.kids = node.rows.map((i, k) => treeNode(labels[k], { rows: [i], row: i, path: data.name[i], glob: data.name[i], key: data.name[i] }));
  }
  return node;
}

/** Of names of equal length the part in which they differ, with the component before it: "layers.3". */
function differing(names) {
  const parts = names.map((name) => name.split("."));
  const differs = parts[0].map((part, at) => parts.some((other) => other[at] !== part));
  const first = Math.max(0, differs.indexOf(true) - 1);
  return parts.map((own) => own.slice(first, differs.lastIndexOf(true) + 1).join("."));
}

/** The nodes in view, in order, as items of the table; `compare` (or null) orders siblings, `open` has keys. */
function visibleItems(roots, open, compare) {
  const items = [];
  const walk = (nodes, level, parent) => {
    const sorted = compare ? [...nodes].sort(compare) : nodes;
    sorted.forEach((node, at) => {
      const item = { key: node.key, row: node.row, rows: node.rows, node, level, pos: at + 1, size: sorted.length, parent };
      items.push(item);
      if (node.kids && open.has(node.key)) walk(node.kids, level + 1, item);
    });
  };
  walk(roots, 1, null);
  return items;
}

/** Keys of the nodes to open at first: level by level, as long as all that is shown fits `room` lines. */
function openUntilFull(roots, room) {
  const open = new Set();
  let shown = roots.length;
  let level = roots;
  while (level.length) {
    const next = [];
    for (const node of level) {
      if (!node.kids || !node.kids[0].parts) continue; // the single weights of a folded one stay closed
      if (shown + node.kids.length > room && open.size) continue;
      open.add(node.key);
      shown += node.kids.length;
      next.push(...node.kids);
    }
    level = next;
  }
  return open;
}

/** The nodes from a root down to a weight. */
function pathTo(roots, row) {
  const path = [];
  for (let nodes = roots; nodes; nodes = path.at(-1).kids) {
    const next = nodes.find((node) => node.rows.includes(row));
    if (!next) break;
    path.push(next);
  }
  return path;
}

/** What a node's weights have in common: counts, bytes, kinds, reasons. */
function summaryOf(data, rows) {
  const sum = { ...totalsOf(data, rows), parameters: 0, int4Count: 0, padded: 0, worst: null, kinds: new Map(), reasons: new Map(), groups: new Set(), states: new Map() };
  for (const i of rows) {
    sum.parameters += data.parameters[i];
    sum.int4Count += data.decision[i] === "int4";
    sum.padded += Boolean(data.padding?.[i]);
    sum.worst = maxOf(sum.worst, data.error?.[i]);
    for (const [map, value] of [[sum.kinds, data.kind?.[i] ?? ""], [sum.reasons, `${data.decision[i]}: ${data.reason[i]}`], [sum.states, data.status?.[i] ?? ""]]) {
      map.set(value, (map.get(value) ?? 0) + 1);
    }
    if (data.group_size?.[i]) sum.groups.add(data.group_size[i]);
  }
  const shape = data.shape[rows[0]].join(" × ");
  sum.shape = rows.every((i) => data.shape[i].join(" × ") === shape) ? shape : "";
  sum.bits = sum.parameters ? (8 * sum.after) / sum.parameters : null;
  return sum;
}

const maxOf = (a, b) => (typeof b !== "number" ? a : a === null ? b : Math.max(a, b));
