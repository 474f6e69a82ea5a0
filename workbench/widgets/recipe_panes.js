// The other side of the recipe: what changed, the history, its JSON, its files and code; one of them at a time.

const PANES = { changes: "Changes", history: "History", text: "JSON", files: "Files and code" };
const SIGNS = { added: "+", removed: "−", same: " ", gap: "⋮" };
const AGAINST = { previous: "the one before", pinned: "the pinned one", file: "its file" };

class RecipePanes {
  constructor(model, act) {
    this.model = model;
    this.act = act;
    this.key = `wb-${Math.random().toString(36).slice(2)}`;
    this.list = make("div", { class: "wb-pane-tabs", role: "tablist", "aria-label": "The recipe in other ways" });
    this.list.addEventListener("keydown", (event) => this.arrow(event));
    this.text = new RecipeText(model, act);
    this.bodies = { changes: this.buildChanges(), history: this.buildHistory(), text: this.text.node, files: this.buildFiles() };
    for (const [id, body] of Object.entries(this.bodies)) {
      body.classList.add("wb-pane");
      for (const [name, value] of Object.entries({ role: "tabpanel", id: `${this.key}-${id}`, "aria-labelledby": `${this.key}-${id}-tab`, "data-pane": id })) body.setAttribute(name, value);
    }
    this.node = make("div", { class: "wb-recipe-panes" }, this.list, ...Object.values(this.bodies));
    model.on("change:pane", () => this.draw());
    model.on("change:diff change:others change:against", () => this.drawChanges());
    model.on("change:steps change:can", () => this.drawHistory());
    model.on("change:code", () => this.drawCode());
    model.on("change:path", () => this.drawPath());
    for (const draw of ["draw", "drawChanges", "drawHistory", "drawCode", "drawPath"]) this[draw]();
  }

  draw() {
    const pane = this.model.get("pane");
    keepFocus(this.list, () =>
      this.list.replaceChildren(
        ...Object.entries(PANES).map(([id, text]) =>
          make("button", {
            type: "button",
            class: "wb-pane-tab",
            role: "tab",
            id: `${this.key}-${id}-tab`,
            "data-key": id,
            "aria-selected": String(id === pane),
            "aria-controls": `${this.key}-${id}`,
            tabindex: id === pane ? "0" : "-1",
            text,
            onclick: () => this.select(id),
          }),
        ),
      ),
    );
    for (const [id, body] of Object.entries(this.bodies)) body.hidden = id !== pane;
  }

  select(id) {
    this.model.set("pane", id);
    this.model.save_changes();
    this.draw();
  }

  arrow(event) {
    const ids = Object.keys(PANES);
    const at = ids.indexOf(this.model.get("pane"));
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: ids.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    this.select(ids[(to + ids.length) % ids.length]);
    this.list.querySelector('[aria-selected="true"]').focus();
  }

  buildChanges() {
    const name = `${this.key}-compared`;
    this.choices = make("div", { class: "wb-against", role: "radiogroup", "aria-labelledby": name });
    const compared = make("div", { class: "wb-compared" }, make("span", { class: "wb-label", id: name, text: "Compared with" }), this.choices);
    this.diffSaid = make("p", { class: "wb-diff-said", role: "status" });
    this.lines = make("div", { class: "wb-diff", tabindex: 0, role: "list", "aria-label": "Changed lines" });
    this.pin = make("button", { type: "button", class: "wb-button", text: "Pin this recipe", title: "Keep it aside, to compare later ones with it", onclick: () => this.act("pin", {}, (reply) => (this.diffSaid.textContent = reply.ok ? "Pinned." : reply.text)) });
    return make("div", {}, compared, make("div", { class: "wb-against-row" }, this.diffSaid, this.pin), this.lines);
  }

  drawChanges() {
    const others = this.model.get("others");
    const against = this.model.get("against");
    const { said = "", lines = [], hidden = 0 } = this.model.get("diff");
    keepFocus(this.choices, () =>
      this.choices.replaceChildren(
        ...Object.entries(AGAINST).map(([id, name]) => {
          const input = make("input", { type: "radio", name: `${this.key}-against`, "data-key": id, disabled: !(id in others), onchange: () => this.compare(id) });
          input.checked = id === against;
          return make("label", { "data-off": !(id in others) }, input, make("span", { text: id === "file" && others.file ? others.file : name }));
        }),
      ),
    );
    const none = { previous: "No recipe came before this one.", pinned: "No recipe is pinned.", file: "No file was loaded or saved yet." }[against];
    this.diffSaid.textContent = against in others ? said : none;
    this.lines.hidden = lines.length === 0;
    const words = { added: "added: ", removed: "removed: ", gap: "lines left out " };
    this.lines.replaceChildren(
      ...lines.map(([kind, text]) =>
        make(
          "div",
          { class: "wb-diff-line", role: "listitem", "data-kind": kind },
          make("span", { class: "wb-diff-sign", "aria-hidden": "true", text: SIGNS[kind] }),
          words[kind] ? make("span", { class: "wb-hidden", text: words[kind] }) : null,
          make("code", { text: kind === "gap" ? "" : text }),
        ),
      ),
      ...(hidden > 0 ? [make("div", { class: "wb-diff-line", text: `and ${plural(hidden, "more line")}` })] : []),
    );
  }

  compare(id) {
    this.model.set("against", id);
    this.model.save_changes();
  }

  buildHistory() {
    const button = (action, text) => make("button", { type: "button", class: "wb-button", text, onclick: () => this.act(action, {}, () => {}) });
    [this.undo, this.redo] = [button("undo", "Undo"), button("redo", "Redo")];
    this.steps = make("ol", { class: "wb-steps", reversed: true });
    return make("div", {}, make("div", { class: "wb-against-row" }, make("span", { class: "wb-sub", text: "Newest first; click one to go there." }), this.undo, this.redo), this.steps);
  }

  drawHistory() {
    const can = this.model.get("can");
    [this.undo.disabled, this.redo.disabled] = [!can.undo, !can.redo];
    const steps = this.model.get("steps");
    const now = steps.find((step) => step.now)?.place ?? 0;
    keepFocus(this.steps, () =>
      this.steps.replaceChildren(
        ...steps.map(({ place, text }) => {
          const state = place === now ? "now" : place > now ? "undone" : "";
          return make(
            "li",
            {},
            make(
              "button",
              { type: "button", class: "wb-step", "data-key": `step-${place}`, "data-state": state, "aria-current": place === now ? "step" : null, onclick: () => this.act("go", { place }, () => {}) },
              make("span", { class: "wb-step-place", text: place }),
              make("span", { class: "wb-step-text", text }),
              state ? make("span", { class: "wb-badge", "data-kind": state === "now" ? "good" : "", text: state }) : null,
            ),
          );
        }),
      ),
    );
  }

  buildFiles() {
    this.path = make("input", { type: "text", class: "wb-input", spellcheck: "false", placeholder: "recipe.json", id: `${this.key}-path` });
    this.fileSaid = make("p", { class: "wb-file-said", role: "status" });
    const button = (text, title, click) => make("button", { type: "button", class: "wb-button", text, title, onclick: click });
    this.replace = button("Replace it", "Write over what the file holds", () => this.file("save", { replace: true }));
    this.path.addEventListener("input", () => this.sayFile({ ok: true, text: "" }));
    this.code = make("pre", { class: "wb-code", tabindex: 0 });
    this.codeSaid = make("p", { class: "wb-file-said", role: "status" });
    return make(
      "div",
      {},
      make("label", { class: "wb-field-label", for: `${this.key}-path`, text: "Recipe file, in the kernel's working folder unless the path says otherwise" }),
      make("div", { class: "wb-file-row" }, this.path, button("Load", "Take the recipe of this file; it can be undone", () => this.file("load", {})), button("Save", "Write the recipe; another file is never written over", () => this.file("save", {})), this.replace),
      this.fileSaid,
      make("div", { class: "wb-file-row wb-copy-row" }, button("Copy as Python", "A cell that, run alone, gives the same codes", () => this.copy("python")), button("Copy as command line", "A command that, run alone, gives the same codes", () => this.copy("command"))),
      this.codeSaid,
      this.code,
    );
  }

  drawPath() {
    const path = this.model.get("path");
    if (path && this.path.getRootNode().activeElement !== this.path) this.path.value = path;
    this.sayFile(this.lastFile ?? { ok: true, text: "" });
  }

  drawCode() {
    const { text = "" } = this.model.get("code");
    this.code.textContent = text;
    this.code.hidden = !text;
    if (!text) this.codeSaid.textContent = "";
  }

  file(action, args) {
    this.act(action, { path: this.path.value || "recipe.json", ...args }, (reply) => this.sayFile(reply));
  }

  sayFile(reply) {
    this.lastFile = reply;
    this.fileSaid.textContent = reply.text;
    this.fileSaid.dataset.bad = !reply.ok;
    this.path.setAttribute("aria-invalid", String(!reply.ok));
    this.replace.hidden = !reply.replace;
  }

  copy(kind) {
    this.act(kind, {}, async (reply) => {
      this.codeSaid.dataset.bad = !reply.ok;
      this.codeSaid.textContent = reply.text;
      if (!reply.ok) return;
      this.drawCode();
      try {
        await navigator.clipboard.writeText(reply.code);
        this.codeSaid.textContent = "Copied.";
      } catch {
        getSelection().selectAllChildren(this.code);
        this.codeSaid.textContent = "Selected: press Ctrl+C.";
      }
    });
  }

  stop() {
    this.text.stop();
  }
}
