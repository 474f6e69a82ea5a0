// A form of labelled controls. A change goes to the kernel at once (Turns).

class FormView {
  constructor(model, el) {
    this.model = model;
    this.root = card(el, "wb-form");
    this.turns = new Turns(model, () => this.showValues());
    this.controls = new Map();
    this.title = make("h3", { class: "wb-title" });
    this.hint = make("span", { class: "wb-hint" });
    this.grid = make("div", { class: "wb-fields" });
    this.notes = make("ul", { class: "wb-notes" });
    this.build();
    this.stops = [followTheme(this.root, () => {})];
    this.root.dataset.inline = model.get("inline");
    model.on("change:title change:hint", () => this.drawTitle());
    model.on("change:fold", () => this.showFold());
    model.on("change:fields", () => this.draw());
    model.on("change:values change:lengths", () => this.showValues());
    model.on("change:errors", () => this.showErrors());
    model.on("change:disabled", () => this.showDisabled());
    model.on("change:notes", () => this.drawNotes());
    this.drawTitle();
    this.draw();
    this.drawNotes();
  }

  build() {
    const foldable = this.model.get("fold") !== "";
    const head = make(foldable ? "summary" : "div", { class: "wb-head" }, this.title, this.hint);
    this.box = foldable ? make("details", { class: "wb-fold" }) : this.root;
    this.box.append(head, this.grid, this.notes);
    if (foldable) this.root.append(this.box);
    this.showFold();
  }

  showFold() {
    if (this.box !== this.root) this.box.open = this.model.get("fold") === "open";
  }

  drawTitle() {
    this.title.textContent = this.model.get("title");
    this.hint.textContent = this.model.get("hint");
    this.title.parentNode.hidden = !this.model.get("title");
  }

  drawNotes() {
    const notes = this.model.get("notes");
    this.notes.hidden = notes.length === 0;
    this.notes.replaceChildren(...notes.map((note) => make("li", { text: note })));
  }

  draw() {
    this.controls.clear();
    const rows = this.model.get("fields").map((field) => {
      const key = `wb-${Math.random().toString(36).slice(2)}`;
      const control = CONTROLS[field.kind](field, key, (value) => this.change(field.id, value));
      this.controls.set(field.id, control);
      const segments = field.kind === "segments"; // a group of radios is named by aria-labelledby, each radio by its own text
      const label = make(segments ? "span" : "label", { class: "wb-field-label", for: segments ? null : key, id: `${key}-label`, text: field.label });
      return make(
        "div",
        { class: "wb-field", "data-field": field.id, "data-kind": field.kind, "data-wide": field.wide, title: field.help || null },
        label,
        control.node,
        make("div", { class: "wb-error-text", role: "alert", hidden: true }),
      );
    });
    this.grid.replaceChildren(...rows);
    this.root.hidden = rows.length === 0 && this.model.get("notes").length === 0;
    this.showValues();
    this.showErrors();
    this.showDisabled();
  }

  showValues() {
    if (this.turns.waiting) return;
    const lengths = this.model.get("lengths");
    for (const [id, value] of Object.entries(this.model.get("values"))) this.controls.get(id)?.show(value, lengths[id]);
  }

  showErrors() {
    const errors = this.model.get("errors");
    for (const [id, control] of this.controls) {
      const field = control.node.closest(".wb-field");
      const text = field.querySelector(".wb-error-text");
      text.textContent = errors[id] ?? "";
      text.hidden = !errors[id];
      field.dataset.bad = Boolean(errors[id]);
    }
  }

  showDisabled() {
    const disabled = new Set(this.model.get("disabled"));
    for (const [id, control] of this.controls) {
      const off = disabled.has(id);
      control.node.closest(".wb-field").dataset.off = off;
      if (control.enable) control.enable(!off);
      else for (const input of control.node.matches("input, select") ? [control.node] : control.node.querySelectorAll("input, select, textarea, button")) input.disabled = off;
    }
  }

  change(id, value) {
    this.turns.send({ type: "change", id, value });
  }

  stop() {
    this.stops.forEach((stop) => stop());
    this.root.remove();
  }
}

const CONTROLS = {
  slider(field, key, changed) {
    const input = make("input", { type: "range", id: key, min: 0, max: field.options.length - 1, step: 1 });
    const output = make("output", { for: key });
    const ticks = make("div", { class: "wb-ticks", "aria-hidden": "true" }, ...field.options.map(([, text]) => make("span", { text })));
    let at = -1;
    const say = () => {
      const text = field.options[at][1];
      output.textContent = text;
      input.setAttribute("aria-valuetext", text);
      [...ticks.children].forEach((tick, i) => tick.toggleAttribute("data-on", i === at));
    };
    const move = (to) => {
      if (to === at) return;
      at = to;
      input.value = at;
      say();
      changed(field.options[at][0]);
    };
    input.addEventListener("input", () => move(Number(input.value)));
    [...ticks.children].forEach((tick, i) => tick.addEventListener("click", () => !input.disabled && move(i)));
    const show = (value) => {
      at = Math.max(0, field.options.findIndex(([choice]) => choice === value));
      input.value = at;
      say();
    };
    return { node: make("div", { class: "wb-slider" }, make("div", { class: "wb-track" }, input, ticks), output), show };
  },

  segments(field, key, changed) {
    const inputs = field.options.map(([value, text], i) => {
      const id = i === 0 ? key : `${key}-${i}`;
      const input = make("input", { type: "radio", name: key, id, onchange: () => changed(value) });
      return { value, input, node: make("label", { for: id }, input, make("span", { text })) };
    });
    const node = make("div", { class: "wb-segments", role: "radiogroup", "aria-labelledby": `${key}-label` }, ...inputs.map((one) => one.node));
    return { node, show: (value) => inputs.forEach((one) => (one.input.checked = one.value === value)) };
  },

  menu(field, key, changed) {
    const options = field.options.map(([, text], i) => make("option", { value: i, text }));
    const node = make("select", { class: "wb-select", id: key, onchange: () => changed(field.options[Number(node.value)][0]) }, ...options);
    return { node, show: (value) => (node.value = field.options.findIndex(([choice]) => choice === value)) };
  },

  switch(field, key, changed) {
    const input = make("input", { type: "checkbox", role: "switch", id: key, onchange: () => changed(input.checked) });
    return { node: make("span", { class: "wb-switch" }, input, make("i", { "aria-hidden": "true" })), show: (value) => (input.checked = value) };
  },

  text(field, key, changed) {
    const node = make("input", { type: "text", class: "wb-input", id: key, spellcheck: "false", placeholder: field.placeholder || null });
    return { node, show: lineOf(node, (text) => changed(text)) };
  },

  number(field, key, changed) {
    const props = { type: "text", inputmode: "decimal", class: "wb-input wb-number", autocomplete: "off" };
    const node = make("input", { ...props, id: key, spellcheck: "false", placeholder: field.placeholder || null });
    const show = lineOf(node, (text) => {
      const trimmed = text.trim().replace("−", "-");
      const value = Number(trimmed);
      changed(trimmed === "" ? null : Number.isFinite(value) ? value : trimmed); // what is no number is refused by name
    });
    return { node, show: (value) => show(value === null ? "" : String(value)) };
  },

  area(field, key, changed) {
    return textArea(field, key, changed);
  },
};

/** Send a line when the person leaves it or presses Enter; return the way to show one, but not over one being typed. */
function lineOf(node, send) {
  let typing = false;
  node.addEventListener("input", () => (typing = true));
  node.addEventListener("blur", () => (typing = false));
  node.addEventListener("change", () => {
    typing = false;
    send(node.value);
  });
  return (value) => {
    if (!typing) node.value = value;
  };
}

export default {
  render({ model, el }) {
    const view = new FormView(model, el);
    return () => view.stop();
  },
};
