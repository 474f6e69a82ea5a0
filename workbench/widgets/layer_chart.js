// Errors of all layers in the model's order: a dot each, coloured by what the layer is; a click picks the layer.

const DOT_MARGIN = { left: 68, right: 14, top: 12, bottom: 42 };

class LayerDots {
  constructor(model, el) {
    this.model = model;
    this.root = card(el, "wb-dots");
    this.at = null;
    this.hidden = new Set();
    this.build();
    this.drawUpdate = whenReleased(this.root, () => this.draw());
    const stopDrawing = () => (cancelAnimationFrame(this.frame), this.drawUpdate.stop());
    this.stops = [followTheme(this.root, () => {}), followWidth(this.root, () => this.draw()), stopDrawing];
    model.on("change:_layers", () => this.take());
    model.on("change:title change:subtitle change:y_label change:y_log change:height change:empty", () => this.drawSoon());
    model.on("change:current change:selected", () => this.mark());
    model.on("change:busy", () => this.showBusy());
    model.on("msg:custom", (message) => this.update(message));
    this.take();
    this.showBusy();
  }

  build() {
    this.title = make("h3", { class: "wb-title" });
    this.legend = make("div", { class: "wb-tools wb-legend-row", role: "group", "aria-label": "Kinds of layer" });
    this.sub = make("p", { class: "wb-sub" });
    this.svg = make("svg:svg", { class: "wb-plot-area", tabindex: 0, role: "img" });
    this.tip = make("div", { class: "wb-tip", hidden: true });
    this.empty = make("div", { class: "wb-empty" });
    this.plot = make("div", { class: "wb-stage" }, this.svg, this.tip, this.empty);
    this.live = make("div", { class: "wb-hidden", "aria-live": "polite" });
    this.busy = make("div", { class: "wb-busy", hidden: true });
    this.svg.addEventListener("pointermove", (event) => this.read(this.nearest(event)));
    this.svg.addEventListener("pointerleave", () => this.read(null));
    this.svg.addEventListener("click", (event) => this.pick(this.nearest(event)));
    this.svg.addEventListener("blur", () => this.read(null));
    this.svg.addEventListener("keydown", (event) => this.onKey(event));
    this.root.append(this.busy, make("div", { class: "wb-head" }, this.title, this.legend), this.sub, this.plot, this.live);
  }

  showBusy() {
    this.busy.hidden = !this.model.get("busy");
    this.root.setAttribute("aria-busy", String(Boolean(this.model.get("busy"))));
  }

  take() {
    const { names = [], values = [], families = [], blocks = [] } = this.model.get("_layers");
    const order = [...new Set(families)].sort((a, b) => (a === "other") - (b === "other"));
    this.layers = names.map((name, place) => ({ name, place, value: values[place], family: families[place], block: blocks[place], kind: order.indexOf(families[place]) }));
    this.families = order;
    this.at = null;
    this.draw();
  }

  update({ type, places, values }) {
    if (type !== "update") return;
    const held = this.model.get("_layers").values; // the model's own, so that a later state differs from it
    places.forEach((place, i) => {
      held[place] = values[i];
      if (this.layers[place]) this.layers[place].value = values[i];
    });
    this.drawSoon();
  }

  drawSoon() {
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => this.drawUpdate());
  }

  color(layer) {
    return layer.family === "other" ? "var(--wb-fg2)" : `var(--wb-c${(layer.kind + Math.floor(layer.kind / 6)) % 6})`; // with its shape, one of its own
  }

  /** The layers that are drawn: those with a value, of a kind that is not hidden, and on the axis. */
  shown() {
    const log = this.model.get("y_log");
    return this.layers.filter(({ value, family }) => value != null && !this.hidden.has(family) && (!log || value > 0));
  }

  draw() {
    this.title.textContent = this.model.get("title");
    this.sub.textContent = this.model.get("subtitle");
    this.empty.textContent = this.model.get("empty");
    const some = this.layers.some(({ value }) => value != null);
    this.empty.hidden = some;
    this.svg.toggleAttribute("hidden", !some);
    this.drawLegend(some);
    const width = this.plot.clientWidth;
    if (some && width > 0) this.drawPlot(width, this.model.get("height"));
  }

  drawLegend(some) {
    this.legend.hidden = !some || this.families.length < 2;
    const items = this.families.map((family, kind) => {
      const toggle = () => {
        if (!this.hidden.delete(family)) this.hidden.add(family);
        this.draw();
        this.legend.children[kind]?.focus();
      };
      const swatch = make("svg:svg", { width: 12, height: 12, "aria-hidden": "true", style: `color:${this.color({ family, kind })}` });
      swatch.append(make("svg:path", { class: "wb-dot-mark", d: markerPath(kind, 6, 6, 4) }));
      return make("button", { type: "button", class: "wb-series", "aria-pressed": String(!this.hidden.has(family)), title: "Show or hide", onclick: toggle }, swatch, family);
    });
    this.legend.replaceChildren(...items);
  }

  drawPlot(width, height) {
    const frame = (this.frame0 = { left: DOT_MARGIN.left, right: width - DOT_MARGIN.right, top: DOT_MARGIN.top, bottom: height - DOT_MARGIN.bottom });
    const shown = this.shown();
    const values = shown.length ? shown.map(({ value }) => value) : [1];
    const wide = Math.max(...values) > 8 * Math.min(...values);
    const chart = { y_scale: this.model.get("y_log") && wide ? "log10" : "linear", y_from_zero: false, reference: null };
    this.y = yAxis(chart, values, frame.bottom, frame.top);
    this.x = (place) => frame.left + ((place + 0.5) / this.layers.length) * (frame.right - frame.left);
    this.svg.setAttribute("width", width);
    this.svg.setAttribute("height", height);
    this.svg.setAttribute("aria-label", this.summary(shown));
    const size = clamp((frame.right - frame.left) / this.layers.length / 2.2, 2.2, 4.5);
    const dots = shown.map((layer) =>
      make("svg:path", { class: "wb-dot-mark", "data-layer": layer.name, style: `color:${this.color(layer)}`, d: markerPath(layer.kind, this.x(layer.place), this.y.at(layer.value), size) }),
    );
    this.marks = make("svg:g", {});
    this.guide = make("svg:g", {});
    this.svg.replaceChildren(...this.gridParts(frame), this.marks, ...dots, this.guide);
    this.mark();
    this.read(this.at);
  }

  gridParts(frame) {
    const parts = this.y.ticks.flatMap((value) => [
      make("svg:line", { class: "wb-gridline", x1: frame.left, x2: frame.right, y1: this.y.at(value), y2: this.y.at(value) }),
      make("svg:text", { x: frame.left - 8, y: this.y.at(value), dy: "0.35em", "text-anchor": "end", text: this.format(value) }),
    ]);
    const starts = this.layers.filter(({ block }, i) => block !== "" && block !== this.layers[i - 1]?.block);
    let last = -Infinity;
    for (const { place, block } of starts) {
      const x = this.x(place);
      if (x - last < 28) continue;
      last = x;
      parts.push(make("svg:line", { class: "wb-axis", x1: x, x2: x, y1: frame.bottom, y2: frame.bottom + 5 }));
      parts.push(make("svg:text", { x, y: frame.bottom + 18, "text-anchor": "middle", text: block }));
    }
    const middle = (frame.left + frame.right) / 2;
    const name = starts.length ? "block, layers in the model's order" : "layers in the model's order";
    parts.push(make("svg:line", { class: "wb-axis", x1: frame.left, x2: frame.right, y1: frame.bottom, y2: frame.bottom }));
    parts.push(make("svg:text", { class: "wb-axis-name", x: middle, y: frame.bottom + 36, "text-anchor": "middle", text: name }));
    const turned = `translate(12,${(frame.top + frame.bottom) / 2}) rotate(-90)`;
    parts.push(make("svg:text", { class: "wb-axis-name", transform: turned, "text-anchor": "middle", text: this.model.get("y_label") }));
    return parts;
  }

  /** A ring around each selected layer, and a line through the one on show, also while it has no value. */
  mark() {
    if (!this.marks || !this.frame0) return;
    const [current, selected] = [this.model.get("current"), new Set(this.model.get("selected"))];
    const parts = [];
    const on = this.layers.find(({ name }) => name === current);
    if (on) parts.push(make("svg:line", { class: "wb-current", "data-layer": current, x1: this.x(on.place), x2: this.x(on.place), y1: this.frame0.top, y2: this.frame0.bottom }));
    for (const layer of this.shown()) {
      if (layer.name !== current && !(selected.size > 1 && selected.has(layer.name))) continue;
      parts.push(make("svg:circle", { class: "wb-ring", "data-layer": layer.name, cx: this.x(layer.place), cy: this.y.at(layer.value), r: 8 }));
    }
    this.marks.replaceChildren(...parts);
  }

  format(value) {
    return `${formatNumber(value)}${this.model.get("y_suffix")}`;
  }

  summary(shown) {
    const worst = shown.reduce((best, layer) => (!best || layer.value > best.value ? layer : best), null);
    const parts = [`${this.model.get("title")}: ${shown.length} of ${this.layers.length} layers`];
    if (worst) parts.push(`largest ${this.format(worst.value)}, ${worst.name}`);
    return [...parts, "Left and right arrow keys read the layers, Enter shows one"].join(". ");
  }

  nearest(event) {
    const shown = this.shown();
    if (!shown.length || !this.frame0) return null;
    const box = this.svg.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    const far = ({ place, value }) => Math.hypot(this.x(place) - x, 0.5 * (this.y.at(value) - y));
    return shown.reduce((best, layer) => (far(layer) < far(best) ? layer : best)).place;
  }

  read(place) {
    this.at = place;
    this.guide?.replaceChildren();
    const layer = place === null ? null : this.layers[place];
    this.tip.hidden = !layer || layer.value == null;
    if (this.tip.hidden) return;
    const [x, y] = [this.x(place), this.y.at(layer.value)];
    this.guide.append(make("svg:circle", { class: "wb-ring wb-ring-hover", cx: x, cy: y, r: 8 }));
    this.tip.replaceChildren(make("b", { text: this.format(layer.value) }), make("div", { text: layer.name }));
    placeTip(this.tip, this.plot, x, y);
  }

  pick(place) {
    const layer = this.layers[place];
    if (layer) this.model.send({ type: "pick", name: layer.name });
  }

  onKey(event) {
    const shown = this.shown().map(({ place }) => place);
    if (!shown.length || !["ArrowLeft", "ArrowRight", "Home", "End", "Enter", " ", "Escape"].includes(event.key)) return;
    event.preventDefault();
    event.stopPropagation();
    if (event.key === "Escape") return this.read(null);
    if (event.key === "Enter" || event.key === " ") return this.at === null ? undefined : this.pick(this.at);
    const on = this.layers.findIndex(({ name }) => name === this.model.get("current"));
    const at = shown.indexOf(this.at ?? on);
    const step = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: shown.length - 1 }[event.key];
    this.read(shown[clamp(this.at === null && at >= 0 ? at : step, 0, shown.length - 1)]);
    this.live.textContent = [...this.tip.children].map((node) => node.textContent).join(", ");
  }

  stop() {
    this.stops.forEach((stop) => stop());
    this.root.remove();
  }
}

export default {
  render({ model, el }) {
    const view = new LayerDots(model, el);
    return () => view.stop();
  },
};
