// The zero-point microscope: one group's weights, and the 16 levels of every variant, on one axis.

const ROW_HEIGHT = 22;

class MicroscopeView {
  constructor(model, el) {
    this.model = model;
    this.root = card(el, "wb-micro");
    this.sort = { key: "domain", descending: false };
    this.pinned = ""; // name of the variant in the lens; "": the layer's own settings
    this.hovered = null;
    this.marked = null;
    this.turn = this.answered = 0;
    this.asked = null; // the [row, group] that a person wished for and that is not there yet
    this.build();
    this.stops = [followTheme(this.root, () => {}), followWidth(this.root, () => this.drawLevels())];
    model.on("change:_payload", () => this.take());
    model.on("change:busy change:message", () => this.describe());
    model.on("msg:custom", (message) => this.receive(message));
    this.take();
  }

  build() {
    const number = (name, text) => {
      const input = make("input", { type: "number", class: "wb-input wb-number", min: 0, step: 1, onchange: () => this.ask() });
      this[name] = input;
      return make("label", { class: "wb-label" }, text, input);
    };
    const button = (text, label, act) => make("button", { type: "button", class: "wb-button", "aria-label": label, title: label, text, onclick: act });
    this.title = make("h3", { class: "wb-title", text: "Zero-point microscope" });
    this.badge = make("span", { class: "wb-badge" });
    this.before = button("‹", "Previous group", () => this.step(-1));
    this.after = button("›", "Next group", () => this.step(1));
    const worst = button("Worst group", "Look at the worst group of the layer", () => this.model.send({ type: "worst" }));
    this.tools = make("div", { class: "wb-tools" }, number("row", "Row"), number("group", "Group"), this.before, this.after, worst);
    this.sub = make("p", { class: "wb-sub" });
    this.table = make("table", { class: "wb-variants" });
    this.missing = make("ul", { class: "wb-missing", "aria-label": "Variants that there are not" });
    this.empty = make("div", { class: "wb-empty" });
    this.live = make("div", { class: "wb-hidden", "aria-live": "polite" });
    this.list = make("table");
    this.details = make("details", { ontoggle: () => this.listWeights() }, make("summary", { text: "Weights" }), make("div", { class: "wb-list" }, this.list));
    this.busy = make("div", { class: "wb-busy", hidden: true });
    this.stage = make("div", { class: "wb-stage" }, this.table, this.missing, this.details);
    this.root.append(this.busy, make("div", { class: "wb-head" }, this.title, this.badge, this.tools), this.sub, this.stage, this.empty, this.live);
    this.makeLens();
  }

  makeLens() {
    this.lens = make("svg:svg", { class: "wb-lens", tabindex: 0, role: "img", height: LENS_HEIGHT });
    this.lens.addEventListener("pointermove", (event) => this.onMove(event));
    this.lens.addEventListener("pointerleave", () => this.mark(null));
    this.lens.addEventListener("blur", () => this.mark(null));
    this.lens.addEventListener("keydown", (event) => this.onLensKey(event));
    this.lensName = make("th", { scope: "row", class: "wb-lens-name" });
    this.reading = make("td", { class: "wb-reading", colspan: COLUMNS.length });
    const levels = make("td", { class: "wb-levels" }, make("div", { class: "wb-box", style: `height:${LENS_HEIGHT}px` }, this.lens));
    this.lensRow = make("tr", { class: "wb-lens-row" }, this.lensName, levels, this.reading);
  }

  // --- payloads ---------------------------------------------------------------------------------------------------

  take() {
    const raw = this.model.get("_payload");
    const next = raw?.variants?.length ? raw : null;
    const same = next && this.data && ["name", "row", "group", "first_column"].every((key) => next[key] === this.data[key]);
    if (!same) this.marked = null;
    this.data = next;
    const there = next && this.asked && this.asked[0] === next.row && this.asked[1] === next.group;
    if (!next || there || this.answered === this.turn) this.asked = null;
    this.describe();
    if (!next) return;
    this.showPlace();
    this.draw();
    this.listWeights();
  }

  describe() {
    const { data } = this;
    const message = this.model.get("message");
    this.busy.hidden = !this.model.get("busy");
    this.root.setAttribute("aria-busy", String(Boolean(this.model.get("busy"))));
    this.empty.textContent = message || "Nothing to show yet.";
    this.empty.hidden = Boolean(data);
    for (const part of [this.stage, this.tools, this.sub]) part.hidden = !data;
    this.badge.hidden = !data?.chosen;
    this.badge.textContent = data?.chosen ?? "";
    if (!data) return;
    const count = data.weights.length;
    const [low, high] = [Math.min(...data.weights), Math.max(...data.weights)].map((weight) => formatNumber(weight));
    const row = data.stack_rows ? `expert ${Math.floor(data.row / data.stack_rows)}, output feature ${data.row % data.stack_rows} (row ${data.row})` : `output feature ${data.row}`;
    const where = `${row} · group ${data.group} · in_features ${data.first_column}–${data.first_column + count - 1}`;
    this.sub.textContent = `${data.name} · ${where} · ${plural(count, "weight")} from ${low} to ${high}`;
  }

  showPlace() {
    const { data } = this;
    this.row.max = data.total_rows - 1;
    this.group.max = data.total_groups - 1;
    if (this.asked) return;
    this.row.value = data.row;
    this.group.value = data.group;
    this.before.disabled = data.row === 0 && data.group === 0;
    this.after.disabled = data.row === data.total_rows - 1 && data.group === data.total_groups - 1;
  }

  // --- drawing ----------------------------------------------------------------------------------------------------

  draw() {
    const { variants, missing } = this.data;
    const power = errorPower(variants);
    this.shape = { power, decimals: errorDecimals(variants, power) };
    this.best = bestOf(variants);
    this.rows = new Map();
    const sections = inSections(variants, this.sort).map(([heading, own]) => this.section(heading, own));
    this.table.replaceChildren(this.head(), make("tbody", {}, this.lensRow), ...sections);
    this.table.onpointerleave = () => this.hover(null);
    this.missing.replaceChildren(...missing.map(([names, reason]) => make("li", {}, make("b", { text: names }), reason)));
    this.drawLevels();
  }

  head() {
    const sortable = (key, text, unit) => {
      const active = this.sort.key === key;
      const order = active ? (this.sort.descending ? "descending" : "ascending") : null;
      const arrow = active && key !== "domain" ? (this.sort.descending ? " ↓" : " ↑") : "";
      const label = key === "domain" ? "Group by domain" : `Sort by ${text}`;
      const button = make("button", { type: "button", title: label, "data-sort": key, onclick: () => this.sortBy(key) }, `${text}${arrow}`);
      return make("th", { scope: "col", "aria-sort": order, "data-column": key }, button, unit ? make("small", { text: unit }) : null);
    };
    const unit = powerText(this.shape.power);
    const columns = COLUMNS.map(([key, text]) => sortable(key, text, ERROR_COLUMNS.some(([name]) => name === key) ? unit : ""));
    const levels = make("th", { scope: "col", class: "wb-levels", text: "Levels, in weight units" });
    return make("thead", {}, make("tr", {}, sortable("domain", "Variant"), levels, ...columns));
  }

  section(heading, variants) {
    const rows = variants.map((variant) => this.variantRow(variant, heading === ""));
    const head = heading ? make("tr", { class: "wb-section" }, make("th", { colspan: COLUMNS.length + 2, scope: "rowgroup", text: heading })) : null;
    return make("tbody", {}, head, ...rows);
  }

  variantRow(variant, named) {
    const name = variantName(variant);
    const short = `${variant.solver}${preservesZero(variant) ? " · preserve_zero" : ""}`;
    const pick = make("button", {
      type: "button",
      class: "wb-pick",
      "aria-label": name,
      title: ["Show in the lens", ...variant.notes].join("\n"),
      text: named ? name : short,
      onclick: () => this.pin(name),
      onfocus: () => this.hover(name),
      onkeydown: (event) => this.onRowKey(event),
    });
    const svg = make("svg:svg", { role: "img", "aria-label": levelsText(variant), height: ROW_HEIGHT });
    const badge = variant.current ? make("span", { class: "wb-badge", text: "in use" }) : null;
    const row = make(
      "tr",
      { "data-variant": name, "data-domain": variant.domain },
      make("th", { scope: "row" }, make("div", {}, pick, badge)),
      make("td", { class: "wb-levels" }, make("div", { class: "wb-box", style: `height:${ROW_HEIGHT}px` }, svg)),
      ...ERROR_COLUMNS.map(([key]) => errorCell(variant, key, this.shape, this.best)),
      make("td", { "data-column": "bits", text: variant.bits.toFixed(2) }),
      zeroCell(variant),
    );
    row.addEventListener("pointerenter", () => this.hover(name));
    this.rows.set(name, { row, svg, variant, pick });
    return row;
  }

  drawLevels() {
    if (!this.data || this.root.clientWidth === 0) return;
    const width = this.lens.parentNode.clientWidth;
    if (width <= 0) return;
    this.scale = levelScale(this.data.weights, this.data.variants, width);
    for (const { svg, variant } of this.rows.values()) {
      const base = make("svg:line", { class: "wb-base", x1: 0, x2: width, y1: ROW_HEIGHT - 2, y2: ROW_HEIGHT - 2 });
      svg.setAttribute("width", width);
      svg.replaceChildren(...gridLines(this.scale, 0, ROW_HEIGHT), base, ...levelTicks(variant, this.scale, ROW_HEIGHT - 2, ROW_HEIGHT - 5));
    }
    this.lens.setAttribute("width", width);
    this.drawLens();
  }

  /** The variant in the lens: the one pointed at, else the one picked, else that of the layer's settings. */
  shown() {
    const all = [...this.rows.values()];
    const found = this.rows.get(this.hovered) ?? this.rows.get(this.pinned) ?? all.find(({ variant }) => variant.current);
    return (found ?? all.find(({ variant }) => variant.rms === this.best.rms) ?? all[0]).variant;
  }

  drawLens() {
    if (!this.scale) return;
    const variant = this.shown();
    const name = variantName(variant);
    for (const [key, { row, pick }] of this.rows) {
      row.toggleAttribute("data-shown", key === name);
      pick.setAttribute("aria-pressed", String(key === name));
    }
    this.lensRow.dataset.domain = variant.domain;
    this.lens.dataset.shown = name;
    this.lens.setAttribute("aria-label", `Weights and their levels in ${name}. Left and right arrow keys read the weights.`);
    this.lens.replaceChildren(...lensParts(this.data.weights, variant, this.scale, this.marked));
    this.lensName.replaceChildren(make("b", { text: variant.solver }), make("span", { text: `${variant.domain}${preservesZero(variant) ? ", preserve_zero" : ""}` }));
    this.reading.replaceChildren(...this.readingLines(variant));
  }

  readingLines(variant) {
    const found = assignments(this.data.weights, variant);
    const beyond = found.filter((one) => one.beyond).length;
    const zero = { float: `value of code 8: ${formatNumber(variant.zero, 4)}`, int: `code of 0: ${variant.zero}` }[variant.domain] ?? "code 8 is 0";
    const lines = [
      `step ${formatNumber(variant.scale, 4)} · ${zero}`,
      levelsText(variant),
      beyond ? `${plural(beyond, "weight")} beyond the levels` : "no weight beyond the levels",
      ...variant.notes,
    ].map((text, place) => make("div", { text, class: place === 2 && beyond ? "wb-beyond-text" : null }));
    const one = this.marked === null ? null : found[this.marked];
    const weight = one ? make("div", { class: "wb-weight-text" }, make("b", { text: this.weightText(one) })) : make("div", { text: "Point at a weight to read it." });
    return [...lines, weight];
  }

  weightText({ i, weight, code, level, error }) {
    const sign = error > 0 ? "+" : "";
    return `in_feature ${this.data.first_column + i}: ${formatNumber(weight, 4)} → code ${code}, ${formatNumber(level, 4)} (${sign}${formatNumber(error, 2)})`;
  }

  listWeights() {
    if (!this.data || !this.details.open) return;
    const variant = this.shown();
    const head = ["in_feature", "Weight", `Code (${variantName(variant)})`, "Level", "Error"].map((text) => make("th", { scope: "col", text }));
    const rows = assignments(this.data.weights, variant).map(({ i, weight, code, level, error }) => {
      const cells = [this.data.first_column + i, formatNumber(weight, 4), code, formatNumber(level, 4), formatNumber(error, 3)];
      return make("tr", {}, ...cells.map((text) => make("td", { text })));
    });
    this.list.replaceChildren(make("tr", {}, ...head), ...rows);
  }

  // --- what the user does -----------------------------------------------------------------------------------------

  hover(name) {
    if (this.hovered === name) return;
    this.hovered = name;
    this.drawLens();
  }

  pin(name) {
    this.pinned = name;
    this.drawLens();
    this.listWeights();
  }

  sortBy(key) {
    this.sort = { key, descending: this.sort.key === key && key !== "domain" && !this.sort.descending };
    this.draw();
    this.table.querySelector(`[data-sort="${key}"]`).focus();
  }

  mark(place) {
    if (this.marked === place || !this.scale) return;
    this.marked = place;
    this.drawLens();
  }

  onMove(event) {
    const x = event.clientX - this.lens.getBoundingClientRect().left;
    const { weights } = this.data;
    const away = weights.map((weight) => Math.abs(this.scale.at(weight) - x));
    const nearest = away.indexOf(Math.min(...away));
    this.mark(away[nearest] <= 24 ? nearest : null);
  }

  onLensKey(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step === undefined && event.key !== "Escape") return;
    event.preventDefault();
    event.stopPropagation();
    if (step === undefined) return this.mark(null);
    const order = this.data.weights.map((_, i) => i).sort((a, b) => this.data.weights[a] - this.data.weights[b]);
    const at = order.indexOf(this.marked);
    this.mark(order[at < 0 ? 0 : clamp(at + step, 0, order.length - 1)]);
    this.live.textContent = this.weightText(assignments(this.data.weights, this.shown())[this.marked]);
  }

  onRowKey(event) {
    const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    const picks = [...this.table.querySelectorAll(".wb-pick")];
    picks[clamp(picks.indexOf(event.target) + step, 0, picks.length - 1)].focus();
  }

  step(by) {
    const { total_groups: groups, total_rows: rows } = this.data;
    const [row, group] = this.asked ?? [this.data.row, this.data.group];
    const at = clamp(row * groups + group + by, 0, rows * groups - 1);
    this.look(Math.floor(at / groups), at % groups);
  }

  ask() {
    const [row, group] = [this.row, this.group].map((input) => (input.value.trim() === "" ? NaN : Number(input.value)));
    if (Number.isInteger(row) && Number.isInteger(group)) this.look(row, group);
    else this.showPlace();
  }

  /** Ask for a group; until it is there, or refused, the fields keep what was asked for. */
  look(row, group) {
    this.turn += 1;
    this.asked = [row, group];
    [this.row.value, this.group.value] = [row, group];
    this.model.send({ type: "look", row, group, turn: this.turn });
  }

  receive(message) {
    if (message.type !== "ack") return;
    this.answered = Math.max(this.answered, message.turn ?? 0);
    if (this.answered < this.turn || !message.refused) return;
    this.asked = null;
    if (this.data) this.showPlace();
  }

  stop() {
    this.stops.forEach((stop) => stop());
    this.root.remove();
  }
}

export default {
  render({ model, el }) {
    const view = new MicroscopeView(model, el);
    return () => view.stop();
  },
};
