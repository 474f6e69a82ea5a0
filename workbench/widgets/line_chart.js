// Line chart: legend, read-out at the nearest x, reference line; new points appear as they come.

const GREY = new Set(["estimated", "bound"]);

class ChartView {
  constructor(model, el) {
    this.model = model;
    this.root = card(el, "wb-chart");
    this.hidden = new Set();
    this.known = null;
    this.build();
    const draw = whenReleased(this.root, () => this.draw());
    this.stops = [followTheme(this.root, () => {}), followWidth(this.root, () => this.draw()), draw.stop];
    model.on("change:_chart change:height", draw);
    model.on("change:busy", () => this.mark());
    this.draw();
    this.mark();
  }

  build() {
    this.title = make("h3", { class: "wb-title" });
    this.legend = make("div", { class: "wb-tools wb-legend-row", role: "group", "aria-label": "Series" });
    this.sub = make("p", { class: "wb-sub" });
    this.svg = make("svg:svg", { class: "wb-lines", tabindex: 0, role: "img" });
    this.tip = make("div", { class: "wb-tip", hidden: true });
    this.empty = make("div", { class: "wb-empty" });
    this.plot = make("div", { class: "wb-stage" }, this.svg, this.tip, this.empty);
    this.table = make("table");
    this.details = make("details", { ontoggle: () => this.listNumbers() }, make("summary", { text: "Numbers" }), this.table);
    this.live = make("div", { class: "wb-hidden", "aria-live": "polite" });
    this.busy = make("div", { class: "wb-busy", hidden: true });
    this.svg.addEventListener("pointermove", (event) => this.onMove(event));
    this.svg.addEventListener("pointerleave", () => this.read(null));
    this.svg.addEventListener("blur", () => this.read(null));
    this.svg.addEventListener("keydown", (event) => this.onKey(event));
    this.root.append(this.busy, make("div", { class: "wb-head" }, this.title, this.legend), this.sub, this.plot, this.details, this.live);
  }

  mark() {
    this.busy.hidden = !this.model.get("busy");
    this.root.setAttribute("aria-busy", String(Boolean(this.model.get("busy"))));
  }

  // --- drawing ----------------------------------------------------------------------------------------------------

  draw() {
    const chart = (this.chart = this.model.get("_chart"));
    if (!chart.series) return;
    this.lines = chart.series.map((series, place) => ({
      ...series,
      place,
      points: pointsOf(series),
      shape: series.color ?? place,
      color: GREY.has(series.style) ? "var(--wb-fg2)" : `var(--wb-c${(series.color ?? place) % 6})`,
      look: `wb-${series.style}${series.strong ? " wb-strong" : ""}`,
    }));
    this.title.textContent = chart.title;
    this.title.hidden = !chart.title;
    this.sub.textContent = chart.subtitle;
    this.sub.hidden = !chart.subtitle;
    this.drawLegend();
    this.listNumbers();
    const width = this.plot.clientWidth;
    if (width <= 0) return;
    this.drawPlot(width, this.model.get("height"));
  }

  visible() {
    return this.lines.filter((line) => !this.hidden.has(line.name) && line.points.length);
  }

  drawLegend() {
    const items = this.lines.map((line) => {
      const toggle = () => {
        if (!this.hidden.delete(line.name)) this.hidden.add(line.name);
        this.draw();
        this.legend.children[line.place]?.focus();
      };
      const swatch = make("svg:svg", { width: 26, height: 12, "aria-hidden": "true", style: `color:${line.color}` });
      swatch.append(
        make("svg:line", { x1: 0, x2: 26, y1: 6, y2: 6, class: `wb-line ${line.look}` }),
        make("svg:path", { d: markerPath(line.shape, 13, 6, 4), class: `wb-point ${line.look}` }),
      );
      const name = line.style === "estimated" ? `${line.name} (estimate)` : line.name;
      const pressed = String(!this.hidden.has(line.name));
      return make("button", { type: "button", class: "wb-series", "aria-pressed": pressed, title: "Show or hide", onclick: toggle }, swatch, name);
    });
    this.legend.replaceChildren(...items);
  }

  drawPlot(width, height) {
    const lines = this.visible();
    const { chart } = this;
    const below = MARGIN.bottom + ribbonRoom(chart);
    const [left, right, top, bottom] = [MARGIN.left, width - MARGIN.right, MARGIN.top, height - below];
    this.frame = { left, right, top, bottom };
    this.xs = [...new Set(lines.flatMap((line) => line.points.map((point) => point.x)))].sort((a, b) => a - b);
    const points = lines.flatMap((line) => line.points);
    const [least, most] = [Math.min(...points.map(({ y }) => y)), Math.max(...points.map(({ y }) => y))];
    // The values set the scale: a spread far beyond them (one slow call on a busy machine) is cut at the plot's edge.
    const inReach = (y) => y != null && y <= 1.5 * most && y >= least / 1.5;
    const ys = points.flatMap(({ y, low, high }) => [y, ...[low, high].filter(inReach)]);
    this.x = xAxis(chart, this.xs, left, right);
    this.y = yAxis(chart, ys.length ? ys : [chart.reference ?? 1], bottom, top);
    this.empty.textContent = chart.empty;
    this.empty.hidden = this.lines.some((line) => line.points.length);
    this.svg.setAttribute("width", width);
    this.svg.setAttribute("height", height);
    this.svg.setAttribute("aria-label", this.summary());
    this.guide = make("svg:g", { class: "wb-guide" });
    const known = this.known;
    this.known = new Set();
    this.svg.replaceChildren(
      ...this.gridParts(left, right, top, bottom),
      ...(this.empty.hidden ? ruleParts(chart, this.x, this.y, this.frame) : []),
      ...ribbonParts(chart, this.x, this.frame),
      this.guide,
      ...lines.filter((line) => GREY.has(line.style)).flatMap((line) => this.lineParts(line, known)),
      ...lines.filter((line) => !GREY.has(line.style)).reverse().flatMap((line) => this.lineParts(line, known)),
      ...(this.empty.hidden ? ruleNames(chart, this.x, this.y, this.frame) : []),
    );
    this.read(this.shown ?? null);
  }

  gridParts(left, right, top, bottom) {
    const { chart } = this;
    const ticks = this.empty.hidden ? this.y.ticks : [];
    const parts = ticks.flatMap((value) => [
      make("svg:line", { class: "wb-gridline", x1: left, x2: right, y1: this.y.at(value), y2: this.y.at(value) }),
      make("svg:text", { x: left - 8, y: this.y.at(value), dy: "0.35em", "text-anchor": "end", text: this.tick(value) }),
    ]);
    const base = bottom + ribbonRoom(chart);
    for (const value of this.x.ticks) {
      parts.push(make("svg:line", { class: "wb-axis", x1: this.x.at(value), x2: this.x.at(value), y1: bottom, y2: bottom + 5 }));
      parts.push(make("svg:text", { x: this.x.at(value), y: base + 18, "text-anchor": "middle", text: formatNumber(value, 6) }));
    }
    if (this.empty.hidden || this.x.ticks.length) parts.push(make("svg:line", { class: "wb-axis", x1: left, x2: right, y1: bottom, y2: bottom }));
    parts.push(make("svg:text", { class: "wb-axis-name", x: (left + right) / 2, y: base + 38, "text-anchor": "middle", text: chart.x_label }));
    const turned = `translate(12,${(top + bottom) / 2}) rotate(-90)`;
    parts.push(make("svg:text", { class: "wb-axis-name", transform: turned, "text-anchor": "middle", text: chart.y_label }));
    return parts;
  }

  lineParts(line, known) {
    let path = "";
    let open = false;
    line.x.forEach((x, i) => {
      const y = line.y[i];
      if (y !== null) path += `${open ? "L" : "M"}${this.x.at(x).toFixed(1)},${this.y.at(y).toFixed(1)}`;
      open = y !== null;
    });
    const style = `color:${line.color}`;
    const parts = [make("svg:path", { class: `wb-line ${line.look}`, d: path, style })];
    if (line.style === "bound") return parts;
    const inPlot = (value) => clamp(this.y.at(value), this.frame.top, this.frame.bottom);
    for (const { x, y, low, high } of line.points) {
      const [px, py] = [this.x.at(x), this.y.at(y)];
      if (low != null && high != null) {
        parts.push(make("svg:line", { class: "wb-spread", x1: px, x2: px, y1: inPlot(low), y2: inPlot(high), style }));
      }
      const key = `${line.name}\n${x}`;
      this.known.add(key);
      const fresh = known && !known.has(key) ? " wb-fresh" : "";
      const marker = { class: `wb-point ${line.look}${fresh}`, d: markerPath(line.shape, px, py, line.strong ? 5.5 : 4.5), style };
      parts.push(make("svg:path", { ...marker, "data-series": line.name, "data-x": x, "data-y": y }));
    }
    return parts;
  }

  /** A tick's text; on an axis of powers of two, those below one as fractions. */
  tick(value) {
    return this.chart.y_scale === "log2" && value < 1 ? `1/${formatNumber(1 / value)}${this.chart.y_suffix}` : this.format(value);
  }

  format(value) {
    return `${formatNumber(value)}${this.chart.y_suffix}`;
  }

  summary() {
    const { chart } = this;
    if (!this.empty.hidden) return `${chart.title || chart.y_label}. ${chart.empty}`;
    const parts = this.visible().map((line) => {
      const [first, last] = [line.points[0], line.points[line.points.length - 1]];
      return `${line.name}: ${this.format(first.y)} at ${first.x} to ${this.format(last.y)} at ${last.x}`;
    });
    if (chart.mark !== null) parts.push(`${chart.mark_label} (${formatNumber(chart.mark)})`);
    const pieces = ribbonPieces(chart.ribbon, this.x, this.frame);
    if (pieces.length) parts.push(`${chart.ribbon_label}: ${pieces.map((piece) => `${piece.label} ${between(piece.xs)}`).join(", ")}`);
    return [`Chart of ${chart.title || chart.y_label} by ${chart.x_label}`, ...parts, "Left and right arrow keys read the points"].join(". ");
  }

  // --- reading ----------------------------------------------------------------------------------------------------

  read(value) {
    this.shown = value;
    if (value === null || !this.xs.includes(value)) {
      this.tip.hidden = true;
      this.guide?.replaceChildren();
      return;
    }
    const at = this.x.at(value);
    const hits = this.visible().map((line) => [line, line.points.find((point) => point.x === value)]).filter(([, point]) => point);
    hits.sort((a, b) => b[1].y - a[1].y);
    this.guide.replaceChildren(make("svg:line", { x1: at, x2: at, y1: this.frame.top, y2: this.frame.bottom }));
    const rows = hits.map(([line, point]) => {
      const name = line.style === "estimated" ? `${line.name} (estimate)` : line.name;
      const dot = make("span", { class: "wb-dot", style: `background:${line.color}` });
      return make("tr", {}, make("td", {}, dot, name), make("td", { text: this.format(point.y) }), make("td", { text: point.detail }));
    });
    const choice = this.chart.ribbon.find(({ x }) => x === value);
    const chosen = choice ? make("div", { text: `${this.chart.ribbon_label}: ${choice.label}` }) : null;
    const head = make("b", { text: `${this.chart.x_label} ${formatNumber(value, 6)}` });
    this.tip.replaceChildren(...[head, chosen, make("table", {}, ...rows)].filter(Boolean));
    placeTip(this.tip, this.plot, at, Math.min(...hits.map(([, point]) => this.y.at(point.y))));
  }

  onMove(event) {
    if (!this.xs.length) return;
    const x = event.clientX - this.svg.getBoundingClientRect().left;
    this.read(this.xs.reduce((best, value) => (Math.abs(this.x.at(value) - x) < Math.abs(this.x.at(best) - x) ? value : best)));
  }

  onKey(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!this.xs.length || (step === undefined && event.key !== "Escape")) return;
    event.preventDefault();
    event.stopPropagation();
    if (step === undefined) return this.read(null);
    const at = this.xs.indexOf(this.shown);
    this.read(this.xs[at < 0 ? 0 : clamp(at + step, 0, this.xs.length - 1)]);
    this.live.textContent = [...this.tip.querySelectorAll("b, div, tr")].map((node) => [...(node.children.length ? node.children : [node])].map((part) => part.textContent).join(" ")).join(", ");
  }

  listNumbers() {
    const { chart } = this;
    this.details.hidden = !this.lines?.some((line) => line.points.length);
    if (this.details.hidden || !this.details.open) return;
    const xs = [...new Set(this.lines.flatMap((line) => line.points.map((point) => point.x)))].sort((a, b) => a - b);
    const head = make("tr", {}, make("th", { scope: "col", text: chart.x_label }), ...xs.map((x) => make("th", { scope: "col", text: formatNumber(x, 6) })));
    const rows = this.lines.map((line) => {
      const cell = (x) => {
        const point = line.points.find((candidate) => candidate.x === x);
        return make("td", { text: point ? this.format(point.y) : "–", title: point?.detail || null });
      };
      const name = line.style === "estimated" ? `${line.name} (estimate)` : line.name;
      return make("tr", {}, make("th", { scope: "row", text: name }), ...xs.map(cell));
    });
    if (chart.ribbon.length) {
      const chosen = new Map(chart.ribbon.map(({ x, label }) => [x, label]));
      rows.push(make("tr", {}, make("th", { scope: "row", text: chart.ribbon_label }), ...xs.map((x) => make("td", { text: chosen.get(x) ?? "–" }))));
    }
    this.table.replaceChildren(head, ...rows);
  }

  stop() {
    this.stops.forEach((stop) => stop());
    this.root.remove();
  }
}

export default {
  render({ model, el }) {
    const view = new ChartView(model, el);
    return () => view.stop();
  },
};
