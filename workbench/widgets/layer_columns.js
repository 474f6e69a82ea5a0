// The columns of the layer table: which fit, how they sort, what their cells look like.

const STATUS_KINDS = { queued: "queued", running: "running", done: "done", failed: "failed" };

function compactCount(value) {
  const units = ["", " K", " M", " B"];
  let at = 0;
  while (value >= 999.5 && at < 3) {
    value /= 1000;
    at += 1;
  }
  return `${at === 0 ? value : Number(value.toPrecision(3))}${units[at]}`;
}

function nameCell(data, i, view, item) {
  const name = data.name[i];
  if (item.node) return treeCell(item, name);
  const cut = name.lastIndexOf(".") + 1;
  const parent = make("span", { class: item.grouped ? "wb-parent wb-same" : "wb-parent" }, make("bdi", { text: name.slice(0, cut) }));
  return make("div", { class: "wb-path", title: name }, parent, make("span", { class: "wb-leaf", text: name.slice(cut) }));
}

/** A line of the tree: indented, with its twisty, and how many alike parts it stands for. */
function treeCell({ node, level, open }, title) {
  const twisty = make("span", { class: "wb-twisty", "data-twisty": Boolean(node.kids), "aria-hidden": "true", text: node.kids ? (open ? "▾" : "▸") : "" });
  const alike = node.times > 1 ? make("span", { class: "wb-times", title: `${plural(node.times, "alike part")} of the model, shown once`, text: `×${formatCount(node.times)}` }) : null;
  const label = make("span", { class: node.row < 0 ? "wb-leaf wb-node" : "wb-leaf", text: node.label || "(the model)" });
  return make("div", { class: "wb-path wb-treepath", style: `padding-left:${16 * (level - 1)}px`, title }, twisty, label, alike);
}

function decisionCell(data, i, view) {
  const reason = data.reason[i];
  if (data.decision[i] !== "int4") return make("span", { class: "wb-reason", title: reason, text: view.saysWhy() ? reason : "dense" });
  const padding = data.padding?.[i];
  const title = [reason, padding && `padded: ${padding}`].filter(Boolean).join(" · ");
  return make("span", { class: "wb-badge", "data-kind": "good", title: `int4: ${title}`, text: padding && !view.has("padding") ? "int4, padded" : "int4" });
}

/** "int4", "dense", or how many of the weights that can become int4 do. */
function decisionOf(sum, view) {
  if (sum.int4Count === 0) return view.saysWhy() && sum.reasons.size === 1 ? reasonsOf(sum) : make("span", { class: "wb-reason", title: reasonTitle(sum), text: "dense" });
  const able = view.ableIn(sum);
  if (sum.int4Count === sum.count || sum.int4Count === able) {
    return make("span", { class: "wb-badge", "data-kind": "good", title: `${formatCount(sum.int4Count)} of ${plural(sum.count, "weight")}`, text: "int4" });
  }
  const left = able - sum.int4Count;
  const text = left < sum.int4Count ? `all but ${formatCount(left)}` : `${formatCount(sum.int4Count)} of ${formatCount(able)}`;
  return make("span", { class: "wb-badge", "data-kind": "warn", title: `${formatCount(sum.int4Count)} of ${plural(able, "layer")} that can`, text });
}

const reasonsIn = (sum) => [...sum.reasons].sort((a, b) => b[1] - a[1]);
const reasonTitle = (sum) => reasonsIn(sum).map(([reason, count]) => `${formatCount(count)} ${reason}`).join("\n");

/** The reason that all weights below share, or how many reasons there are, the most frequent first. */
function reasonsOf(sum) {
  const [first] = reasonsIn(sum)[0];
  const text = first.replace(/^(int4|dense): /, "") + (sum.reasons.size > 1 ? ` (+${sum.reasons.size - 1} more)` : "");
  return make("span", { class: "wb-reason", title: reasonTitle(sum), text });
}

function errorCell(value, view) {
  if (typeof value === "string") return make("span", { class: "wb-reason", title: value }, "NaN", make("span", { class: "wb-hidden", text: `: ${value}` }));
  if (value === null || value === undefined) return make("span", { class: "wb-none", title: "not measured yet", text: "–" });
  const share = view.worst > 0 ? Math.max(0.02, value / view.worst) : 0;
  const bar = make("span", { class: "wb-bar" }, make("span", { style: `width:${(100 * share).toFixed(1)}%` }));
  return make("div", { class: "wb-error" }, bar, make("span", { text: errorText(value) }));
}

/** Three digits always, so that the numbers of a column stand under each other. */
const errorText = (value) => (value >= 1e-3 && value < 1000 ? value.toPrecision(3) : formatNumber(value));

/** A share of the whole; 100% only when it is all of it. */
function percentOf(share, digits = 1) {
  const least = 10 ** -digits;
  return `${(share < 1 ? Math.min(100 * share, 100 - least) : 100).toFixed(digits)}%`;
}

function shareCell(sum) {
  const bar = make("span", { class: "wb-bar wb-share" }, make("span", { style: `width:${100 * sum.coverage}%` }));
  return make("div", { class: "wb-error" }, bar, make("span", { class: "wb-percent", text: percentOf(sum.coverage, 0) }));
}

function statusCell(text) {
  if (!text) return make("span");
  const kind = STATUS_KINDS[text.split(/[:\s]/)[0]] ?? "other";
  return make("span", { class: "wb-status", "data-kind": kind, title: text, text });
}

const statesOf = (sum) => (sum.states.size === 1 ? [...sum.states.keys()][0] : [...sum.states].filter(([state]) => state).map(([state, count]) => `${state} ${formatCount(count)}`).join(", "));
const kindOf = (kind) => String(kind).replace(/_/g, " ");
const kindsOf = (sum) => [...sum.kinds.keys()].map(kindOf).join(", ");
const kindsCell = (sum) => make("span", { title: kindsOf(sum), text: sum.kinds.size > 1 ? "mixed" : kindsOf(sum) });
const bitsText = (bits) => (bits ?? NaN).toFixed(2).replace("NaN", "–");
const textCell = (text) => make("span", { title: text || null, text: text ?? "" });

const longest = (texts) => texts.reduce((most, text) => Math.max(most, text.length), 0);
/** Pixels that the longest shape takes, three numbers of a stack of experts for instance. */
const shapeRoom = (data) => 20 + 7.4 * longest(data.shape.map((shape) => shape.join(" × ")));
/** Pixels that "int4, padded" takes, where a layer is. */
const decisionRoom = (data) => ((data.padding ?? []).some(Boolean) ? DECISION_ALONE : 0);
/** Pixels that the longest path takes in a list, and in the tree the longest last part, indented and with its count. */
const nameRoom = (data, tree) => (tree ? data.name.reduce((most, name) => Math.max(most, treeRoom(name)), 0) : 22 + 7.3 * longest(data.name));

function treeRoom(name) {
  const parts = name.split(".");
  const level = parts.filter((part) => !/^\d+$/.test(part)).length; // an index stands beside its parent
  return 16 * level + 7.3 * parts.at(-1).length + 52;
}

/**
 * `rank`: the lower, the longer a column stays as the table gets narrower.
 * `small`: its width where there is no room for more; `need`: pixels that its widest cell takes, which it has always.
 * `cell` shows one weight, `sum` a node of the tree; `by` and `bySum` are what they are sorted by.
 */
const LAYER_COLUMNS = [
  { id: "name", label: "Layer", width: 164, rank: 0, cell: nameCell, sum: (s, view, item) => treeCell(item, item.node.path), bySum: (s, node) => node.label },
  { id: "weights", label: "Weights", width: 82, small: 82, rank: 4, right: true, tree: true, sum: (s) => formatCount(s.count), cell: () => "1", by: () => 1, bySum: (s) => s.count },
  { id: "kind", label: "Kind", width: 100, rank: 8, cell: (d, i) => textCell(kindOf(d.kind[i])), sum: kindsCell, bySum: kindsOf },
  { id: "shape", label: "Shape", width: 118, small: 98, rank: 3, right: true, need: shapeRoom, cell: (d, i) => textCell(d.shape[i].join(" × ")), sum: (s) => textCell(s.shape), by: (d, i) => d.parameters[i], bySum: (s) => s.parameters },
  { id: "parameters", label: "Params", width: 78, rank: 9, right: true, cell: (d, i) => compactCount(d.parameters[i]), sum: (s) => compactCount(s.parameters), bySum: (s) => s.parameters },
  { id: "before_bytes", label: "Before", width: 76, rank: 6, right: true, cell: (d, i) => formatBytes(d.before_bytes[i]), sum: (s) => formatBytes(s.before), bySum: (s) => s.before },
  { id: "after_bytes", label: "After", width: 76, small: 70, rank: 2.5, right: true, cell: (d, i) => formatBytes(d.after_bytes[i]), sum: (s) => formatBytes(s.after), bySum: (s) => s.after },
  { id: "share", label: "In int4", title: "Share of the bytes that becomes int4", width: 96, small: 86, rank: 3.5, tree: true, cell: (d, i) => shareCell(totalsOf(d, [i])), sum: shareCell, by: (d, i) => (d.decision[i] === "int4" ? 1 : 0), bySum: (s) => s.coverage },
  { id: "decision", label: "Decision", width: 160, small: 82, need: decisionRoom, grow: 2, rank: 1, cell: decisionCell, sum: decisionOf, by: (d, i) => `${d.decision[i] === "int4" ? 0 : 1}${d.reason[i]}`, bySum: (s) => `${s.int4Count ? 0 : 1}${s.int4Count === s.count ? "" : 1}` },
  { id: "group_size", label: "Group", title: "Weights per group", width: 70, rank: 8.5, right: true, cell: (d, i) => d.group_size[i] ?? "", sum: (s) => [...s.groups].sort((a, b) => a - b).join(", "), bySum: (s) => Math.max(0, ...s.groups) || null },
  { id: "reason", label: "Reason", width: 160, grow: 3, rank: 6.2, cell: (d, i) => make("span", { class: "wb-reason", title: d.reason[i], text: d.reason[i] }), sum: reasonsOf, bySum: (s) => [...s.reasons.keys()][0] },
  { id: "padding", label: "Padding", width: 96, grow: 1, rank: 8.8, cell: (d, i) => textCell(d.padding[i]), sum: (s) => (s.padded ? `${formatCount(s.padded)} padded` : ""), bySum: (s) => s.padded || null },
  { id: "bits_per_weight", label: "Bits", title: "Bits per weight", width: 58, rank: 7, right: true, cell: (d, i) => bitsText(d.bits_per_weight[i]), sum: (s) => bitsText(s.bits), bySum: (s) => s.bits },
  { id: "error", label: "Error", width: 126, small: 94, rank: 2, cell: (d, i, view) => errorCell(d.error[i], view), by: (d, i) => (typeof d.error[i] === "string" ? null : d.error[i]), sum: (s, view) => errorCell(s.worst, view), bySum: (s) => s.worst },
  { id: "status", label: "Status", width: 92, rank: 2.3, cell: (d, i) => statusCell(d.status[i]), sum: (s) => statusCell(statesOf(s)), bySum: statesOf },
];

const DECISION = LAYER_COLUMNS.find((column) => column.id === "decision");
const DECISION_ALONE = 108;
const ESSENTIAL = 3; // columns up to this rank are there before any other takes room
const ALWAYS = ["name", "shape", "parameters", "before_bytes", "after_bytes", "decision", "reason"];

/**
 * The columns that have data and fit into `width`, in their order, with the width of each.
 *
 * The essential ones may be small; then the paths have what they take, and only then the others grow and are joined.
 */
function fittingColumns(data, width, tree) {
  const known = LAYER_COLUMNS.filter((column) => (column.tree ? tree : isUsed(data, column.id)));
  const need = (column) => column.need?.(data) ?? 0;
  const least = (column) => Math.max(column.small ?? column.width, need(column));
  const wide = (column) => Math.max(column.width, need(column));
  const widths = new Map();
  let left = width;
  const ranked = [...known].sort((a, b) => a.rank - b.rank);
  for (const column of ranked.filter(({ rank }) => rank <= ESSENTIAL)) {
    if (column.rank > 0 && left < least(column)) break;
    widths.set(column, least(column));
    left -= least(column);
  }
  const [name, ...rest] = widths.keys();
  const more = clamp(nameRoom(data, tree) - least(name), 0, Math.max(0, left));
  widths.set(name, least(name) + more);
  left -= more;
  const grown = rest.reduce((sum, column) => sum + wide(column) - least(column), 0);
  if (left >= grown) {
    for (const column of rest) widths.set(column, wide(column));
    addOthers(ranked.filter(({ rank }) => rank > ESSENTIAL), widths, left - grown, wide);
  }
  const alone = [...widths.keys()].some((column) => column.id === "reason");
  const grow = (column) => (column === DECISION && alone ? 0 : column.grow);
  return known.filter((column) => widths.has(column)).map((column) => ({ ...column, width: widths.get(column), grow: grow(column) }));
}

/** Add columns as long as they fit; beside the reason the decision need not say why. */
function addOthers(columns, widths, left, wide) {
  for (const column of columns) {
    const saved = column.id === "reason" ? widths.get(DECISION) - DECISION_ALONE : 0;
    if (left + saved < wide(column)) {
      if (column.id === "reason") continue;
      break;
    }
    if (saved) widths.set(DECISION, DECISION_ALONE);
    widths.set(column, wide(column));
    left += saved - wide(column);
  }
}

const isUsed = (data, id) => ALWAYS.includes(id) || (id === "group_size" && Boolean(data[id])) || (data[id] ?? []).some((value) => value !== null && value !== undefined && value !== "");

const collator = new Intl.Collator("en", { numeric: true });
const isMissing = (value) => value === null || value === undefined || value === "";

/** Compare two keys; missing ones come last either way. */
function compareKeys(a, b, sign) {
  if (isMissing(a) || isMissing(b)) return isMissing(a) - isMissing(b);
  return sign * (typeof a === "string" || typeof b === "string" ? collator.compare(a, b) : a - b);
}

const sortColumn = (data, id) => LAYER_COLUMNS.find((column) => column.id === id && (column.tree || data[id] !== undefined));

/** Row indices in the order of a column. */
function sortRows(rows, data, [id, direction]) {
  const column = sortColumn(data, id);
  if (!column) return rows;
  const key = column.by ?? ((d, i) => d[id][i]);
  const keys = new Map(rows.map((i) => [i, key(data, i)]));
  const sign = direction === "descending" ? -1 : 1;
  return [...rows].sort((i, j) => compareKeys(keys.get(i), keys.get(j), sign) || i - j);
}

/** Compares siblings of the tree by a column, or null for the model's order. */
function nodeOrder(data, [id, direction]) {
  const column = sortColumn(data, id);
  if (!column) return null;
  const sign = direction === "descending" ? -1 : 1;
  const key = (node) => (node.sortKey ??= [column.bySum((node.sum ??= summaryOf(data, node.rows)), node)])[0];
  return (a, b) => compareKeys(key(a), key(b), sign) || a.rows[0] - b.rows[0];
}

/** The most useful last components of the paths, with the rows that end in them. */
function quickSelections(data, most) {
  const groups = new Map();
  data.name.forEach((name, i) => {
    const leaf = name.slice(name.lastIndexOf(".") + 1);
    if (!groups.has(leaf)) groups.set(leaf, []);
    groups.get(leaf).push(i);
  });
  const isInt4 = (rows) => rows.some((i) => data.decision[i] === "int4");
  const many = [...groups].filter(([, rows]) => rows.length > 1);
  many.sort((a, b) => isInt4(b[1]) - isInt4(a[1]));
  return many.slice(0, most);
}

/** Sums over rows: count, bytes before and after, and the share of bytes (before) that is in int4. */
function totalsOf(data, rows) {
  const sum = { count: rows.length, before: 0, after: 0, int4: 0 };
  for (const i of rows) {
    sum.before += data.before_bytes[i];
    sum.after += data.after_bytes[i];
    if (data.decision[i] === "int4") sum.int4 += data.before_bytes[i];
  }
  sum.coverage = sum.before ? sum.int4 / sum.before : 0;
  return sum;
}
