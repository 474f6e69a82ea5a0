// Heat map on a canvas: colours, limits, threshold, zoom and hover never ask the kernel.

const LEAST_HEIGHT = 220; // pixels of the picture on a low window
const AROUND = 600; // pixels of what is seen with it: the page, the settings, its axes

class HeatView {
  constructor(model, el) {
    this.model = model;
    this.root = card(el, "wb-heat");
    this.payload = null;
    this.limits = null; // null: those of the payload
    this.threshold = null;
    this.window = null; // [row0, row1, col0, col1] in original rows and columns; null: everything
    this.hover = this.cursor = this.drag = null;
    this.block = null; // the part in view at full size
    this.turn = 0;
    this.build();
    this.stops = [
      followTheme(this.root, () => this.paint()),
      followWidth(this.root, () => this.paint()),
      () => cancelAnimationFrame(this.frame),
      () => clearTimeout(this.asking),
    ];
    model.on("change:_payload", () => this.take());
    model.on("change:colormap", () => this.paint());
    model.on("change:height", () => this.paint());
    model.on("change:selected", () => this.mark());
    model.on("msg:custom", (message, buffers) => this.takeBlock(message, buffers));
    model.on("change:busy change:message", () => this.describe());
    this.take();
  }

  build() {
    const option = ([value, text]) => make("option", { value, text });
    this.title = make("h3", { class: "wb-title" });
    this.badge = make("span", { class: "wb-badge" });
    this.colors = make(
      "select",
      { class: "wb-select", "aria-label": "Colour map", onchange: () => this.pickColors() },
      ...Object.entries(COLOR_NAMES).map(option),
    );
    this.reset = make("button", { class: "wb-button", type: "button", text: "Reset view", onclick: () => this.resetAll() });
    this.sub = make("p", { class: "wb-sub" });
    this.canvas = make("canvas", { tabindex: 0, role: "img", "data-seq": "", width: 1, height: 1 });
    this.marks = make("svg:svg", { class: "wb-marks", "aria-hidden": "true" });
    this.axes = make("svg:svg", { class: "wb-axes", "aria-hidden": "true" });
    this.empty = make("div", { class: "wb-empty" });
    this.stage = make("div", { class: "wb-stage" }, this.canvas, this.axes, this.marks, this.empty);
    this.legend = makeLegend((name, value) => this.drive(name, value));
    this.plot = make("div", { class: "wb-plot" }, make("div"), this.stage, this.legend.svg);
    this.tip = make("div", { class: "wb-tip", hidden: true });
    this.plot.append(this.tip);
    this.value = make("b");
    this.where = make("span");
    this.line = make("p", { class: "wb-value" }, this.value, this.where);
    this.live = make("div", { class: "wb-hidden", "aria-live": "polite" });
    this.table = make("table");
    this.details = make("details", { ontoggle: () => this.listLargest() }, (this.summary = make("summary")), this.table);
    this.busy = make("div", { class: "wb-busy", hidden: true });
    const tools = make("div", { class: "wb-tools" }, make("label", { class: "wb-label" }, "Colours", this.colors), this.reset);
    this.foot = make("div", { class: "wb-foot" }, this.details, tools);
    const head = make("div", { class: "wb-head" }, this.title, this.badge);
    this.root.append(this.busy, head, this.sub, this.plot, this.line, this.foot, this.live);
    this.listen();
  }

  // --- payloads ---------------------------------------------------------------------------------------------------

  take() {
    const next = readPayload(this.model.get("_payload"));
    if (next && this.payload && next.seq < this.payload.seq) return; // stale: something newer is on the screen
    const old = this.payload;
    const sameLayer = old && next && old.total_rows === next.total_rows && old.title === next.title;
    if (!sameLayer || old.total_cols !== next.total_cols) this.window = this.cursor = this.hover = null;
    if (!this.hover) this.tip.hidden = true; // it told of a cell that is gone
    if (!sameLayer || old.unit !== next.unit || old.log !== next.log) this.limits = this.threshold = null;
    this.payload = next;
    this.block = null;
    this.ask();
    this.paint();
    this.describe();
    this.listLargest();
  }

  describe() {
    const p = this.payload;
    const message = this.model.get("message");
    this.title.textContent = p ? p.title : "Heat map";
    this.title.title = this.title.textContent;
    this.badge.hidden = !p || !p.badge;
    this.badge.textContent = p?.badge ?? "";
    this.badge.dataset.kind = p?.badge?.startsWith("exact") ? "good" : "warn";
    this.sub.textContent = p ? reductionText(p) : "";
    this.summary.textContent = p?.low_is_worse ? "Lowest cells" : "Largest cells";
    for (const part of [this.sub, this.line, this.foot]) part.hidden = !p;
    this.empty.textContent = message || (p ? "" : "Nothing to show yet.");
    this.empty.hidden = Boolean(p) && !message;
    this.canvas.style.opacity = message ? "0.15" : "";
    for (const part of [this.canvas, this.axes, this.marks, this.legend.svg]) part.style.visibility = p ? "" : "hidden";
    this.busy.hidden = !this.model.get("busy");
    this.root.setAttribute("aria-busy", String(Boolean(this.model.get("busy"))));
    const keys = "Arrow keys move a cell cursor, Enter selects, plus and minus zoom, 0 resets.";
    this.canvas.setAttribute("aria-label", p ? `Heat map of ${p.title}: ${reductionText(p)}. ${keys}` : "Empty heat map");
  }

  // --- painting ---------------------------------------------------------------------------------------------------

  size() {
    const width = Math.max(120, this.plot.clientWidth - AXIS.left - AXIS.legend - AXIS.gaps);
    const most = Math.max(LEAST_HEIGHT, innerHeight - AROUND); // the settings above it are seen with it
    return [width, Math.min(this.model.get("height"), most)];
  }

  extent() {
    const p = this.payload;
    return this.window ?? [0, p.total_rows, 0, p.total_cols];
  }

  paint() {
    const p = this.payload;
    const [width, height] = this.size();
    this.stage.style.height = `${height}px`;
    this.stage.style.marginBottom = `${AXIS.bottom}px`;
    this.plot.classList.toggle("wb-bare", !p);
    this.colors.value = this.model.get("colormap");
    this.legend.svg.toggleAttribute("hidden", !p);
    this.reset.disabled = !(this.window || this.limits || this.threshold !== null);
    if (!p || this.root.clientWidth === 0) return;
    const start = performance.now();
    const ratio = window.devicePixelRatio || 1;
    const [pixelsX, pixelsY] = [Math.round(width * ratio), Math.round(height * ratio)];
    if (this.canvas.width !== pixelsX) this.canvas.width = pixelsX;
    if (this.canvas.height !== pixelsY) this.canvas.height = pixelsY;
    const colors = this.currentColors();
    paintCells(this.canvas, p, this.extent(), colors, pixelsX, pixelsY);
    if (this.block) paintBlock(this.canvas, this.block, p, colors, this.extent());
    this.sub.textContent = `${reductionText(p)}${this.block?.row_span === 1 && this.block.col_span === 1 ? " · in view: every cell, exact values" : ""}`;
    this.canvas.dataset.block = this.block ? [...this.block.rows, ...this.block.cols].join(",") : "";
    this.canvas.dataset.seq = p.seq;
    this.canvas.dataset.paintMs = (performance.now() - start).toFixed(2);
    this.canvas.dataset.pan = String(this.window !== null);
    this.drawLegend(colors, height);
    this.drawAxes(width, height);
    this.mark();
  }

  /** Ask for what is in view at full size, once the window rests. */
  ask() {
    clearTimeout(this.asking);
    const p = this.payload;
    if (!p || !this.window || p.row_span * p.col_span === 1 || !p.badge.startsWith("exact")) return;
    this.asking = setTimeout(() => {
      if (this.window) this.model.send({ type: "zoom", ...wholeWindow(p, this.window), seq: p.seq, turn: ++this.turn });
    }, 120);
  }

  takeBlock(message, buffers) {
    const block = this.payload && readBlock(message, buffers, this.payload.seq, this.turn);
    if (!block) return;
    this.block = block;
    this.paintSoon();
  }

  /** The cell at an original (row, column): of the block at full size where there is one. */
  cell(row, col) {
    return (this.block && this.window && blockCell(this.block, row, col)) || cellAt(this.payload, row, col);
  }

  currentColors() {
    const paper = paperOf(this.root);
    const { scale } = this.payload;
    const limits = this.limits ?? [scale.lo, scale.hi];
    const dark = this.root.dataset.theme === "dark";
    return codeColors(scale, this.model.get("colormap"), dark, limits, this.threshold, paper, this.payload.low_is_worse);
  }

  drawLegend(colors, height) {
    const { scale, codes, unit } = this.payload;
    const limits = this.limits ?? [scale.lo, scale.hi];
    this.legend.draw({ scale, codes, unit, colors, limits, threshold: this.threshold, height });
  }

  drawAxes(width, height) {
    const p = this.payload;
    const [r0, r1, c0, c1] = this.extent();
    const parts = [make("svg:rect", { class: "wb-frame", x: -0.5, y: -0.5, width: width + 1, height: height + 1 })];
    const whole = (from, to, most) => linearTicks(from, Math.max(from + 1, to - 1), most).filter((t) => Number.isInteger(t) && t < to);
    const [rows, rowName] = rowTicks(p, r0, r1, Math.max(2, height / 46));
    for (const [row, text] of rows) {
      const y = ((row + 0.5 - r0) / (r1 - r0)) * height;
      parts.push(make("svg:line", { class: "wb-tick", x1: -5, x2: -1, y1: y, y2: y }));
      parts.push(make("svg:text", { x: -8, y, dy: "0.35em", "text-anchor": "end", text }));
    }
    for (const col of whole(c0, c1, Math.max(2, width / 48))) {
      const x = ((col + 0.5 - c0) / (c1 - c0)) * width;
      parts.push(make("svg:line", { class: "wb-tick", x1: x, x2: x, y1: height + 1, y2: height + 5 }));
      parts.push(make("svg:text", { x, y: height + 17, "text-anchor": "middle", text: String(col) }));
    }
    const across = p.group_size ? `${p.col_name} of ${p.group_size} along in_features` : p.col_name;
    const turned = `translate(${-46},${height / 2}) rotate(-90)`;
    parts.push(make("svg:text", { class: "wb-axis-name", transform: turned, "text-anchor": "middle", text: rowName }));
    parts.push(make("svg:text", { class: "wb-axis-name", x: width / 2, y: height + 35, "text-anchor": "middle", text: across }));
    this.axes.replaceChildren(...parts);
  }

  // --- marks, value line, table -----------------------------------------------------------------------------------

  box(row, col) {
    const [width, height] = this.size();
    const [r0, r1, c0, c1] = this.extent();
    const cell = this.cell(row, col);
    const y = ((cell.row - r0) / (r1 - r0)) * height;
    const x = ((cell.col - c0) / (c1 - c0)) * width;
    const h = ((cell.rowStop - cell.row) / (r1 - r0)) * height;
    const w = ((cell.colStop - cell.col) / (c1 - c0)) * width;
    const [growY, growX] = [Math.max(0, 8 - h) / 2, Math.max(0, 8 - w) / 2]; // a cell of one pixel needs a visible mark
    return { x: x - growX, y: y - growY, width: w + 2 * growX, height: h + 2 * growY };
  }

  mark() {
    if (!this.payload || this.root.clientWidth === 0) return this.marks.replaceChildren();
    const [width, height] = this.size();
    const parts = [];
    const add = (name, at) => {
      if (!at) return;
      const box = this.box(...at);
      const inside = box.x + box.width > 0 && box.x < width && box.y + box.height > 0 && box.y < height;
      if (inside) parts.push(make("svg:rect", { class: `wb-mark wb-mark-${name}`, ...box }));
    };
    add("selected", this.model.get("selected"));
    add("cursor", this.canvas.matches(":focus-visible") ? this.cursor : null);
    add("hover", this.drag?.moved ? null : this.hover);
    if (this.drag?.moved && !this.drag.pan) {
      const [x0, x1] = [this.drag.x, this.drag.toX].sort((a, b) => a - b);
      const [y0, y1] = [this.drag.y, this.drag.toY].sort((a, b) => a - b);
      parts.push(make("svg:rect", { class: "wb-mark wb-mark-zoom", x: x0, y: y0, width: x1 - x0, height: y1 - y0 }));
    }
    this.marks.replaceChildren(...parts);
    this.sayValue();
  }

  sayValue() {
    const p = this.payload;
    const at = this.hover ?? this.cursor ?? this.model.get("selected");
    if (!at) {
      this.value.textContent = "";
      this.where.textContent = "Point at a cell to read it, click to select it, drag to zoom, double-click to reset.";
      return;
    }
    const cell = this.cell(...at);
    this.value.textContent = valueText(p, cell);
    this.where.textContent = `${rowText(p, cell)} · ${colText(p, cell)}`;
  }

  listLargest() {
    const p = this.payload;
    if (!p || !this.details.open) return;
    const head = ["Value", "Rows", p.col_name].map((text) => make("th", { scope: "col", text }));
    const rows = largestCells(p, 8).map((cell) => {
      const pick = () => this.select([cell.row, cell.col]);
      return make(
        "tr",
        {},
        make("td", {}, make("button", { type: "button", title: "Select this cell", text: valueText(p, cell), onclick: pick })),
        make("td", { text: rowText(p, cell) }),
        make("td", { text: `${cell.col}${cell.colStop - cell.col > 1 ? `–${cell.colStop - 1}` : ""}` }),
      );
    });
    this.table.replaceChildren(make("tr", {}, ...head), ...rows);
  }

  // --- what the user does -----------------------------------------------------------------------------------------

  pickColors() {
    this.model.set("colormap", this.colors.value);
    this.model.save_changes();
    this.paint();
  }

  drive(name, value) {
    const { scale } = this.payload;
    if (name === "threshold") this.threshold = value === null || value <= (scale.signed ? 0 : scale.lo) ? null : value;
    else if (value === null) this.limits = null;
    else {
      const [low, high] = this.limits ?? [scale.lo, scale.hi];
      if (scale.signed) this.limits = [-Math.abs(value), Math.abs(value)];
      else this.limits = name === "low" ? [Math.min(value, high), high] : [low, Math.max(value, low)];
      if (this.limits[0] === scale.lo && this.limits[1] === scale.hi) this.limits = null;
    }
    this.paintSoon();
  }

  paintSoon() {
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => this.paint());
  }

  resetAll() {
    this.window = this.limits = this.threshold = this.block = null;
    this.paint();
  }

  select(at) {
    const cell = this.cell(...at);
    this.cursor = [cell.row, cell.col];
    this.model.set("selected", [cell.row, cell.col]);
    this.model.save_changes();
    this.mark();
  }

  /** Zoom to a window of original rows and columns. */
  zoomTo(window) {
    this.window = fittedWindow(this.payload, window);
    this.ask();
    this.paintSoon();
  }

  zoomBy(factor, fractionX = 0.5, fractionY = 0.5) {
    const [r0, r1, c0, c1] = this.extent();
    const [row, col] = [r0 + (r1 - r0) * fractionY, c0 + (c1 - c0) * fractionX];
    this.zoomTo([row + (r0 - row) * factor, row + (r1 - row) * factor, col + (c0 - col) * factor, col + (c1 - col) * factor]);
  }

  place(event) {
    const rect = this.canvas.getBoundingClientRect();
    const x = clamp(event.clientX - rect.left, 0, rect.width - 0.01);
    const y = clamp(event.clientY - rect.top, 0, rect.height - 0.01);
    const [r0, r1, c0, c1] = this.extent();
    return { x, y, row: Math.floor(r0 + (y / rect.height) * (r1 - r0)), col: Math.floor(c0 + (x / rect.width) * (c1 - c0)), rect };
  }

  listen() {
    const on = (type, handler, options) => {
      this.canvas.addEventListener(type, (event) => this.payload && handler.call(this, event), options);
    };
    on("pointermove", this.onMove);
    on("pointerdown", this.onDown);
    on("pointerup", this.onUp);
    on("pointercancel", () => this.endDrag());
    on("pointerleave", this.onLeave);
    on("dblclick", () => this.zoomTo([0, this.payload.total_rows, 0, this.payload.total_cols]));
    on("wheel", this.onWheel, { passive: false });
    on("keydown", this.onKey);
    on("focus", this.mark);
    on("blur", this.mark);
  }

  onMove(event) {
    const { x, y, row, col, rect } = this.place(event);
    const cell = this.cell(row, col);
    this.hover = [cell.row, cell.col];
    if (this.drag) {
      this.drag.moved ||= Math.hypot(x - this.drag.x, y - this.drag.y) > 5;
      [this.drag.toX, this.drag.toY] = [x, y];
      if (this.drag.pan) {
        const [r0, r1, c0, c1] = this.drag.from;
        const [dr, dc] = [((y - this.drag.y) / rect.height) * (r1 - r0), ((x - this.drag.x) / rect.width) * (c1 - c0)];
        this.zoomTo([r0 - dr, r1 - dr, c0 - dc, c1 - dc]);
      }
    }
    this.mark();
    const p = this.payload;
    this.tip.replaceChildren(
      make("b", { text: valueText(p, cell) }),
      make("div", { text: rowText(p, cell) }),
      make("div", { text: colText(p, cell) }),
    );
    if (this.drag?.moved) this.tip.hidden = true;
    else placeTip(this.tip, this.plot, x + AXIS.left + 2, y);
  }

  onDown(event) {
    if (event.button > 1) return;
    this.canvas.focus({ preventScroll: true });
    this.canvas.setPointerCapture(event.pointerId);
    const { x, y } = this.place(event);
    const pan = this.window !== null && (event.shiftKey || event.button === 1);
    this.drag = { x, y, toX: x, toY: y, moved: false, pan, from: this.extent() };
  }

  onUp(event) {
    const { drag } = this;
    this.endDrag();
    if (!drag) return;
    const { row, col, rect } = this.place(event);
    if (!drag.moved) return this.select([row, col]);
    if (drag.pan) return;
    const [r0, r1, c0, c1] = drag.from;
    const along = (from, to, length, low, high) => [Math.min(from, to), Math.max(from, to)].map((at) => low + (at / length) * (high - low));
    const rows = along(drag.y, drag.toY, rect.height, r0, r1);
    const cols = along(drag.x, drag.toX, rect.width, c0, c1);
    // A flat drag zooms one axis only.
    this.zoomTo([...(Math.abs(drag.toY - drag.y) < 8 ? [r0, r1] : rows), ...(Math.abs(drag.toX - drag.x) < 8 ? [c0, c1] : cols)]);
  }

  endDrag() {
    this.drag = null;
    this.mark();
  }

  onLeave() {
    this.hover = null;
    this.tip.hidden = true;
    this.mark();
  }

  onWheel(event) {
    // The page keeps scrolling until the map has been clicked (or Ctrl is held).
    const active = event.ctrlKey || event.metaKey || this.canvas.getRootNode().activeElement === this.canvas;
    if (!active) return;
    event.preventDefault();
    const { x, y, rect } = this.place(event);
    this.tip.hidden = true;
    this.zoomBy(Math.exp(clamp(event.deltaY, -120, 120) * 0.0025), x / rect.width, y / rect.height);
  }

  onKey(event) {
    const p = this.payload;
    const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    const move = moves[event.key];
    if (move) this.moveCursor(move[0] * (event.shiftKey ? 10 : 1), move[1] * (event.shiftKey ? 10 : 1));
    else if (event.key === "Home") this.moveCursor(0, -p.cols);
    else if (event.key === "End") this.moveCursor(0, p.cols);
    else if ((event.key === "Enter" || event.key === " ") && this.cursor) this.select(this.cursor);
    else if (event.key === "+" || event.key === "=") this.zoomBy(0.7);
    else if (event.key === "-") this.zoomBy(1 / 0.7);
    else if (event.key === "0" || event.key === "Escape") this.resetAll();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  moveCursor(down, across) {
    const p = this.payload;
    const [row, col] = this.cursor ?? this.model.get("selected") ?? [0, 0];
    const first = this.cursor === null && !this.model.get("selected");
    const { row_span: rowSpan, col_span: colSpan } = (this.window && this.block) || p;
    const i = clamp(Math.floor(row / rowSpan) + (first ? 0 : down), 0, Math.ceil(p.total_rows / rowSpan) - 1);
    const j = clamp(Math.floor(col / colSpan) + (first ? 0 : across), 0, Math.ceil(p.total_cols / colSpan) - 1);
    this.hover = null;
    this.cursor = [i * rowSpan, j * colSpan];
    this.keepVisible();
    this.mark();
    const cell = this.cell(...this.cursor);
    this.live.textContent = `${valueText(p, cell)}, ${rowText(p, cell)}, ${colText(p, cell)}`;
  }

  keepVisible() {
    if (!this.window) return;
    const p = this.payload;
    const [r0, r1, c0, c1] = this.window;
    const shift = (at, span, from, to) => (at < from ? at - from : at + span > to ? at + span - to : 0);
    const dr = shift(this.cursor[0], p.row_span, r0, r1);
    const dc = shift(this.cursor[1], p.col_span, c0, c1);
    if (dr || dc) this.zoomTo([r0 + dr, r1 + dr, c0 + dc, c1 + dc]);
  }

  stop() {
    this.stops.forEach((stop) => stop());
    this.root.remove();
  }
}

export default {
  render({ model, el }) {
    const view = new HeatView(model, el);
    return () => view.stop();
  },
};
