// A table of formats with a radio button in each row; the badge says whether the format holds the model.

const STATES = { exact: "good", rounded: "warn", refused: "bad" };
let formatTables = 0;

class FormatsView {
  constructor(model, el) {
    this.model = model;
    this.group = `wb-formats-${(formatTables += 1)}`;
    this.root = card(el, "wb-formats");
    this.turns = new Turns(model, () => this.mark());
    this.title = make("h3", { class: "wb-title", text: "Format", id: `${this.group}-title` });
    this.badge = make("span", { class: "wb-badge", "data-kind": "warn", text: "checking …", hidden: true });
    this.body = make("tbody");
    const names = ["Format", "Loaded by", "Fit", "Size", "What rounds, or what to change"];
    const head = make("thead", {}, make("tr", {}, ...names.map((text) => make("th", { scope: "col", text }))));
    this.table = make("table", { class: "wb-formats-table", "aria-labelledby": this.title.id }, head, this.body);
    this.root.append(make("div", { class: "wb-head" }, this.title, this.badge), this.table);
    this.stops = [followTheme(this.root, () => {})];
    model.on("change:rows", () => this.draw());
    model.on("change:selected", () => this.mark());
    model.on("change:busy", () => this.mark());
    this.draw();
  }

  draw() {
    const focused = this.root.contains(document.activeElement) ? document.activeElement.value : null;
    this.body.replaceChildren(...this.model.get("rows").map((row) => this.row(row)));
    this.mark();
    if (focused) this.body.querySelector(`input[value="${CSS.escape(focused)}"]`)?.focus();
  }

  row({ id, title, engines, state, size, remark }) {
    const radio = make("input", {
      type: "radio",
      name: this.group,
      value: id,
      "aria-label": `${title}, ${state}`,
      onchange: () => this.select(id),
    });
    const badge = make("span", { class: "wb-badge", "data-kind": STATES[state], text: state });
    const cells = [make("label", {}, radio, title), engines, badge, size, remark];
    const row = make("tr", { "data-format": id, onclick: () => this.select(id) });
    row.append(...cells.map((cell) => (typeof cell === "string" ? make("td", { text: cell }) : make("td", {}, cell))));
    return row;
  }

  select(id) {
    if (this.selected === id) return;
    this.selected = id;
    this.turns.send({ type: "select", id });
    this.mark();
  }

  mark() {
    if (!this.turns.waiting) this.selected = this.model.get("selected");
    const { selected } = this;
    this.badge.hidden = !this.model.get("busy");
    for (const row of this.body.children) {
      const chosen = row.dataset.format === selected;
      row.classList.toggle("wb-chosen", chosen);
      row.querySelector("input").checked = chosen;
    }
  }

  stop() {
    this.stops.forEach((stop) => stop());
    this.root.remove();
  }
}

export default {
  render({ model, el }) {
    const view = new FormatsView(model, el);
    return () => view.stop();
  },
};
