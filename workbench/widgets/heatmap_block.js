// A part of a heat map at full size: asked for after a zoom, drawn over the picture, read exactly.

/** Whole rows and columns of a window. */
const wholeWindow = (p, [r0, r1, c0, c1]) => ({
  rows: [Math.max(0, Math.floor(r0)), Math.min(p.total_rows, Math.ceil(r1))],
  cols: [Math.max(0, Math.floor(c0)), Math.min(p.total_cols, Math.ceil(c1))],
});

/** A message of the kernel as a block; null when it is of another picture or an older wish. */
function readBlock(message, buffers, seq, turn) {
  if (message.type !== "block" || message.seq !== seq || message.turn !== turn) return null;
  const [bytes] = buffers;
  const copy = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength); // float32 wants whole words
  const wide = Math.ceil((message.cols[1] - message.cols[0]) / message.col_span);
  return { ...message, values: new Float32Array(copy), wide };
}

/** The cell of a block that holds an original (row, column), or null. */
function blockCell(block, row, col) {
  const [[r0, r1], [c0, c1]] = [block.rows, block.cols];
  if (row < r0 || row >= r1 || col < c0 || col >= c1) return null;
  const top = Math.floor(row / block.row_span) * block.row_span;
  const left = Math.floor(col / block.col_span) * block.col_span;
  const at = ((top - r0) / block.row_span) * block.wide + (left - c0) / block.col_span;
  const stops = { rowStop: Math.min(r1, top + block.row_span), colStop: Math.min(c1, left + block.col_span) };
  return { row: top, col: left, ...stops, value: block.values[at], floor: false, exact: true };
}

/** Paint a block over the picture, in the picture's colours; cells smaller than pixels are merged first. */
function paintBlock(canvas, block, p, colors, [r0, r1, c0, c1]) {
  const high = block.values.length / block.wide;
  block.codes ??= Uint8Array.from(block.values, (value) => Math.round(255 * p.scale.fraction(value)));
  const [scaleX, scaleY] = [canvas.width / (c1 - c0), canvas.height / (r1 - r0)];
  const down = Math.max(1, Math.ceil(1 / (scaleY * block.row_span)));
  const across = Math.max(1, Math.ceil(1 / (scaleX * block.col_span)));
  const part = { codes: block.codes, rows: high, cols: block.wide, scale: p.scale, reduce: p.reduce, low_is_worse: p.low_is_worse };
  const { codes, rows, cols } = poolCodes(part, down, across);
  const image = new ImageData(cols, rows);
  codes.forEach((code, k) => image.data.set([...colors[code].map(Math.round), 255], 4 * k));
  const cells = document.createElement("canvas");
  [cells.width, cells.height] = [cols, rows];
  cells.getContext("2d").putImageData(image, 0, 0);
  const [height, width] = [block.rows[1] - block.rows[0], block.cols[1] - block.cols[0]];
  const shown = [width / (block.col_span * across), height / (block.row_span * down)]; // the last cells may be cut
  const at = [(block.cols[0] - c0) * scaleX, (block.rows[0] - r0) * scaleY];
  canvas.getContext("2d").drawImage(cells, 0, 0, ...shown, ...at, width * scaleX, height * scaleY);
}
