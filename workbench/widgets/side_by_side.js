// Two texts side by side; words that only one of them has are marked, the first ones most.

class SideBySideView {
  constructor(model, el) {
    this.model = model;
    this.root = card(el, "wb-sides");
    this.busy = make("div", { class: "wb-busy", hidden: true });
    this.verdict = make("p", { class: "wb-sides-verdict", role: "status" });
    this.columns = make("div", { class: "wb-sides-columns" });
    this.notes = make("ul", { class: "wb-sides-notes" });
    this.empty = make("p", { class: "wb-sides-empty" });
    this.root.append(this.busy, this.empty, this.verdict, this.columns, this.notes);
    this.stops = [followTheme(this.root, () => {})];
    for (const name of ["verdict", "prompt", "names", "notes", "busy", "empty", "_sides"]) model.on(`change:${name}`, () => this.draw());
    this.draw();
  }

  draw() {
    const get = (name) => this.model.get(name);
    const sides = get("_sides");
    this.busy.hidden = !get("busy");
    this.empty.textContent = get("empty");
    this.empty.hidden = sides.length > 0 || !get("empty");
    this.verdict.textContent = get("verdict");
    this.verdict.hidden = !get("verdict");
    this.columns.hidden = sides.length === 0;
    this.columns.replaceChildren(...sides.map((pieces, i) => this.side(get("names")[i], get("prompt"), pieces)));
    this.notes.hidden = get("notes").length === 0;
    this.notes.replaceChildren(...get("notes").map((note) => make("li", { text: note })));
  }

  side(name, prompt, pieces) {
    const first = pieces.findIndex((piece) => piece.differs);
    const words = pieces.flatMap(({ text, differs }, i) => {
      if (!differs) return [text];
      const end = text.trimEnd().length || text.length; // the blank after the last word is not marked
      return [make("mark", { "data-first": i === first ? "true" : null, text: text.slice(0, end) }), text.slice(end)];
    });
    const text = make("p", { class: "wb-sides-text", tabindex: 0, "aria-label": name }, make("span", { text: prompt }), ...words);
    return make("section", { "data-side": name }, make("h4", { text: name }), text);
  }

  stop() {
    this.stops.forEach((stop) => stop());
    this.root.remove();
  }
}

export default {
  render({ model, el }) {
    const view = new SideBySideView(model, el);
    return () => view.stop();
  },
};
