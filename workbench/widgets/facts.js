// A verdict, numbers, notes, and a text to copy.

class FactsView {
  constructor(model, el) {
    this.model = model;
    this.root = card(el, "wb-facts");
    this.busy = make("div", { class: "wb-busy", hidden: true });
    this.title = make("h3", { class: "wb-title" });
    this.badge = make("span", { class: "wb-badge" });
    this.head = make("div", { class: "wb-head" }, this.title, this.badge);
    this.verdict = make("p", { class: "wb-verdict", role: "status" });
    this.list = make("dl", { class: "wb-numbers" });
    this.notes = make("ul", { class: "wb-notes" });
    this.moreName = make("summary");
    this.moreNotes = make("ul", { class: "wb-notes" });
    this.more = make("details", { class: "wb-more" }, this.moreName, this.moreNotes);
    this.code = make("pre", { class: "wb-code", tabindex: 0 });
    this.copy = make("button", { type: "button", class: "wb-button", text: "Copy", onclick: () => this.copyCode() });
    this.codeBox = make("div", { class: "wb-codebox" }, this.code, this.copy);
    this.root.append(this.busy, this.head, this.verdict, this.list, this.more, this.notes, this.codeBox);
    this.stops = [followTheme(this.root, () => {})];
    for (const name of ["title", "verdict", "badge", "facts", "notes", "open_notes", "code", "busy"]) model.on(`change:${name}`, () => this.draw());
    model.on("msg:custom", (message) => message.type === "copy" && this.copyCode());
    this.draw();
  }

  draw() {
    const get = (name) => this.model.get(name);
    this.busy.hidden = !get("busy");
    this.title.textContent = get("title");
    this.badge.textContent = get("badge");
    this.badge.hidden = !get("badge");
    this.badge.dataset.kind = get("badge") === "exact" ? "good" : "warn";
    this.head.hidden = !get("title") && !get("badge");
    this.verdict.textContent = get("verdict");
    this.verdict.hidden = !get("verdict");
    this.list.hidden = get("facts").length === 0;
    this.list.replaceChildren(
      ...get("facts").map(({ label, value, hint, tone }) =>
        make(
          "div",
          { class: "wb-fact", "data-tone": tone, "data-fact": label },
          make("dt", { text: label }),
          make("dd", { text: value }),
          hint ? make("small", { text: hint }) : null,
        ),
      ),
    );
    const shown = get("open_notes") ?? get("notes").length;
    this.listNotes(this.notes, this.notes, get("notes").slice(0, shown));
    this.listNotes(this.moreNotes, this.more, get("notes").slice(shown));
    this.moreName.textContent = plural(get("notes").length - shown, "note");
    this.code.textContent = get("code");
    this.codeBox.hidden = !get("code");
  }

  listNotes(list, box, notes) {
    box.hidden = notes.length === 0;
    list.replaceChildren(...notes.map((note) => make("li", { text: note })));
  }

  async copyCode() {
    try {
      await navigator.clipboard.writeText(this.model.get("code"));
      this.copy.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(this.code);
      this.copy.textContent = "Selected: press Ctrl+C";
    }
    clearTimeout(this.timer);
    this.timer = setTimeout(() => (this.copy.textContent = "Copy"), 2000);
  }

  stop() {
    clearTimeout(this.timer);
    this.stops.forEach((stop) => stop());
    this.root.remove();
  }
}

export default {
  render({ model, el }) {
    const view = new FactsView(model, el);
    return () => view.stop();
  },
};
