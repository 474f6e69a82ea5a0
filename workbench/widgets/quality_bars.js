// Results as rows of a table, each with a bar and its interval on one scale.

const TICKS = 4;

class BarsView {
  constructor(model, el) {
    this.model = model;
    this.root = card(el, "wb-bars");
    this.title = make("h3", { class: "wb-title" });
    this.body = make("tbody");
    this.names = make("tr");
    this.axis = make("div", { class: "wb-bars-axis", "aria-hidden": "true" });
    this.table = make("table", {}, make("thead", {}, this.names), this.body);
    this.empty = make("p", { class: "wb-bars-empty" });
    this.root.append(make("div", { class: "wb-head" }, this.title), this.empty, this.table);
    this.stops = [followTheme(this.root, () => {})];
    for (const name of ["title", "columns", "empty", "_bars"]) model.on(`change:${name}`, () => this.draw());
    this.draw();
  }

  draw() {
    const bars = this.model.get("_bars");
    const top = Math.max(...bars.map((bar) => bar.high ?? bar.value), 1e-9);
    const ticks = linearTicks(0, top * 1.04, TICKS);
    const share = (value) => `${(100 * clamp(value / (top * 1.04), 0, 1)).toFixed(2)}%`;
    this.title.textContent = this.model.get("title");
    this.empty.textContent = this.model.get("empty");
    this.empty.hidden = bars.length > 0;
    this.table.hidden = bars.length === 0;
    const [what, number, beside] = this.model.get("columns");
    this.axis.replaceChildren(...ticks.map((tick) => this.tick(tick, share)));
    this.names.replaceChildren(
      make("th", { scope: "col", text: what }),
      make("th", { scope: "col", class: "wb-bars-scale" }, make("span", { text: number }), this.axis),
      make("th", { scope: "col", text: beside }),
    );
    this.body.replaceChildren(...bars.map((bar) => this.row(bar, share, ticks)));
  }

  tick(value, share) {
    const tick = make("span", { text: formatNumber(value) });
    tick.style.left = share(value);
    return tick;
  }

  row(bar, share, ticks) {
    const fill = make("i", { class: "wb-bar-fill" });
    fill.style.width = share(bar.value);
    const lines = ticks.map((tick) => {
      const line = make("i", { class: "wb-bar-grid" });
      line.style.left = share(tick);
      return line;
    });
    const track = make("div", { class: "wb-bar", "aria-hidden": "true" }, ...lines, fill);
    if (bar.low !== null && bar.high !== null) {
      const spread = make("i", { class: "wb-bar-spread" });
      spread.style.left = share(bar.low);
      spread.style.width = `calc(${share(bar.high)} - ${share(bar.low)})`;
      track.append(spread);
    }
    const now = bar.current ? make("span", { class: "wb-badge", "data-kind": "good", text: "now" }) : null;
    return make(
      "tr",
      { "data-current": bar.current ? "true" : null, "aria-current": bar.current ? "true" : null },
      make("th", { scope: "row" }, make("span", { text: bar.label }), now),
      make("td", {}, track, make("small", { text: bar.text })),
      make("td", { text: bar.beside }),
    );
  }

  stop() {
    this.stops.forEach((stop) => stop());
    this.root.remove();
  }
}

export default {
  render({ model, el }) {
    const view = new BarsView(model, el);
    return () => view.stop();
  },
};
