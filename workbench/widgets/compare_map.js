// A, B and their difference: three maps that are zoomed, read and picked as one.

const SIDES = ["a", "b", "difference"];
const COMPARE_KEYS = "Arrow keys move a cursor over all three, Enter opens the group, plus and minus zoom, 0 resets.";

class CompareView {
  constructor(model, el) {
    this.model = model;
    this.root = card(el, "wb-compare");
    this.maps = null;
    this.window = this.at = this.drag = null;
    this.build();
    this.stops = [followTheme(this.root, () => this.paint()), followWidth(this.root, () => this.paint()), () => cancelAnimationFrame(this.frame)];
    model.on("change:_payload", () => this.take());
    model.on("change:height", () => this.paint());
    model.on("change:marked", () => this.mark());
    model.on("change:busy change:message", () => this.describe());
    this.take();
  }

  build() {
    this.title = make("h3", { class: "wb-title" });
    this.reset = make("button", { class: "wb-button", type: "button", text: "Reset view", onclick: () => this.zoomTo(null) });
    this.sub = make("p", { class: "wb-sub" });
    this.figures = SIDES.map((side) => this.figure(side));
    this.board = make("div", { class: "wb-board" }, ...this.figures.map(({ box }) => box));
    this.empty = make("div", { class: "wb-empty" });
    this.line = make("p", { class: "wb-value" });
    this.live = make("div", { class: "wb-hidden", "aria-live": "polite" });
    this.busy = make("div", { class: "wb-busy", hidden: true });
    const head = make("div", { class: "wb-head" }, this.title, make("div", { class: "wb-tools" }, this.reset));
    this.root.append(this.busy, head, this.sub, this.board, this.empty, this.line, this.live);
  }

  figure(side) {
    const canvas = make("canvas", { tabindex: side === "a" ? 0 : -1, role: "img", "data-side": side, width: 1, height: 1 });
    const marks = make("svg:svg", { class: "wb-marks", "aria-hidden": "true" });
    const name = make("figcaption", {});
    const bar = make("canvas", { class: "wb-scale-bar", width: 256, height: 1, "aria-hidden": "true" });
    const ends = make("div", { class: "wb-ends" });
    const unit = make("div", { class: "wb-unit" });
    const box = make("figure", {}, name, make("div", { class: "wb-stage" }, canvas, marks), bar, ends, unit);
    const figure = { side, box, canvas, marks, name, bar, ends, unit };
    this.listen(figure);
    return figure;
  }

  take() {
    const raw = this.model.get("_payload");
    const next = raw?.a ? Object.fromEntries(SIDES.map((side) => [side, readPayload({ ...raw, ...raw[side], row_name: "output feature", low_is_worse: raw.low_is_worse && side !== "difference" })])) : null;
    const old = this.maps?.a;
    const same = old && next && old.title === next.a.title && old.total_rows === next.a.total_rows && old.total_cols === next.a.total_cols;
    if (!same) this.window = this.at = null;
    this.maps = next;
    this.describe();
    this.paint();
  }

  describe() {
    const some = Boolean(this.maps);
    const message = this.model.get("message");
    this.busy.hidden = !this.model.get("busy");
    this.root.setAttribute("aria-busy", String(Boolean(this.model.get("busy"))));
    for (const part of [this.sub, this.board, this.line, this.reset]) part.hidden = !some;
    this.empty.hidden = some;
    this.empty.textContent = message || "Nothing to compare yet.";
    this.title.textContent = "A against B";
    if (!some) return;
    const { a_label: a, b_label: b, title } = this.model.get("_payload");
    this.sub.textContent = `${title} · ${reductionText(this.maps.a)}`;
    const names = { a: ["A", a], b: ["B", b], difference: ["B − A", "blue: lower, orange: higher"] };
    for (const { side, name, canvas, unit } of this.figures) {
      name.replaceChildren(make("b", { text: names[side][0] }), make("span", { text: names[side][1], title: names[side][1] }));
      canvas.setAttribute("aria-label", `${names[side].join(": ")}. ${COMPARE_KEYS}`);
      unit.textContent = this.maps[side].unit + (this.maps[side].log ? " (log scale)" : "");
    }
  }

  extent() {
    const { total_rows: rows, total_cols: cols } = this.maps.a;
    return this.window ?? [0, rows, 0, cols];
  }

  paint() {
    if (!this.maps || this.root.clientWidth === 0) return;
    const dark = this.root.dataset.theme === "dark";
    const paper = paperOf(this.root);
    const ratio = window.devicePixelRatio || 1;
    const height = this.model.get("height");
    this.reset.disabled = !this.window;
    for (const { side, canvas, bar, ends } of this.figures) {
      const p = this.maps[side];
      const { scale } = p;
      const colors = codeColors(scale, "auto", dark, [scale.lo, scale.hi], null, paper, p.low_is_worse);
      canvas.parentNode.style.height = `${height}px`;
      [canvas.width, canvas.height] = [Math.max(1, Math.round(canvas.clientWidth * ratio)), Math.round(height * ratio)];
      paintCells(canvas, p, this.extent(), colors, canvas.width, canvas.height);
      canvas.dataset.seq = p.seq;
      const context = bar.getContext("2d");
      colors.forEach(([r, g, b], code) => {
        context.fillStyle = `rgb(${r},${g},${b})`;
        context.fillRect(code, 0, 1, 1);
      });
      ends.replaceChildren(...[0, 0.5, 1].map((share) => make("span", { text: formatNumber(share === 0.5 && scale.signed ? 0 : scale.at(share)) })));
    }
    this.mark();
  }

  paintSoon() {
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => this.paint());
  }

  mark() {
    if (!this.maps) return;
    const [r0, r1, c0, c1] = this.extent();
    for (const { side, canvas, marks } of this.figures) {
      const [width, height] = [canvas.clientWidth, canvas.clientHeight];
      const rect = (at, name) => {
        const cell = at && cellAt(this.maps[side], ...at);
        if (!cell) return null;
        const x = ((cell.col - c0) / (c1 - c0)) * width;
        const y = ((cell.row - r0) / (r1 - r0)) * height;
        const [w, h] = [((cell.colStop - cell.col) / (c1 - c0)) * width, ((cell.rowStop - cell.row) / (r1 - r0)) * height];
        const [growX, growY] = [Math.max(0, 8 - w) / 2, Math.max(0, 8 - h) / 2];
        if (x + w < 0 || x > width || y + h < 0 || y > height) return null;
        return make("svg:rect", { class: `wb-mark wb-mark-${name}`, x: x - growX, y: y - growY, width: w + 2 * growX, height: h + 2 * growY });
      };
      marks.replaceChildren(...[rect(this.model.get("marked"), "selected"), rect(this.at, "hover"), side === this.drag?.side ? this.dragged() : null].filter(Boolean));
    }
    this.sayValue();
  }

  dragged() {
    const { x, y, toX, toY, moved } = this.drag;
    return moved ? make("svg:rect", { class: "wb-mark wb-mark-zoom", x: Math.min(x, toX), y: Math.min(y, toY), width: Math.abs(toX - x), height: Math.abs(toY - y) }) : null;
  }

  sayValue() {
    const at = this.at ?? this.model.get("marked");
    if (!at) {
      this.line.replaceChildren(make("span", { text: "Point at a cell to read it in all three, click to open its group, drag to zoom, double-click to reset." }));
      return;
    }
    const cells = SIDES.map((side) => cellAt(this.maps[side], ...at));
    const values = SIDES.map((side, i) => make("b", { text: `${{ a: "A", b: "B", difference: "B − A" }[side]} ${formatNumber(cells[i].value)}` }));
    this.line.replaceChildren(...values, make("span", { text: `${rowText(this.maps.a, cells[0])} · ${colText(this.maps.a, cells[0])}` }));
  }

  // --- what the user does -----------------------------------------------------------------------------------------

  listen(figure) {
    const { canvas } = figure;
    const on = (type, handler, options) => canvas.addEventListener(type, (event) => this.maps && handler(event), options);
    on("pointermove", (event) => this.onMove(event, canvas));
    on("pointerdown", (event) => this.onDown(event, figure));
    on("pointerup", (event) => this.onUp(event, canvas));
    on("pointercancel", () => this.endDrag());
    on("pointerleave", () => this.point(null));
    on("dblclick", () => this.zoomTo(null));
    on("wheel", (event) => this.onWheel(event, canvas), { passive: false });
    on("keydown", (event) => this.onKey(event));
  }

  place(event, canvas) {
    const rect = canvas.getBoundingClientRect();
    const x = clamp(event.clientX - rect.left, 0, rect.width - 0.01);
    const y = clamp(event.clientY - rect.top, 0, rect.height - 0.01);
    const [r0, r1, c0, c1] = this.extent();
    return { x, y, row: Math.floor(r0 + (y / rect.height) * (r1 - r0)), col: Math.floor(c0 + (x / rect.width) * (c1 - c0)), rect };
  }

  point(at) {
    this.at = at;
    this.mark();
  }

  onMove(event, canvas) {
    const { x, y, row, col } = this.place(event, canvas);
    if (this.drag) {
      this.drag.moved ||= Math.hypot(x - this.drag.x, y - this.drag.y) > 5;
      [this.drag.toX, this.drag.toY] = [x, y];
    }
    const cell = cellAt(this.maps.a, row, col);
    this.point([cell.row, cell.col]);
  }

  onDown(event, { canvas, side }) {
    if (event.button !== 0) return;
    canvas.focus({ preventScroll: true });
    canvas.setPointerCapture(event.pointerId);
    const { x, y } = this.place(event, canvas);
    this.drag = { x, y, toX: x, toY: y, moved: false, side };
  }

  onUp(event, canvas) {
    const { drag } = this;
    this.endDrag();
    if (!drag) return;
    const { row, col, rect } = this.place(event, canvas);
    if (!drag.moved) return this.pick(row, col);
    const [r0, r1, c0, c1] = this.extent();
    const along = (from, to, length, low, high) => (Math.abs(to - from) < 8 ? [low, high] : [Math.min(from, to), Math.max(from, to)].map((at) => low + (at / length) * (high - low)));
    this.zoomTo([...along(drag.y, drag.toY, rect.height, r0, r1), ...along(drag.x, drag.toX, rect.width, c0, c1)]);
  }

  endDrag() {
    this.drag = null;
    this.mark();
  }

  onWheel(event, canvas) {
    if (!(event.ctrlKey || event.metaKey || canvas.getRootNode().activeElement === canvas)) return;
    event.preventDefault();
    const { x, y, rect } = this.place(event, canvas);
    this.zoomBy(Math.exp(clamp(event.deltaY, -120, 120) * 0.0025), x / rect.width, y / rect.height);
  }

  zoomTo(window) {
    this.window = window && fittedWindow(this.maps.a, window);
    this.paintSoon();
  }

  zoomBy(factor, fractionX = 0.5, fractionY = 0.5) {
    const [r0, r1, c0, c1] = this.extent();
    const [row, col] = [r0 + (r1 - r0) * fractionY, c0 + (c1 - c0) * fractionX];
    this.zoomTo([row + (r0 - row) * factor, row + (r1 - row) * factor, col + (c0 - col) * factor, col + (c1 - col) * factor]);
  }

  onKey(event) {
    const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    const p = this.maps.a;
    if (moves[event.key]) {
      const step = event.shiftKey ? 10 : 1;
      const [row, col] = this.at ?? this.model.get("marked") ?? [0, 0];
      const i = clamp(Math.floor(row / p.row_span) + step * moves[event.key][0], 0, p.rows - 1);
      const j = clamp(Math.floor(col / p.col_span) + step * moves[event.key][1], 0, p.cols - 1);
      this.point([i * p.row_span, j * p.col_span]);
      this.live.textContent = [...this.line.children].map((node) => node.textContent).join(", ");
    } else if ((event.key === "Enter" || event.key === " ") && this.at) this.pick(...this.at);
    else if (event.key === "+" || event.key === "=") this.zoomBy(0.7);
    else if (event.key === "-") this.zoomBy(1 / 0.7);
    else if (event.key === "0" || event.key === "Escape") this.zoomTo(null);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  pick(row, col) {
    this.model.send({ type: "pick", row, col, seq: this.maps.a.seq });
  }

  stop() {
    this.stops.forEach((stop) => stop());
    this.root.remove();
  }
}

export default {
  render({ model, el }) {
    const view = new CompareView(model, el);
    return () => view.stop();
  },
};
