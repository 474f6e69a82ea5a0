// The layer table: only the rows in view are in the page, whatever the model's size.

let tableCount = 0;

class TableView extends TableRows {
  constructor(model, el) {
    super();
    this.model = model;
    this.root = card(el, "wb-layers");
    this.id = `wb-layers-${(tableCount += 1)}`;
    this.turns = new Turns(model, () => this.adopt());
    this.selection = new Set();
    this.current = -1; // the row on show
    this.items = [];
    this.place = new Map();
    this.focus = this.anchor = ""; // keys of items
    this.open = { all: null, filtered: null }; // keys of the open nodes
    this.saveLater = lateSaver(model, 50);
    this.showUpdate = whenReleased(this.root, () => this.refresh(true));
    this.build();
    this.stops = [
      followTheme(this.root, () => {}),
      followWidth(this.body, () => this.layout()),
      () => cancelAnimationFrame(this.frame),
      () => cancelAnimationFrame(this.later),
      () => this.saveLater.flush(),
      () => this.showUpdate.stop(),
    ];
    model.on("change:columns", () => this.take());
    model.on("change:fold", () => (this.open = { all: null, filtered: null }));
    model.on("change:filter change:sort change:tree change:fold", () => this.refresh());
    model.on("change:selected change:current", () => this.adopt());
    model.on("change:height change:error_label change:show_totals change:left_dense", () => this.layout());
    model.on("change:group_sizes change:able_kinds", () => this.drawAll());
    model.on("msg:custom", (message) => this.receive(message));
    this.take();
  }

  build() {
    const onFilter = () => {
      this.model.set("filter", this.input.value);
      this.saveLater();
    };
    const flip = (trait) => () => {
      this.model.set(trait, !this.model.get(trait));
      this.saveLater();
    };
    const tip = "Words, kind:norm, reason:tied, globs (*.q_proj) and patterns (re:layers\\.[0-3]\\.) that must all match; ! negates";
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
    this.treeButton = make("button", { class: "wb-button", type: "button", text: "Tree", title: "Show the layers by module", onclick: flip("tree") });
    this.foldButton = make("button", { class: "wb-button", type: "button", text: "Fold alike", title: "Show parts that differ by an index alone once", onclick: flip("fold") });
    this.problem = make("p", { class: "wb-problem", role: "alert", hidden: true });
    this.chips = make("div", { class: "wb-chips", role: "group", "aria-label": "Quick selection" });
    this.header = make("div", { class: "wb-row wb-columns", role: "row", "aria-rowindex": 1 });
    this.rows = make("div", { class: "wb-rows", role: "rowgroup" });
    // What scrolls would be a stop of the tab key of its own, which does nothing.
    const scrolls = { class: "wb-body", tabindex: -1, onscroll: () => this.drawSoon(), onfocus: () => this.grid.focus({ preventScroll: true }) };
    this.body = make("div", scrolls, this.rows);
    this.empty = make("div", { class: "wb-empty" });
    this.grid = make(
      "div",
      { class: "wb-grid", role: "grid", tabindex: 0, "aria-label": "Layers", "aria-multiselectable": "true", "aria-keyshortcuts": "F2 /" },
      make("div", { role: "rowgroup", class: "wb-top" }, this.header),
      this.body,
      this.empty,
    );
    this.totals = make("div", { class: "wb-totals" });
    this.dense = make("div", { class: "wb-dense", role: "group", "aria-label": "Left dense, by reason" });
    this.bar = new ChoiceBar(this);
    this.live = make("div", { class: "wb-hidden", "aria-live": "polite" });
    this.grid.addEventListener("keydown", (event) => this.onKey(event));
    this.rows.addEventListener("mousedown", (event) => this.onClick(event));
    const head = make("div", { class: "wb-head" }, this.input, this.treeButton, this.foldButton, this.copy);
    this.root.append(head, this.problem, this.chips, this.grid, this.bar.root, this.totals, this.dense, this.live);
  }

  // --- data -------------------------------------------------------------------------------------------------------

  take() {
    const before = this.names?.join("\n") ?? "";
    const [focus, rows] = [this.focus, this.items[this.place.get(this.focus)]?.rows ?? []];
    this.data = this.model.get("columns");
    this.names = this.data.name ?? [];
    this.indexOf = new Map(this.names.map((name, i) => [name, i]));
    this.quick = this.names.length ? quickSelections(this.data, 9) : [];
    const others = this.names.join("\n") !== before;
    if (others) {
      this.focus = this.anchor = "";
      this.open = { all: null, filtered: null };
    }
    this.bar.say("", ""); // what was said is of the rows before
    if (others || !this.turns.waiting) this.readSelection();
    this.refresh();
    if (this.focus === focus && focus && !this.place.has(focus)) this.find(rows);
  }

  receive(message) {
    if (message.type === "said") this.bar.say(message.text, message.ok ? "done" : "failed");
    if (message.type !== "update") return;
    cancelAnimationFrame(this.later);
    this.later = requestAnimationFrame(() => this.showUpdate());
  }

  readSelection() {
    const rows = this.model.get("selected").map((name) => this.indexOf.get(name));
    this.selection = new Set(rows.filter((row) => row !== undefined));
    this.current = this.indexOf.get(this.model.get("current")) ?? -1;
    const item = this.items[this.place.get(this.focus)];
    const held = item?.node && item.rows.includes(this.current); // a node on the way to it
    if (!held) this.focus = this.names[this.current] ?? "";
    if (!this.anchor) this.anchor = this.focus;
  }

  /** Take over a selection that Python made, or made of the page's; what is the same is not drawn again. */
  adopt() {
    if (this.turns.waiting) return;
    const [focus, current, selection] = [this.focus, this.current, this.selection];
    this.readSelection();
    if (this.focus && !this.place.has(this.focus)) this.focus = this.nearest(this.indexOf.get(this.focus));
    const same = this.selection.size === selection.size && [...selection].every((i) => this.selection.has(i));
    if (same && this.focus === focus && this.current === current) return;
    if (this.focus !== focus) this.reveal();
    this.drawAll();
  }

  /** The key of the innermost node in view above a weight. */
  nearest(row) {
    const path = pathTo(this.roots ?? [], row).filter((node) => this.place.has(node.key));
    return path.at(-1)?.key ?? "";
  }

  /** Focus the part of a changed tree that holds these weights, and open what is above it. */
  find(rows) {
    if (!rows.length || !this.roots) return;
    const path = pathTo(this.roots, rows[0]);
    const at = Math.max(0, path.findLastIndex((node) => rows.every((i) => node.rows.includes(i))));
    path.slice(0, at).forEach((node) => this.openKeys().add(node.key));
    this.focus = this.anchor = path[at]?.key ?? "";
    this.showItems();
    this.layout();
    this.reveal();
  }

  isAble(i) {
    return this.model.get("able_kinds").includes(this.data.kind?.[i]);
  }

  /** How many of the weights that were summed up can become int4. */
  ableIn(sum) {
    const able = this.model.get("able_kinds");
    return this.data.kind ? [...sum.kinds].reduce((count, [kind, of]) => count + (able.includes(kind) ? of : 0), 0) : sum.count;
  }

  /** How many weights of the whole model a glob finds. */
  countOf(glob) {
    const pattern = new RegExp(`^${glob.split("*").map((text) => text.replace(/[.+?^${}()|[\]\\]/g, "\\$&")).join(".*")}$`);
    return this.names.filter((name) => pattern.test(name)).length;
  }

  focusRow() {
    return this.items[this.place.get(this.focus)]?.row ?? -1;
  }

  fields(i) {
    const { data } = this;
    return { kind: data.kind?.[i], decision: data.decision[i], reason: data.reason[i], padding: data.padding?.[i], status: data.status?.[i] };
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
    this.filtered = Boolean(text.trim()) && !filter.error;
    this.matching = this.filtered ? all.filter((i) => filter.test(this.names[i], this.fields(i))) : all;
    this.roots = this.model.get("tree") ? buildTree(this.data, this.matching, this.model.get("fold")) : null;
    if (text !== this.lastText) this.open.filtered = null;
    this.lastText = text;
    this.worst = Math.max(0, ...(this.data.error ?? []).filter((value) => typeof value === "number"));
    this.showItems();
    if (!live) this.body.scrollTop = Math.min(this.body.scrollTop, this.items.length * ROW);
    this.layout();
  }

  /** Keys of the open nodes; a filter has its own, so that the tree is as it was when it is gone. */
  openKeys() {
    const kind = this.filtered ? "filtered" : "all";
    return (this.open[kind] ??= openUntilFull(this.roots, Math.floor(this.model.get("height") / ROW)));
  }

  /** Make the list of what can be scrolled to, from the rows or from the open part of the tree. */
  showItems() {
    const sort = this.model.get("sort");
    if (this.roots) {
      const open = this.openKeys();
      this.items = visibleItems(this.roots, open, nodeOrder(this.data, sort));
      for (const item of this.items) item.open = Boolean(item.node.kids) && open.has(item.key);
    } else {
      this.items = sortRows(this.matching, this.data, sort).map((row) => ({ key: this.names[row], row, rows: [row] }));
    }
    this.place = new Map(this.items.map((item, at) => [item.key, at]));
    this.matchingSet = new Set(this.matching);
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

  /** Select exactly these rows; what is shown of a node is the layer that was, or its first in int4. */
  choose(rows, focus = this.focus) {
    this.selection = new Set(rows);
    this.focus = focus;
    const item = this.items[this.place.get(focus)];
    if (item && !item.rows.includes(this.current)) {
      this.current = item.row >= 0 ? item.row : (item.rows.find((i) => this.data.decision[i] === "int4") ?? item.rows[0]);
    }
    this.turns.send({ type: "select", rows: [...this.selection].sort((a, b) => a - b), current: this.current });
    this.drawAll();
  }

  /** Select rows from outside of the list, and show the first of them. */
  pick(rows) {
    this.choose(rows);
    const row = rows.find((i) => this.matchingSet.has(i));
    if (row === undefined) return;
    if (this.roots) this.find([row]);
    else this.focus = this.names[row];
    this.choose(rows, this.focus);
    this.reveal();
  }

  between(from, to) {
    const [a, b] = [this.place.get(from) ?? 0, this.place.get(to)].sort((x, y) => x - y);
    return this.items.slice(a, b + 1).flatMap((item) => item.rows);
  }

  itemAt(event) {
    const row = event.target.closest("[data-at]");
    return row ? this.items[Number(row.dataset.at)] : undefined;
  }

  onClick(event) {
    const item = this.itemAt(event);
    if (!item || event.button !== 0) return;
    event.preventDefault();
    this.grid.focus({ preventScroll: true });
    const second = event.detail === 2 && !event.shiftKey && !event.ctrlKey && !event.metaKey; // a click redraws its row
    if (event.target.closest("[data-twisty]") || (second && item.node?.kids)) this.toggle(item);
    else this.move(item, event.shiftKey ? "range" : event.ctrlKey || event.metaKey ? "toggle" : "only");
  }

  /** Open or close a node; `wanted` leaves it alone when it is so already. */
  toggle(item, wanted = !item?.open) {
    if (!item?.node?.kids || item.open === wanted) return;
    if (wanted) this.openKeys().add(item.key);
    else this.openKeys().delete(item.key);
    if (!wanted && this.isBelow(this.items[this.place.get(this.focus)], item)) this.focus = this.anchor = item.key;
    this.showItems();
    this.layout();
    this.live.textContent = `${item.node.path} ${wanted ? "opened" : "closed"}`;
  }

  isBelow(item, above) {
    for (let at = item?.parent; at; at = at.parent) if (at.key === above.key) return true;
    return false;
  }

  /** Focus an item and select it alone, toggle it, extend the range to it, or leave the selection. */
  move(item, how) {
    if (how === "range") {
      if (!this.place.has(this.anchor)) this.anchor = item.key;
      this.choose(this.between(this.anchor, item.key), item.key);
    } else {
      this.anchor = item.key;
      const toggled = new Set(this.selection);
      const on = item.rows.every((i) => toggled.has(i));
      for (const i of item.rows) on ? toggled.delete(i) : toggled.add(i);
      this.choose(how === "only" ? item.rows : how === "toggle" ? toggled : this.selection, item.key);
    }
    this.reveal();
    const { row } = item;
    const said = row >= 0 ? (this.data.decision[row] === "int4" ? "int4" : this.data.reason[row]) : plural(item.rows.length, "weight");
    this.live.textContent = `${row >= 0 ? this.names[row] : item.node.path}, ${said}`;
  }

  reveal() {
    const at = this.place.get(this.focus);
    if (at === undefined) return;
    const height = this.height;
    if (at * ROW < this.body.scrollTop) this.body.scrollTop = at * ROW;
    else if ((at + 1) * ROW > this.body.scrollTop + height) this.body.scrollTop = (at + 1) * ROW - height;
    this.drawRows();
  }

  /** What the arrows to the sides do in the tree: open and go in, close and go out. */
  onSide(item, inward) {
    const opens = inward !== item.open;
    if (item.node.kids && opens) this.toggle(item, inward);
    else if (!inward && item.parent) this.move(item.parent, "only");
    else if (inward && item.node.kids) this.move(this.items[this.place.get(item.key) + 1], "only");
  }

  onKey(event) {
    if (event.target !== this.grid) return;
    const control = event.ctrlKey || event.metaKey;
    const page = Math.max(1, Math.floor(this.height / ROW) - 1);
    const at = this.place.get(this.focus) ?? -1;
    const item = this.items[at];
    const targets = { ArrowUp: at - 1, ArrowDown: at + 1, PageUp: at - page, PageDown: at + page, Home: 0, End: this.items.length - 1 };
    if (event.key in targets && this.items.length) {
      const next = this.items[clamp(targets[event.key], 0, this.items.length - 1)];
      this.move(next, event.shiftKey ? "range" : control ? "keep" : "only");
    } else if (item?.node && (event.key === "ArrowRight" || event.key === "ArrowLeft")) this.onSide(item, event.key === "ArrowRight");
    else if (item?.node && event.key === "Enter") this.toggle(item);
    else if (event.key === " " && item) this.move(item, "toggle");
    else if (control && event.key.toLowerCase() === "a") this.choose(this.matching);
    else if (control && event.key.toLowerCase() === "c") this.copyPaths();
    else if (event.key === "Escape") this.choose([]);
    else if (event.key === "/") this.input.focus();
    else if (event.key === "F2") this.bar.focus();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  async copyPaths() {
    const rows = this.selection.size ? [...this.selection].sort((a, b) => a - b) : this.focusRow() >= 0 ? [this.focusRow()] : [];
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
