// How the layer table looks: header, the rows in view, chips, totals. It reads the state that TableView keeps.

const ROW = 28;
const WIDE = 1900; // pixels from which the table has a column of its own (theme.css)
const AROUND_ROWS = 840; // pixels of what is seen with it there

const SAYS_WHY = 130; // pixels of a column in which a reason is more than its first word

class TableRows {
  layout() {
    const width = this.body.clientWidth;
    const wide = this.root.closest(".wb-app")?.clientWidth >= WIDE;
    this.height = Math.max(this.model.get("height"), wide ? innerHeight - AROUND_ROWS : 0);
    this.body.style.height = `${this.height}px`;
    const tree = Boolean(this.roots);
    this.grid.setAttribute("role", tree ? "treegrid" : "grid");
    this.grid.setAttribute("aria-rowcount", this.items.length + 1);
    this.rows.style.height = `${this.items.length * ROW}px`;
    this.columns = this.names.length ? fittingColumns(this.data, width - 24, tree) : [];
    this.grid.setAttribute("aria-colcount", this.columns.length);
    const sizes = this.columns.map((column) => `minmax(${column.width}px, ${column.grow ?? 0}fr)`);
    this.grid.style.setProperty("--wb-columns", sizes.join(" "));
    this.grid.style.setProperty("--wb-bar-room", `${this.body.offsetWidth - width}px`);
    this.empty.textContent = this.names.length ? "No layer matches the filter." : "No layers to show yet.";
    this.empty.hidden = this.items.length > 0;
    this.totals.hidden = this.dense.hidden = !this.model.get("show_totals");
    this.treeButton.setAttribute("aria-pressed", String(tree));
    this.foldButton.setAttribute("aria-pressed", String(this.model.get("fold")));
    this.foldButton.hidden = !tree;
    this.drawHeader();
    this.drawAll();
  }

  drawAll() {
    this.shown = null;
    this.drawRows();
    this.drawChips();
    this.drawTotals();
    this.bar.draw();
  }

  has(id) {
    return this.columns.some((column) => column.id === id);
  }

  /** Whether a decision has the room to say why, and no column of its own does. */
  saysWhy() {
    const [decision] = this.columns.flatMap((column, at) => (column.id === "decision" ? [this.header.children[at]] : []));
    return !this.has("reason") && decision?.clientWidth >= SAYS_WHY;
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
    const last = Math.min(this.items.length, Math.ceil((this.body.scrollTop + this.height) / ROW) + 4);
    if (this.shown && this.shown[0] === first && this.shown[1] === last) return;
    this.shown = [first, last];
    const natural = this.model.get("sort").length === 0;
    const rows = [];
    for (let at = first; at < last; at++) rows.push(this.drawRow(at, natural && at > 0));
    this.rows.replaceChildren(...rows);
    const at = this.place.get(this.focus);
    if (at >= first && at < last) this.grid.setAttribute("aria-activedescendant", `${this.id}-${at}`);
    else this.grid.removeAttribute("aria-activedescendant");
  }

  drawRow(at, compare) {
    const item = this.items[at];
    const { row, node } = item;
    const parentOf = ({ key }) => key.slice(0, key.lastIndexOf(".") + 1);
    item.grouped = !node && compare && parentOf(item) === parentOf(this.items[at - 1]) && parentOf(item) !== "";
    if (node && row < 0) node.sum ??= summaryOf(this.data, node.rows);
    const cells = this.columns.map((column) => {
      const content = row >= 0 ? column.cell(this.data, row, this, item) : column.sum(node.sum, this, item);
      return make("div", { role: "gridcell", class: column.right ? "wb-cell wb-right" : "wb-cell" }, content);
    });
    const picked = item.rows.filter((i) => this.selection.has(i)).length;
    const place = node ? { "aria-level": item.level, "aria-posinset": item.pos, "aria-setsize": item.size, "aria-expanded": node.kids ? String(item.open) : null } : {};
    return make(
      "div",
      {
        id: `${this.id}-${at}`,
        class: "wb-row",
        role: "row",
        style: `top:${at * ROW}px`,
        "aria-rowindex": at + 2,
        "aria-selected": String(picked === item.rows.length),
        ...place,
        "data-at": at,
        "data-name": row >= 0 ? this.names[row] : node.path,
        "data-glob": node?.glob,
        "data-some": picked > 0 && picked < item.rows.length,
        "data-dense": String(item.rows.every((i) => this.data.decision[i] !== "int4")),
        "data-current": String(item.key === this.focus),
      },
      ...cells,
    );
  }

  drawChips() {
    this.copy.disabled = this.selection.size === 0 && this.focusRow() < 0;
    this.copy.textContent = this.selection.size > 1 ? `Copy ${this.selection.size} paths` : "Copy path";
    if (!this.names.length) return this.chips.replaceChildren();
    const int4 = this.names.map((_, i) => i).filter((i) => this.data.decision[i] === "int4");
    const chip = (label, rows) => {
      const here = rows.filter((i) => this.matchingSet.has(i));
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
    const hidden = [...this.selection].filter((i) => !this.matchingSet.has(i)).length;
    const counts = [plural(all.count, "layer")];
    if (this.matching.length < all.count) counts.push(`${formatCount(this.matching.length)} shown`);
    if (picked.count) counts.push(`${formatCount(picked.count)} selected${hidden ? ` (${hidden} hidden)` : ""}, ${formatBytes(picked.before)} → ${formatBytes(picked.after)}`);
    const meter = make("span", { class: "wb-meter", role: "img", "aria-label": `int4 covers ${percentOf(all.coverage)} of the bytes` });
    meter.append(make("span", { style: `width:${100 * all.coverage}%` }));
    const smaller = all.after > 0 ? ` (${(all.before / all.after).toFixed(2)}× smaller)` : "";
    this.dense.replaceChildren(...denseLine(this));
    this.totals.replaceChildren(
      make("span", { class: "wb-counts", text: counts.join(" · ") }),
      make(
        "span",
        { class: "wb-coverage" },
        make("span", { text: `int4 covers ${percentOf(all.coverage)} of bytes` }),
        meter,
        make("b", { text: `${formatBytes(all.before)} → ${formatBytes(all.after)}` }),
        make("span", { class: "wb-smaller", text: smaller }),
      ),
    );
  }
}
