// Cells of a heat map's payload: what they stand for, in original rows and columns, and in words.

const AXIS = { left: 58, legend: 148, bottom: 40, gaps: 4 };

/** The payload with its codes as bytes and its scale; null when the trait holds none. */
function readPayload(raw) {
  if (!raw || !raw.values) return null;
  const bytes = raw.values;
  return { ...raw, codes: new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength), scale: makeScale(raw) };
}

/** The cell that holds an original (row, column): its indices, its range and its value. */
function cellAt(p, row, col) {
  const i = clamp(Math.floor(row / p.row_span), 0, p.rows - 1);
  const j = clamp(Math.floor(col / p.col_span), 0, p.cols - 1);
  const code = p.codes[i * p.cols + j];
  return {
    row: i * p.row_span,
    rowStop: Math.min(p.total_rows, (i + 1) * p.row_span),
    col: j * p.col_span,
    colStop: Math.min(p.total_cols, (j + 1) * p.col_span),
    value: p.scale.signed && Math.abs(code - 127.5) < 1 ? 0 : p.scale.value(code), // no code stands for 0 itself
    floor: p.log && code === 0,
  };
}

const range = (name, from, stop) => (stop - from === 1 ? `${name} ${from}` : `${name}s ${from}–${stop - 1}`);

/** Rows in words; of a stack of experts, each by its expert and its place there. */
function rowsText(p, from, stop) {
  const n = p.stack_rows;
  if (!n) return range(p.row_name, from, stop);
  const [first, last] = [from, stop - 1].map((row) => Math.floor(row / n));
  if (first === last) return `expert ${first}, ${range(p.row_name, from - first * n, stop - first * n)}`;
  return `expert ${first}, ${p.row_name} ${from - first * n} to expert ${last}, ${p.row_name} ${stop - 1 - last * n}`;
}

function rowText(p, cell) {
  return rowsText(p, cell.row, p.reduce === "sample" ? cell.row + 1 : cell.rowStop);
}

/** Ticks of the row axis as [row, text], with the axis' name: experts where more than one is in view. */
function rowTicks(p, r0, r1, most) {
  const whole = (from, to) => linearTicks(from, Math.max(from + 1, to - 1), most).filter((t) => Number.isInteger(t) && t < to);
  const n = p.stack_rows;
  if (!n) return [whole(r0, r1).map((row) => [row, String(row)]), p.row_name];
  const [first, last] = [r0, r1 - 1e-6].map((row) => Math.floor(row / n));
  if (first === last) return [whole(r0 - first * n, r1 - first * n).map((row) => [row + first * n, String(row)]), `expert ${first}: ${p.row_name}`];
  const starts = linearTicks(Math.ceil(r0 / n), Math.max(last, Math.ceil(r0 / n) + 1), most).filter((e) => Number.isInteger(e) && e <= last);
  return [starts.map((e) => [e * n, String(e)]), "expert"];
}

function colText(p, cell) {
  const text = range(p.col_name, cell.col, cell.colStop);
  if (!p.group_size) return text;
  const stop = p.total_in ? Math.min(p.total_in, cell.colStop * p.group_size) : cell.colStop * p.group_size;
  return `${text} · in_features ${cell.col * p.group_size}–${stop - 1}`;
}

function valueText(p, cell) {
  return `${cell.floor ? "≤ " : ""}${formatNumber(cell.value, cell.exact ? 6 : 3)}${p.unit ? ` ${p.unit}` : ""}`;
}

/** One line on what the picture shows and how it was reduced. */
function reductionText(p) {
  const rows = p.stack_rows ? `${plural(p.total_rows / p.stack_rows, "expert")} of ${plural(p.stack_rows, p.row_name)}` : plural(p.total_rows, p.row_name);
  const size = `${rows} × ${plural(p.total_cols, p.col_name)}`;
  if (p.row_span === 1 && p.col_span === 1) return `${size}, one cell each`;
  if (p.reduce === "sample") {
    const across = p.col_span > 1 ? ` and the maximum of ${p.col_span} ${p.col_name}s` : "";
    return `${size}, each cell = one of ${p.row_span} ${p.row_name}s${across}`;
  }
  return `${size}, each cell = ${p.reduce} of ${plural(p.row_span, "row")} × ${plural(p.col_span, p.col_name)}`;
}

/** The codes merged by whole factors, so that no cell is lost where cells are smaller than pixels. */
function poolCodes(p, down, across) {
  if (down === 1 && across === 1) return { codes: p.codes, rows: p.rows, cols: p.cols };
  const [rows, cols] = [Math.ceil(p.rows / down), Math.ceil(p.cols / across)];
  const codes = new Uint8Array(rows * cols);
  const farthest = p.reduce === "mean" ? null : p.scale.signed ? Math.abs : p.low_is_worse ? (x) => -x : (x) => x;
  const zero = p.scale.signed ? 255 * p.scale.fraction(0) : 0;
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < cols; j++) {
      let [sum, count, best] = [0, 0, p.codes[i * down * p.cols + j * across]];
      for (let r = i * down; r < Math.min(p.rows, (i + 1) * down); r++) {
        for (let c = j * across; c < Math.min(p.cols, (j + 1) * across); c++) {
          const code = p.codes[r * p.cols + c];
          sum += code;
          count += 1;
          if (farthest && farthest(code - zero) > farthest(best - zero)) best = code;
        }
      }
      codes[i * cols + j] = farthest ? best : Math.round(sum / count);
    }
  }
  return { codes, rows, cols };
}

/** Paint the cells of a window of original rows and columns; those smaller than pixels are merged first. */
function paintCells(canvas, p, [r0, r1, c0, c1], colors, pixelsX, pixelsY) {
  const down = Math.max(1, Math.ceil((r1 - r0) / p.row_span / pixelsY));
  const across = Math.max(1, Math.ceil((c1 - c0) / p.col_span / pixelsX));
  const key = `${down},${across}`;
  p.pools ??= new Map();
  if (!p.pools.has(key)) p.pools.set(key, poolCodes(p, down, across));
  const { codes, rows, cols } = p.pools.get(key);
  const words = Uint32Array.from(colors, ([r, g, b]) => (255 << 24) | (Math.round(b) << 16) | (Math.round(g) << 8) | Math.round(r));
  const image = new ImageData(cols, rows);
  const pixels = new Uint32Array(image.data.buffer);
  for (let k = 0; k < codes.length; k++) pixels[k] = words[codes[k]];
  const cells = document.createElement("canvas");
  [cells.width, cells.height] = [cols, rows];
  cells.getContext("2d").putImageData(image, 0, 0);
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.clearRect(0, 0, pixelsX, pixelsY);
  const [unitY, unitX] = [p.row_span * down, p.col_span * across];
  const [top, left] = [r0 / unitY, c0 / unitX];
  context.drawImage(cells, left, top, c1 / unitX - left, r1 / unitY - top, 0, 0, pixelsX, pixelsY);
}

/** The background of a component, as [r, g, b]. */
function paperOf(root) {
  return (getComputedStyle(root).backgroundColor.match(/[\d.]+/g) ?? [255, 255, 255]).slice(0, 3).map(Number);
}

/** A window kept inside the matrix and at least two cells wide; null for everything. */
function fittedWindow(p, [r0, r1, c0, c1]) {
  const fit = (from, to, span, total) => {
    const length = Math.min(total, Math.max(to - from, Math.min(total, 2 * span)));
    const start = clamp((from + to - length) / 2, 0, total - length);
    return [start, start + length];
  };
  const rows = fit(r0, r1, p.row_span, p.total_rows);
  const cols = fit(c0, c1, p.col_span, p.total_cols);
  const everything = rows[1] - rows[0] >= p.total_rows && cols[1] - cols[0] >= p.total_cols;
  return everything ? null : [...rows, ...cols];
}

/** The cells that stand out, foremost first: the largest (absolute) values, or the least where low is worse. */
function largestCells(p, count) {
  const zero = p.scale.signed ? 255 * p.scale.fraction(0) : 0;
  const size = (k) => (p.low_is_worse ? 255 - p.codes[k] : Math.abs(p.codes[k] - zero));
  const best = [];
  for (let k = 0; k < p.codes.length; k++) {
    if (best.length === count && size(k) <= size(best[count - 1])) continue;
    let at = best.length;
    while (at > 0 && size(best[at - 1]) < size(k)) at -= 1;
    best.splice(at, 0, k);
    best.length = Math.min(count, best.length);
  }
  return best.map((k) => cellAt(p, Math.floor(k / p.cols) * p.row_span, (k % p.cols) * p.col_span));
}
