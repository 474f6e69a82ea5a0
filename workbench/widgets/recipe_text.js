// The recipe as JSON: line numbers, the line of what is wrong, and nothing applied until it is right.

class RecipeText {
  constructor(model, act) {
    this.model = model;
    this.act = act;
    this.shown = "";
    this.checks = 0;
    const key = `wb-${Math.random().toString(36).slice(2)}`;
    this.numbers = make("div", { class: "wb-line-numbers", "aria-hidden": "true" });
    this.area = make("textarea", { class: "wb-json", spellcheck: "false", wrap: "off", "aria-label": "Recipe as JSON", "aria-describedby": key });
    this.said = make("p", { class: "wb-json-said", id: key, role: "status" });
    this.jump = make("button", { type: "button", class: "wb-button", text: "Go to the line", onclick: () => this.goTo(this.line) });
    this.apply = make("button", { type: "button", class: "wb-button", "data-kind": "primary", text: "Apply", title: "Ctrl+Enter", onclick: () => this.send() });
    this.revert = make("button", { type: "button", class: "wb-button", text: "Revert", title: "Show the recipe as it is", onclick: () => this.show(true) });
    this.node = make(
      "div",
      {},
      make("div", { class: "wb-json-box" }, this.numbers, this.area),
      make("div", { class: "wb-json-foot" }, this.said, this.jump, this.revert, this.apply),
    );
    this.area.addEventListener("input", () => this.typed());
    this.area.addEventListener("scroll", () => (this.numbers.scrollTop = this.area.scrollTop));
    this.area.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.send();
    });
    model.on("change:text", () => this.show(false));
    this.show(true);
  }

  get edited() {
    return this.area.value !== this.shown;
  }

  /** Show the recipe as it is, but not over what is being typed, unless that is wanted. */
  show(over) {
    const text = this.model.get("text");
    if (text === "") return; // another pane is shown
    if (this.edited && !over) return this.say("The recipe changed meanwhile: Apply replaces it, Revert shows it.", "warn");
    this.area.value = text;
    this.shown = this.area.value;
    this.say("The recipe as it is. Edit it here, then apply it.", "");
  }

  typed() {
    this.number();
    clearTimeout(this.timer);
    if (!this.edited) return this.show(true);
    this.say("Checking…", "", null, false);
    this.timer = setTimeout(() => this.check(), 200);
  }

  check() {
    const mine = (this.checks += 1);
    this.act("check", { text: this.area.value }, (reply) => {
      if (mine !== this.checks || !this.edited) return;
      if (reply.ok) this.say(`Right, and not applied yet: ${reply.summary}.`, "good");
      else this.say(reply.text, "bad", reply.line, false);
    });
  }

  send() {
    if (!this.edited) return;
    clearTimeout(this.timer);
    this.checks += 1;
    this.act("apply", { text: this.area.value }, (reply) => {
      if (!reply.ok) return this.say(reply.text, "bad", reply.line, false);
      this.shown = this.area.value;
      this.show(true);
      this.say("Applied.", "good");
    });
  }

  say(text, kind, line = null, usable = true) {
    this.line = line;
    this.said.textContent = text;
    this.said.dataset.kind = kind;
    this.jump.hidden = line === null || line === undefined;
    this.apply.disabled = !this.edited || !usable;
    this.revert.disabled = !this.edited;
    this.area.setAttribute("aria-invalid", String(kind === "bad"));
    this.number();
  }

  number() {
    const count = this.area.value.split("\n").length;
    const numbers = Array.from({ length: count }, (_, at) => {
      const bad = at + 1 === this.line;
      return make("div", { "data-bad": bad, text: bad ? `▸ ${at + 1}` : at + 1 });
    });
    this.numbers.replaceChildren(...numbers);
    this.numbers.scrollTop = this.area.scrollTop;
  }

  goTo(line) {
    const before = this.area.value.split("\n").slice(0, line - 1).join("\n").length + (line > 1 ? 1 : 0);
    const end = this.area.value.indexOf("\n", before);
    this.area.focus();
    this.area.setSelectionRange(before, end < 0 ? this.area.value.length : end);
    this.area.scrollTop = Math.max(0, (line - 4) * 18);
  }

  stop() {
    clearTimeout(this.timer);
  }
}
