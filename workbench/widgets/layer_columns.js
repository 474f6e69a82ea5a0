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

function nameCell(data, i, grouped) {
  const name = data.name[i];
  const cut = name.lastIndexOf(".") + 1;
  const parent = make("span", { class: grouped ? "wb-parent wb-same" : "wb-parent" }, make("bdi", { text: name.slice(0, cut) }));
  return make("div", { class: "wb-path", title: name }, parent, make("span", { class: "wb-leaf", text: name.slice(cut) }));
}

function decisionCell(data, i) {
  const reason = data.reason[i];
  if (data.decision[i] !== "int4") return make("span", { class: "wb-reason", title: reason, text: reason });
  const padding = data.padding?.[i];
  const title = [reason, padding && `padded: ${padding}`].filter(Boolean).join(" · ");
  return make("span", { class: "wb-badge", "data-kind": "good", title, text: padding ? "int4, padded" : "int4" });
}

function errorCell(data, i, worst) {
  const value = data.error[i];
  if (value === null || value === undefined) return make("span", { class: "wb-none", text: "–" });
  const share = worst > 0 ? Math.max(0.02, value / worst) : 0;
  const bar = make("span", { class: "wb-bar" }, make("span", { style: `width:${(100 * share).toFixed(1)}%` }));
  return make("div", { class: "wb-error" }, bar, make("span", { text: formatNumber(value) }));
}

function statusCell(data, i) {
  const text = data.status[i] ?? "";
  if (!text) return make("span");
  const kind = STATUS_KINDS[text.split(/[:\s]/)[0]] ?? "other";
  return make("span", { class: "wb-status", "data-kind": kind, title: text, text });
}

/** `rank`: the lower, the longer a column stays as the table gets narrower; `small`: its width in a narrow table. */
const LAYER_COLUMNS = [
  { id: "name", label: "Layer", width: 236, small: 164, rank: 0, cell: nameCell },
  { id: "kind", label: "Kind", width: 92, rank: 8, cell: (d, i) => d.kind[i] },
  { id: "shape", label: "Shape", width: 124, small: 98, rank: 2.5, right: true, cell: (d, i) => d.shape[i].join(" × "), by: (d, i) => d.parameters[i] },
  { id: "parameters", label: "Params", width: 78, rank: 9, right: true, cell: (d, i) => compactCount(d.parameters[i]) },
  { id: "before_bytes", label: "Before", width: 76, rank: 6, right: true, cell: (d, i) => formatBytes(d.before_bytes[i]) },
  { id: "after_bytes", label: "After", width: 76, small: 70, rank: 3, right: true, cell: (d, i) => formatBytes(d.after_bytes[i]) },
  { id: "decision", label: "Decision", width: 160, small: 72, rank: 1, cell: decisionCell, by: (d, i) => `${d.decision[i] === "int4" ? 0 : 1}${d.reason[i]}` },
  { id: "bits_per_weight", label: "Bits", title: "Bits per weight", width: 58, rank: 7, right: true, cell: (d, i) => (d.bits_per_weight[i] ?? NaN).toFixed(2).replace("NaN", "–") },
  { id: "error", label: "Error", width: 126, small: 94, rank: 2, cell: errorCell },
  { id: "status", label: "Status", width: 92, rank: 2.3, cell: statusCell },
];

const NARROW = 620;

/** The columns that have data and fit into `width`, in their order, with the width of each. */
function fittingColumns(data, width) {
  const known = LAYER_COLUMNS.filter((column) => data[column.id] !== undefined && isUsed(data, column.id));
  const room = (column) => (width < NARROW && column.small) || column.width;
  const chosen = new Set();
  let left = width;
  for (const column of [...known].sort((a, b) => a.rank - b.rank)) {
    if (column.rank > 0 && left < room(column)) break;
    chosen.add(column);
    left -= room(column);
  }
  return known.filter((column) => chosen.has(column)).map((column) => ({ ...column, width: room(column) }));
}

const isUsed = (data, id) => !["error", "status", "kind", "bits_per_weight"].includes(id) || data[id].some((value) => value !== null && value !== "");

/** Row indices in the order of a column; values that are missing come last either way. */
function sortRows(rows, data, [id, direction]) {
  const column = LAYER_COLUMNS.find((candidate) => candidate.id === id);
  if (!column || data[id] === undefined) return rows;
  const key = column.by ?? ((d, i) => d[id][i]);
  const sign = direction === "descending" ? -1 : 1;
  const collator = new Intl.Collator("en", { numeric: true });
  const compare = (a, b) => (typeof a === "string" ? collator.compare(a, b) : a - b);
  const missing = (value) => value === null || value === undefined || value === "";
  return [...rows].sort((i, j) => {
    const [a, b] = [key(data, i), key(data, j)];
    if (missing(a) || missing(b)) return missing(a) - missing(b) || i - j;
    return sign * compare(a, b) || i - j;
  });
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
