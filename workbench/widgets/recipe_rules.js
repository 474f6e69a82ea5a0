// Presets, the rules in the order in which they decide, and a row to add one.

class RecipeRules {
  constructor(model, act) {
    this.model = model;
    this.act = act; // (action, args, done): tell the kernel, and hand its reply to `done`
    this.errors = new Map(); // key of a control → what is wrong with it
    this.presets = make("div", { class: "wb-presets", role: "group", "aria-label": "Presets" });
    this.list = make("div", { class: "wb-rules", role: "list", "aria-label": "Rules, the first that matches a layer decides" });
    this.hidden = make("p", { class: "wb-sub" });
    this.said = make("span", { class: "wb-rules-said", role: "status" });
    this.node = make(
      "div",
      { class: "wb-recipe-rules" },
      make("p", { class: "wb-section", text: "Start from a preset: bits a weight, and KL from the original on the demo model" }),
      this.presets,
      make("p", { class: "wb-section" }, make("span", { text: "Rules: the first that matches a layer decides" }), this.said),
      this.list,
      this.hidden,
      this.addRow(),
    );
    model.on("change:presets", () => this.drawPresets());
    model.on("change:rules change:total change:hidden change:output_head", () => this.draw());
    this.drawPresets();
    this.draw();
  }

  drawPresets() {
    keepFocus(this.presets, () =>
      this.presets.replaceChildren(
        ...this.model.get("presets").map(({ name, good_for, now }) =>
          make(
            "button",
            { type: "button", class: "wb-preset", "data-key": `preset-${name}`, "aria-pressed": String(now), onclick: () => this.do("preset", { name }) },
            make("b", { text: name }),
            make("span", { text: good_for }),
          ),
        ),
      ),
    );
  }

  draw() {
    const rules = this.model.get("rules");
    const many = this.model.get("hidden");
    this.hidden.hidden = many === 0;
    this.hidden.textContent = `and ${plural(many, "more rule")}: see them in the JSON`;
    keepFocus(this.list, () => this.list.replaceChildren(...rules.map((rule, row) => this.row(rule, row, rules))));
  }

  row(rule, row, rules) {
    const key = rule.kind === "rule" ? `rule-${rule.place}` : rule.kind;
    const last = rules.filter(({ kind }) => kind === "rule").length - 1;
    const line = make(
      "div",
      { class: "wb-rule-line" },
      make("span", { class: "wb-rule-place", "aria-hidden": "true", text: rule.kind === "rule" ? rule.place + 1 : "" }),
      rule.kind === "rule" ? this.pattern(rule, key) : make("span", { class: "wb-rule-rest", text: rule.pattern }),
      make("span", { class: "wb-rule-settings", text: rule.settings, title: rule.settings }),
      this.count(rule, row, key),
      rule.kind === "rule" ? this.buttons(rule, key, last) : rule.kind === "head" ? this.head() : make("span"),
    );
    const error = this.errors.get(key);
    return make(
      "div",
      { class: "wb-rule", role: "listitem", "data-kind": rule.kind, "data-dense": rule.dense, "data-pattern": rule.pattern },
      line,
      rule.note ? make("p", { class: "wb-rule-note", text: rule.note }) : null,
      error ? make("p", { class: "wb-error-text", role: "alert", text: error }) : null,
    );
  }

  pattern(rule, key) {
    const input = make("input", {
      type: "text",
      class: "wb-input wb-rule-pattern",
      spellcheck: "false",
      "data-key": `${key}-pattern`,
      "aria-label": `Pattern of rule ${rule.place + 1}`,
      "aria-invalid": String(this.errors.has(key)),
      title: "A glob, re: and a regular expression, or dotted components of a name. Enter applies, Escape goes back.",
    });
    input.value = rule.pattern;
    const back = () => {
      this.errors.delete(key);
      input.value = rule.pattern;
      this.draw();
    };
    input.addEventListener("change", () => {
      if (input.value.trim() === rule.pattern) return back();
      this.do("rename", { place: rule.place, pattern: input.value }, key);
    });
    input.addEventListener("keydown", (event) => event.key === "Escape" && back());
    return input;
  }

  count(rule, row, key) {
    const total = Math.max(1, this.model.get("total"));
    return make(
      "button",
      {
        type: "button",
        class: "wb-rule-count",
        disabled: rule.count === 0,
        "data-key": `${key}-count`,
        title: rule.count ? `Select ${plural(rule.count, "layer")} in the table` : null,
        "aria-label": `${rule.count} of ${total} layers: select them`,
        onclick: () => this.do("select", { row }),
      },
      make("span", { text: plural(rule.count, "layer") }),
      make("i", { class: "wb-rule-bar", "aria-hidden": "true" }, make("i", { style: `width: ${(100 * rule.count) / total}%` })),
    );
  }

  buttons(rule, key, last) {
    const button = (name, sign, label, off, click) =>
      make("button", { type: "button", class: "wb-button wb-small", "data-key": `${key}-${name}`, "aria-label": `${label} ${rule.pattern}`, title: label, disabled: off, text: sign, onclick: click });
    const move = (by, name) => () => {
      this.focusOn = `rule-${rule.place + by}-${name}`;
      this.do("move", { place: rule.place, by });
    };
    return make(
      "span",
      { class: "wb-rule-buttons" },
      button("up", "↑", "Move up", rule.place === 0, move(-1, "up")),
      button("down", "↓", "Move down", rule.place >= last, move(1, "down")),
      button("remove", "✕", "Remove", false, () => this.do("remove", { place: rule.place })),
    );
  }

  head() {
    const input = make("input", { type: "checkbox", role: "switch", "data-key": "head-switch", onchange: () => this.do("head", { on: input.checked }) });
    input.checked = this.model.get("output_head");
    return make("label", { class: "wb-rule-head", title: "Give it the settings of all other layers" }, input, make("span", { text: "like the others" }));
  }

  addRow() {
    const input = make("input", { type: "text", class: "wb-input", spellcheck: "false", placeholder: "Add a rule: q_proj, model.layers.0.*, re:.*mlp.*", "aria-label": "Pattern of a new rule" });
    const error = make("p", { class: "wb-error-text", role: "alert", hidden: true });
    const add = (dense) =>
      this.act("add", { pattern: input.value, dense }, (reply) => {
        error.hidden = reply.ok;
        error.textContent = reply.text;
        if (reply.ok) input.value = "";
      });
    const button = (text, title, dense) => make("button", { type: "button", class: "wb-button", text, title, onclick: () => add(dense) });
    input.addEventListener("input", () => (error.hidden = true));
    return make(
      "div",
      { class: "wb-rule-add" },
      make("div", { class: "wb-rule-add-line" }, input, button("Leave dense", "The layers that it matches stay in full precision", true), button("Make int4", "With the settings on show", false)),
      error,
    );
  }

  /** Do something; what is wrong with it is said at the control that `key` names. */
  do(action, args, key = "") {
    this.act(action, args, (reply) => {
      this.errors.clear();
      if (!reply.ok && key) this.errors.set(key, reply.text);
      this.said.textContent = key && !reply.ok ? "" : reply.text;
      this.said.dataset.bad = !reply.ok;
      this.draw();
      if (this.focusOn) this.focus(this.focusOn);
      this.focusOn = "";
    });
  }

  focus(key) {
    const wanted = this.list.querySelector(`[data-key="${key}"]`);
    const usable = wanted?.disabled ? wanted.parentNode.querySelector("button:not(:disabled)") : wanted;
    usable?.focus();
  }
}

/** Draw again, with the focus, the caret and the text being typed where they were. */
function keepFocus(box, draw) {
  const active = box.getRootNode().activeElement;
  const key = box.contains(active) ? active.dataset.key : null;
  const typed = key && active.type === "text" ? [active.value, active.selectionStart, active.selectionEnd] : null;
  draw();
  const again = key ? box.querySelector(`[data-key="${CSS.escape(key)}"]`) : null;
  if (!again) return;
  again.focus();
  if (!typed) return;
  again.value = typed[0];
  again.setSelectionRange(typed[1], typed[2]);
}
