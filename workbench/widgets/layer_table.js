// The layer table: only the rows in view are in the page, whatever the model's size.

const ROW = 28;
const GROWING = { name: "3fr", decision: "2fr" };
let tableCount = 0;

class TableView {
  constructor(model, el) {
    this.model = model;
    this.root = card(el, "wb-layers");
    this.id = `wb-layers-${(tableCount += 1)}`;
    this.selection = new Set();
    this.focus = this.anchor = -1;
    this.saveLater = lateSaver(model, 50);
    this.build();
    this.stops = [
      followTheme(this.root, () => {}),
      followWidth(this.body, () => this.layout()),
      () => cancelAnimationFrame(this.frame),
      () => this.saveLater.flush(),
    ];
    model.on("change:columns", () => this.take());
    model.on("change:filter change:sort", () => this.refresh());
    model.on("change:selected change:current", () => this.adopt());
    model.on("change:height change:error_label change:show_totals", () => this.layout());
    model.on("msg:custom", (message) => message.type === "update" && this.refresh(true));
    this.take();
  }

  build() {
    const onFilter = () => {
      this.model.set("filter", this.input.value);
      this.saveLater();
    };
    const tip = "Words, globs (*.q_proj) and patterns (re:layers\\.[0-3]\\.) that must all match; ! negates";
    this.input = make("input", {
      class: "wb-input",
      type: "search",
      placeholder: "Filter: words, *.q_proj, re:layers\\.[0-3]\\., !dense",
      "aria-label": "Filter layers",
      title: tip,
      spellcheck: "false",
      autocomplete: "off",
      oninput: onFilter,
      onkeydown: (event) => event.key === "ArrowDown" && this.grid.focus(),
    });
    this.copy = make("button", { class: "wb-button", type: "button", text: "Copy paths", onclick: () => this.copyPaths() });
    this.problem = make("p", { class: "wb-problem", role: "alert", hidden: true });
    this.chips = make("div", { class: "wb-chips", role: "group", "aria-label": "Quick selection" });
    this.header = make("div", { class: "wb-row wb-columns", role: "row", "aria-rowindex": 1 });
    this.rows = make("div", { class: "wb-rows", role: "rowgroup" });
    this.body = make("div", { class: "wb-body", onscroll: () => this.drawSoon() }, this.rows);
    this.empty = make("div", { class: "wb-empty" });
    this.grid = make(
      "div",
      { class: "wb-grid", role: "grid", tabindex: 0, "aria-label": "Layers", "aria-multiselectable": "true" },
      make("div", { role: "rowgroup", class: "wb-top" }, this.header),
      this.body,
      this.empty,
    );
    this.totals = make("div", { class: "wb-totals" });
    this.live = make("div", { class: "wb-hidden", "aria-live": "polite" });
    this.grid.addEventListener("keydown", (event) => this.onKey(event));
    this.rows.addEventListener("mousedown", (event) => this.onClick(event));
    const head = make("div", { class: "wb-head" }, this.input, this.copy);
    this.root.append(head, this.problem, this.chips, this.grid, this.totals, this.live);
  }

  // --- data -------------------------------------------------------------------------------------------------------

  take() {
    this.data = this.model.get("columns");
    this.names = this.data.name ?? [];
    this.indexOf = new Map(this.names.map((name, i) => [name, i]));
    this.quick = this.names.length ? quickSelections(this.data, 9) : [];
    this.focus = this.anchor = -1;
    this.readSelection();
    this.refresh();
  }

  readSelection() {
    const rows = this.model.get("selected").map((name) => this.indexOf.get(name));
    this.selection = new Set(rows.filter((row) => row !== undefined));
    this.focus = this.indexOf.get(this.model.get("current")) ?? -1;
    if (this.anchor < 0) this.anchor = this.focus;
  }

  /** Take over a selection that Python made. */
  adopt() {
    const before = this.focus;
    this.readSelection();
    if (this.focus !== before) this.reveal();
    this.drawAll();
  }

  words(i) {
    const { data } = this;
    return [data.name[i], data.kind?.[i], data.decision[i], data.status?.[i]].filter(Boolean).join(" ").toLowerCase();
  }

  /** Filter, sort and draw again; `live` says that only cells changed. */
  refresh(live = false) {
    const text = this.model.get("filter");
    if (this.input.value !== text) this.input.value = text;
    const filter = parseFilter(text);
    this.problem.textContent = filter.error;
    this.problem.hidden = !filter.error;
    this.input.setAttribute("aria-invalid", String(Boolean(filter.error)));
    const all = this.names.map((_, i) => i);
    const matching = text.trim() && !filter.error ? all.filter((i) => filter.test(this.data.name[i], this.words(i))) : all;
    this.order = sortRows(matching, this.data, this.model.get("sort"));
    this.place = new Map(this.order.map((row, at) => [row, at]));
    this.worst = Math.max(0, ...(this.data.error ?? []).filter((value) => value !== null && value !== undefined));
    if (!live) this.body.scrollTop = Math.min(this.body.scrollTop, this.order.length * ROW);
    this.layout();
  }

  // --- drawing ----------------------------------------------------------------------------------------------------

  layout() {
    const width = this.body.clientWidth;
    this.body.style.height = `${this.model.get("height")}px`;
    this.grid.setAttribute("aria-rowcount", this.order.length + 1);
    this.rows.style.height = `${this.order.length * ROW}px`;
    this.columns = this.names.length ? fittingColumns(this.data, width - 24) : [];
    this.grid.setAttribute("aria-colcount", this.columns.length);
    const sizes = this.columns.map((column) => `minmax(${column.width}px, ${GROWING[column.id] ?? "0fr"})`);
    this.grid.style.setProperty("--wb-columns", sizes.join(" "));
    this.grid.style.setProperty("--wb-bar-room", `${this.body.offsetWidth - width}px`);
    this.empty.textContent = this.names.length ? "No layer matches the filter." : "No layers to show yet.";
    this.empty.hidden = this.order.length > 0;
    this.totals.hidden = !this.model.get("show_totals");
    this.drawHeader();
    this.drawAll();
  }

  drawAll() {
    this.shown = null;
    this.drawRows();
    this.drawChips();
    this.drawTotals();
  }

  drawSoon() {
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => this.drawRows());
  }

  drawHeader() {
    const [sorted, direction] = this.model.get("sort");
    const cells = this.columns.map((column) => {
      const active = column.id === sorted;
      const arrow = make("span", { class: "wb-arrow", "aria-hidden": "true", text: direction === "ascending" ? "▲" : "▼" });
      const long = column.id === "error" ? this.model.get("error_label") : (column.title ?? column.label);
      const text = column.id === "error" && 7.5 * long.length < column.width - 14 ? long : column.label;
      const title = `${long.charAt(0).toUpperCase()}${long.slice(1)}: click to sort`;
      const button = make("button", { type: "button", title, onclick: () => this.sortBy(column) }, make("span", { text: text.charAt(0).toUpperCase() + text.slice(1) }), active ? arrow : null);
      const sort = active ? direction : "none";
      return make("div", { role: "columnheader", class: column.right ? "wb-cell wb-right" : "wb-cell", "aria-sort": sort }, button);
    });
    const focused = [...this.header.children].findIndex((cell) => cell.contains(this.root.getRootNode().activeElement));
    this.header.replaceChildren(...cells);
    if (focused >= 0) this.header.children[focused]?.firstChild.focus();
  }

  drawRows() {
    const first = Math.max(0, Math.floor(this.body.scrollTop / ROW) - 4);
    const last = Math.min(this.order.length, Math.ceil((this.body.scrollTop + this.model.get("height")) / ROW) + 4);
    if (this.shown && this.shown[0] === first && this.shown[1] === last) return;
    this.shown = [first, last];
    const natural = this.model.get("sort").length === 0;
    const rows = [];
    for (let at = first; at < last; at++) rows.push(this.drawRow(at, natural && at > 0));
    this.rows.replaceChildren(...rows);
    const active = this.place.has(this.focus) && this.place.get(this.focus) >= first && this.place.get(this.focus) < last;
    if (active) this.grid.setAttribute("aria-activedescendant", `${this.id}-${this.focus}`);
    else this.grid.removeAttribute("aria-activedescendant");
  }

  drawRow(at, compare) {
    const i = this.order[at];
    const parentOf = (row) => this.names[row].slice(0, this.names[row].lastIndexOf(".") + 1);
    const grouped = compare && parentOf(i) === parentOf(this.order[at - 1]) && parentOf(i) !== "";
    const cells = this.columns.map((column) => {
      const extra = column.id === "name" ? grouped : this.worst;
      return make("div", { role: "gridcell", class: column.right ? "wb-cell wb-right" : "wb-cell" }, column.cell(this.data, i, extra));
    });
    return make(
      "div",
      {
        id: `${this.id}-${i}`,
        class: "wb-row",
        role: "row",
        style: `top:${at * ROW}px`,
        "aria-rowindex": at + 2,
        "aria-selected": String(this.selection.has(i)),
        "data-row": i,
        "data-name": this.names[i],
        "data-dense": String(this.data.decision[i] !== "int4"),
        "data-current": String(i === this.focus),
      },
      ...cells,
    );
  }

  drawChips() {
    this.copy.disabled = this.selection.size === 0 && this.focus < 0;
    this.copy.textContent = this.selection.size > 1 ? `Copy ${this.selection.size} paths` : "Copy path";
    if (!this.names.length) return this.chips.replaceChildren();
    const int4 = this.names.map((_, i) => i).filter((i) => this.data.decision[i] === "int4");
    const chip = (label, rows) => {
      const here = rows.filter((i) => this.place.has(i));
      const pressed = here.length > 0 && here.length === this.selection.size && here.every((i) => this.selection.has(i));
      const pick = (event) => this.choose(event.ctrlKey || event.metaKey ? [...this.selection, ...here] : here);
      const title = `Select ${plural(here.length, "layer")} (Ctrl-click adds to the selection)`;
      const count = make("span", { text: formatCount(here.length) });
      return make("button", { type: "button", class: "wb-chip", title, "aria-pressed": String(pressed), disabled: here.length === 0, onclick: pick }, label, count);
    };
    const clear = make("button", { type: "button", class: "wb-chip wb-clear", text: "Clear", disabled: this.selection.size === 0, onclick: () => this.choose([]) });
    const chips = [["all int4", int4], ...this.quick].map(([label, rows]) => chip(label, rows));
    const focused = [...this.chips.children].indexOf(this.root.getRootNode().activeElement);
    this.chips.replaceChildren(make("span", { class: "wb-label", text: "Select" }), ...chips, clear);
    if (focused >= 0) this.chips.children[focused]?.focus();
  }

  drawTotals() {
    if (!this.names.length) return this.totals.replaceChildren();
    const all = totalsOf(this.data, this.names.map((_, i) => i));
    const picked = totalsOf(this.data, [...this.selection]);
    const hidden = [...this.selection].filter((i) => !this.place.has(i)).length;
    const percent = (share) => `${(Math.floor(1000 * share) / 10).toFixed(1)} %`; // 100 % only when all is covered
    const counts = [plural(all.count, "layer")];
    if (this.order.length < all.count) counts.push(`${formatCount(this.order.length)} shown`);
    if (picked.count) counts.push(`${formatCount(picked.count)} selected${hidden ? ` (${hidden} hidden)` : ""}, ${formatBytes(picked.before)} → ${formatBytes(picked.after)}`);
    const meter = make("span", { class: "wb-meter", role: "img", "aria-label": `int4 covers ${percent(all.coverage)} of the bytes` });
    meter.append(make("span", { style: `width:${100 * all.coverage}%` }));
    const smaller = all.after > 0 ? ` (${(all.before / all.after).toFixed(2)}× smaller)` : "";
    this.totals.replaceChildren(
      make("span", { class: "wb-counts", text: counts.join(" · ") }),
      make(
        "span",
        { class: "wb-coverage" },
        make("span", { text: `int4 covers ${percent(all.coverage)} of bytes` }),
        meter,
        make("b", { text: `${formatBytes(all.before)} → ${formatBytes(all.after)}` }),
        make("span", { class: "wb-smaller", text: smaller }),
      ),
    );
  }

  // --- what the user does -----------------------------------------------------------------------------------------

  sortBy(column) {
    const [id, direction] = this.model.get("sort");
    const first = ["name", "kind", "decision", "status"].includes(column.id) ? "ascending" : "descending";
    const second = first === "ascending" ? "descending" : "ascending";
    const next = id !== column.id ? [column.id, first] : direction === first ? [column.id, second] : [];
    this.model.set("sort", next);
    this.saveLater();
  }

  /** Select exactly these rows. */
  choose(rows, focus = this.focus) {
    this.selection = new Set(rows);
    this.focus = focus;
    const inOrder = [...this.selection].sort((a, b) => a - b);
    this.model.set("selected", inOrder.map((i) => this.names[i]));
    this.model.set("current", focus >= 0 ? this.names[focus] : "");
    this.saveLater();
    this.drawAll();
  }

  between(from, to) {
    const [a, b] = [this.place.get(from) ?? 0, this.place.get(to)].sort((x, y) => x - y);
    return this.order.slice(a, b + 1);
  }

  onClick(event) {
    const row = event.target.closest("[data-row]");
    if (!row || event.button !== 0) return;
    event.preventDefault();
    this.grid.focus({ preventScroll: true });
    this.move(Number(row.dataset.row), event.shiftKey ? "range" : event.ctrlKey || event.metaKey ? "toggle" : "only");
  }

  /** Focus a row and select it alone, toggle it, extend the range to it, or leave the selection. */
  move(row, how) {
    if (how === "range") {
      if (!this.place.has(this.anchor)) this.anchor = row;
      this.choose(this.between(this.anchor, row), row);
    } else {
      this.anchor = row;
      const toggled = new Set(this.selection);
      if (!toggled.delete(row)) toggled.add(row);
      this.choose(how === "only" ? [row] : how === "toggle" ? toggled : this.selection, row);
    }
    this.reveal();
    this.live.textContent = `${this.names[row]}, ${this.data.decision[row] === "int4" ? "int4" : this.data.reason[row]}`;
  }

  reveal() {
    const at = this.place.get(this.focus);
    if (at === undefined) return;
    const height = this.model.get("height");
    if (at * ROW < this.body.scrollTop) this.body.scrollTop = at * ROW;
    else if ((at + 1) * ROW > this.body.scrollTop + height) this.body.scrollTop = (at + 1) * ROW - height;
    this.drawRows();
  }

  onKey(event) {
    if (event.target !== this.grid) return;
    const control = event.ctrlKey || event.metaKey;
    const page = Math.max(1, Math.floor(this.model.get("height") / ROW) - 1);
    const at = this.place.get(this.focus) ?? -1;
    const targets = { ArrowUp: at - 1, ArrowDown: at + 1, PageUp: at - page, PageDown: at + page, Home: 0, End: this.order.length - 1 };
    if (event.key in targets && this.order.length) {
      const row = this.order[clamp(targets[event.key], 0, this.order.length - 1)];
      this.move(row, event.shiftKey ? "range" : control ? "keep" : "only");
    } else if (event.key === " " && this.focus >= 0) this.move(this.focus, "toggle");
    else if (control && event.key.toLowerCase() === "a") this.choose(this.order);
    else if (control && event.key.toLowerCase() === "c") this.copyPaths();
    else if (event.key === "Escape") this.choose([]);
    else if (event.key === "/") this.input.focus();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  async copyPaths() {
    const rows = this.selection.size ? [...this.selection].sort((a, b) => a - b) : this.focus >= 0 ? [this.focus] : [];
    if (!rows.length) return;
    const text = rows.map((i) => this.names[i]).join("\n");
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const area = make("textarea", { class: "wb-hidden" }); // pages that are not served securely have no clipboard
      area.value = text;
      this.root.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
      this.grid.focus({ preventScroll: true });
    }
    this.live.textContent = `Copied ${plural(rows.length, "path")}`;
    this.copy.textContent = "Copied";
  }

  stop() {
    this.stops.forEach((stop) => stop());
    this.root.remove();
  }
}

/** Write changed cells into the model's own columns: every view, also a later one, reads them there. */
function applyUpdate(columns, { index, values }) {
  for (const [id, cells] of Object.entries(values)) {
    columns[id] ??= columns.name.map(() => null);
    index.forEach((row, k) => (columns[id][row] = cells[k]));
  }
}

export default {
  initialize({ model }) {
    model.on("msg:custom", (message) => message.type === "update" && applyUpdate(model.get("columns"), message));
  },
  render({ model, el }) {
    const view = new TableView(model, el);
    return () => view.stop();
  },
};
