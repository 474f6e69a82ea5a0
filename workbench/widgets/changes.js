// What a search changed: settings and errors before and after, a row for each kind of layer.

const PERCENT = (share) => (share >= 0.0995 ? `${(100 * share).toFixed(1)}%` : `${(100 * share).toFixed(2)}%`);

function bytes(count) {
  for (const unit of ["B", "kB", "MB"]) {
    if (Math.abs(count) < 1000) return unit === "B" ? `${count} B` : `${count.toFixed(2)} ${unit}`;
    count /= 1000;
  }
  return `${count.toFixed(2)} GB`;
}

class ChangesView {
  constructor(model, el) {
    this.model = model;
    this.root = card(el, "wb-changes");
    this.root.setAttribute("role", "region");
    this.title = make("h3", { class: "wb-title" });
    this.badge = make("span", { class: "wb-badge", "data-kind": "good" });
    this.undo = make("button", { type: "button", class: "wb-button", text: "Undo", title: "Go back to the recipe before it" });
    this.undo.addEventListener("click", () => model.send({ type: "undo" }));
    this.dismiss = make("button", { type: "button", class: "wb-button", text: "Dismiss", title: "Put this list away; the recipe stays" });
    this.dismiss.addEventListener("click", () => model.send({ type: "dismiss" }));
    const tools = make("div", { class: "wb-tools" }, this.undo, this.dismiss);
    this.verdict = make("p", { class: "wb-changes-verdict", role: "status" });
    this.table = make("table", { class: "wb-changes-table" });
    this.box = make("div", { class: "wb-changes-box", tabindex: 0, role: "group", "aria-label": "What changed" }, this.table);
    this.notes = make("ul", { class: "wb-changes-notes" });
    this.root.append(make("div", { class: "wb-head" }, this.title, this.badge, tools), this.verdict, this.box, this.notes);
    this.stops = [followTheme(this.root, () => {})];
    for (const name of ["title", "badge", "verdict", "objective", "notes", "can_undo", "_rows"]) {
      model.on(`change:${name}`, () => this.draw());
    }
    this.draw();
  }

  draw() {
    const get = (name) => this.model.get(name);
    this.title.textContent = get("title");
    this.root.setAttribute("aria-label", get("title"));
    this.badge.textContent = get("badge");
    this.badge.hidden = !get("badge");
    this.undo.disabled = !get("can_undo");
    this.verdict.textContent = get("verdict");
    this.verdict.hidden = !get("verdict");
    this.box.hidden = get("_rows").length === 0;
    this.table.replaceChildren(this.head(get("objective")), make("tbody", {}, ...get("_rows").map((row) => this.row(row))));
    this.notes.hidden = get("notes").length === 0;
    this.notes.replaceChildren(...get("notes").map((note) => make("li", { text: note })));
  }

  head(objective) {
    const names = ["Layers", "Before", "After", objective[0].toUpperCase() + objective.slice(1), "Bytes"];
    const cells = names.map((name, at) => make("th", { scope: "col", "data-number": at > 2, text: name }));
    return make("thead", {}, make("tr", {}, ...cells));
  }

  row({ pattern, names, before, after, error_before, error_after, bytes_before, bytes_after }) {
    const count = names.length > 1 ? make("span", { class: "wb-changes-count", text: `${names.length} layers` }) : null;
    const lower = error_before > 0 ? 1 - error_after / error_before : 0;
    const change = make("b", { "data-tone": lower > 0 ? "good" : lower < 0 ? "paid" : "", text: this.signed(-lower) });
    const grown = bytes_after - bytes_before;
    const room = grown ? `${bytes(bytes_before)} → ${bytes(bytes_after)}` : bytes(bytes_after);
    return make(
      "tr",
      { title: names.join("\n") },
      make("th", { scope: "row" }, make("code", { text: pattern }), count),
      make("td", { text: before }),
      make("td", { class: "wb-changes-after", text: after }),
      make("td", { "data-number": true }, `${PERCENT(error_before)} → ${PERCENT(error_after)} `, change),
      make("td", { "data-number": true, text: room }),
    );
  }

  signed(share) {
    return `${share > 0 ? "+" : share < 0 ? "−" : "±"}${Math.abs(100 * share).toFixed(0)}%`;
  }

  stop() {
    this.stops.forEach((stop) => stop());
    this.root.remove();
  }
}

export default {
  render({ model, el }) {
    const view = new ChangesView(model, el);
    return () => view.stop();
  },
};
