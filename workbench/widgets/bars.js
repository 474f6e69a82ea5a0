// Histogram: bars, an outline over them, a read-out of each bin; the page alone switches the count axis.

const BAR_MARGIN = { left: 62, right: 12, top: 10, bottom: 42 };

class BarsView {
  constructor(model, el) {
    this.model = model;
    this.root = card(el, "wb-bars");
    this.at = null;
    this.build();
    this.stops = [followTheme(this.root, () => {}), followWidth(this.root, () => this.draw())];
    model.on("change:_chart change:height change:log", () => this.draw());
    model.on("change:busy", () => this.mark());
    this.draw();
    this.mark();
  }

  build() {
    this.title = make("h3", { class: "wb-title" });
    this.log = make("input", { type: "checkbox", onchange: () => this.setLog() });
    const toggle = make("label", { class: "wb-label wb-log" }, this.log, "log counts");
    this.tools = make("div", { class: "wb-tools" }, toggle);
    this.sub = make("p", { class: "wb-sub" });
    this.svg = make("svg:svg", { class: "wb-plot-area", tabindex: 0, role: "img" });
    this.tip = make("div", { class: "wb-tip", hidden: true });
    this.empty = make("div", { class: "wb-empty" });
    this.plot = make("div", { class: "wb-stage" }, this.svg, this.tip, this.empty);
    this.key = make("div", { class: "wb-key" });
    this.live = make("div", { class: "wb-hidden", "aria-live": "polite" });
    this.busy = make("div", { class: "wb-busy", hidden: true });
    this.svg.addEventListener("pointermove", (event) => this.onMove(event));
    this.svg.addEventListener("pointerleave", () => this.read(null));
    this.svg.addEventListener("blur", () => this.read(null));
    this.svg.addEventListener("keydown", (event) => this.onKey(event));
    this.root.append(this.busy, make("div", { class: "wb-head" }, this.title, this.tools), this.sub, this.plot, this.key, this.live);
  }

  mark() {
    this.busy.hidden = !this.model.get("busy");
    this.root.setAttribute("aria-busy", String(Boolean(this.model.get("busy"))));
  }

  setLog() {
    this.model.set("log", this.log.checked);
    this.model.save_changes();
    this.draw();
  }

  draw() {
    const chart = (this.chart = this.model.get("_chart"));
    if (!chart.counts) return;
    const some = chart.counts.length > 0;
    this.title.textContent = chart.title;
    this.sub.textContent = chart.subtitle;
    this.sub.hidden = !chart.subtitle;
    this.log.checked = this.model.get("log");
    this.tools.hidden = !some;
    this.empty.textContent = chart.empty;
    this.empty.hidden = some;
    this.svg.toggleAttribute("hidden", !some);
    this.drawKey();
    const width = this.plot.clientWidth;
    if (width > 0 && some) this.drawPlot(width, this.model.get("height"));
  }

  drawKey() {
    const { what, outline, outline_label: label } = this.chart;
    this.key.hidden = !outline.length;
    if (!outline.length) return;
    this.key.replaceChildren(
      make("span", {}, make("i", { class: "wb-key-bar" }), what),
      make("span", {}, make("i", { class: "wb-key-line" }), label),
    );
  }

  drawPlot(width, height) {
    const { counts, outline, low, high, x_label: name, what } = this.chart;
    const log = this.model.get("log");
    const frame = { left: BAR_MARGIN.left, right: width - BAR_MARGIN.right, top: BAR_MARGIN.top, bottom: height - BAR_MARGIN.bottom };
    this.frame = frame;
    const most = Math.max(1, ...counts, ...outline) * (log ? 1.6 : 1.05);
    const share = log ? (n) => (n <= 0 ? 0 : clamp(Math.log(n / 0.6) / Math.log(most / 0.6), 0, 1)) : (n) => n / most;
    this.y = (n) => frame.bottom - share(n) * (frame.bottom - frame.top);
    this.x = (bin) => frame.left + (bin / counts.length) * (frame.right - frame.left);
    const value = (v) => this.x(((v - low) / (high - low)) * counts.length);
    this.svg.setAttribute("width", width);
    this.svg.setAttribute("height", height);
    this.svg.setAttribute("aria-label", this.summary());
    this.guide = make("svg:g", {});
    const yTicks = (log ? logTicks(1, most, 4) : linearTicks(0, most, 4)).filter((n) => n >= 1 && Number.isInteger(n));
    const grid = yTicks.flatMap((n) => [
      make("svg:line", { class: "wb-gridline", x1: frame.left, x2: frame.right, y1: this.y(n), y2: this.y(n) }),
      make("svg:text", { x: frame.left - 7, y: this.y(n), dy: "0.35em", "text-anchor": "end", text: shortCount(n) }),
    ]);
    const cuts = Math.max(4, Math.floor((frame.right - frame.left) / 80));
    let ticks = linearTicks(low, high, cuts);
    if (ticks.length < 3) ticks = linearTicks(low, high, 2 * cuts); // 0 alone is no scale
    const axis = ticks.flatMap((v) => [
      make("svg:line", { class: "wb-axis", x1: value(v), x2: value(v), y1: frame.bottom, y2: frame.bottom + 4 }),
      make("svg:text", { x: value(v), y: frame.bottom + 17, "text-anchor": "middle", text: formatNumber(v) }),
    ]);
    axis.push(make("svg:line", { class: "wb-axis", x1: frame.left, x2: frame.right, y1: frame.bottom, y2: frame.bottom }));
    axis.push(make("svg:text", { class: "wb-axis-name", x: (frame.left + frame.right) / 2, y: frame.bottom + 35, "text-anchor": "middle", text: name }));
    const turned = `translate(12,${(frame.top + frame.bottom) / 2}) rotate(-90)`;
    axis.push(make("svg:text", { class: "wb-axis-name", transform: turned, "text-anchor": "middle", text: what }));
    const gap = this.x(1) - this.x(0) > 4 ? 0.5 : 0;
    const bars = counts.map((n, bin) => `M${this.x(bin) + gap},${frame.bottom} V${this.y(n)} H${this.x(bin + 1) - gap} V${frame.bottom} z`);
    const parts = [...grid, make("svg:path", { class: "wb-bar", d: bars.filter((_, bin) => counts[bin] > 0).join(" ") })];
    if (outline.length) parts.push(make("svg:path", { class: "wb-outline", d: this.steps(outline) }));
    this.svg.replaceChildren(...parts, ...axis, this.guide);
    this.read(this.at);
  }

  steps(values) {
    return values.map((n, bin) => `${bin ? "L" : "M"}${this.x(bin)},${this.y(n)} H${this.x(bin + 1)}`).join(" ");
  }

  summary() {
    const { counts, low, high, what, title, outline_label: label } = this.chart;
    const peak = counts.indexOf(Math.max(...counts));
    const total = counts.reduce((sum, n) => sum + n, 0);
    const parts = [`${title}: ${formatCount(total)} ${what} from ${formatNumber(low)} to ${formatNumber(high)}`, `most in ${this.range(peak)}`];
    if (label) parts.push(`a line shows ${label}`);
    return [...parts, "Left and right arrow keys read the bins"].join(". ");
  }

  range(bin) {
    const { counts, low, high } = this.chart;
    const at = (place) => formatNumber(low + (place / counts.length) * (high - low));
    return `${at(bin)} to ${at(bin + 1)}`;
  }

  read(bin) {
    const { counts, outline, what, outline_label: label } = this.chart;
    this.at = bin !== null && bin < counts.length ? bin : null;
    this.guide?.replaceChildren();
    if (this.at === null) {
      this.tip.hidden = true;
      return;
    }
    const total = counts.reduce((sum, n) => sum + n, 0) || 1;
    const { top, bottom } = this.frame;
    this.guide.append(make("svg:rect", { class: "wb-reading", x: this.x(bin), y: top, width: Math.max(1, this.x(bin + 1) - this.x(bin)), height: bottom - top }));
    const lines = [
      make("b", { text: `${formatCount(counts[bin])} ${what} (${formatNumber((100 * counts[bin]) / total)}%)` }),
      make("div", { text: this.range(bin) }),
    ];
    if (outline.length) lines.push(make("div", { text: `${label}: ${formatCount(outline[bin])}` }));
    this.tip.replaceChildren(...lines);
    placeTip(this.tip, this.plot, this.x(bin + 0.5), this.y(counts[bin]));
  }

  onMove(event) {
    if (!this.frame) return;
    const x = event.clientX - this.svg.getBoundingClientRect().left;
    const share = (x - this.frame.left) / (this.frame.right - this.frame.left);
    this.read(clamp(Math.floor(share * this.chart.counts.length), 0, this.chart.counts.length - 1));
  }

  onKey(event) {
    const count = this.chart.counts.length;
    const peak = this.chart.counts.indexOf(Math.max(...this.chart.counts));
    const next = { ArrowLeft: (at) => at - 1, ArrowRight: (at) => at + 1, Home: () => 0, End: () => count - 1 }[event.key];
    if (!next && event.key !== "Escape") return;
    event.preventDefault();
    event.stopPropagation();
    this.read(next ? clamp(this.at === null ? peak : next(this.at), 0, count - 1) : null);
    if (next) this.live.textContent = [...this.tip.children].map((node) => node.textContent).join(", ");
  }

  stop() {
    this.stops.forEach((stop) => stop());
    this.root.remove();
  }
}

/** A count in few characters: 12, 3.4k, 1M. */
function shortCount(n) {
  if (n >= 1e9) return `${formatNumber(n / 1e9)}G`;
  if (n >= 1e6) return `${formatNumber(n / 1e6)}M`;
  return n >= 1e3 ? `${formatNumber(n / 1e3)}k` : String(n);
}

export default {
  render({ model, el }) {
    const view = new BarsView(model, el);
    return () => view.stop();
  },
};
