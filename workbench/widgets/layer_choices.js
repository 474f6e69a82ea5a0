// Under the rows: what is picked, in full, and the choices that one click makes of it.

/** The line about the picked weights, and its buttons. */
class ChoiceBar {
  constructor(view) {
    this.view = view;
    this.about = make("div", { class: "wb-about" });
    this.buttons = make("div", { class: "wb-choices", role: "toolbar", "aria-label": "Choices for what is selected" });
    this.said = make("span", { class: "wb-said", role: "status" });
    this.root = make("div", { class: "wb-detail" }, this.about, make("div", { class: "wb-choose" }, this.buttons, this.said));
    this.buttons.addEventListener("keydown", (event) => this.onKey(event));
  }

  /** What a click applies to: the node in focus when its weights are what is selected, else the selection. */
  target() {
    const { view } = this;
    const rows = [...view.selection].sort((a, b) => a - b);
    const item = view.items[view.place.get(view.focus)];
    const whole = item?.node && rows.length === item.rows.length && item.rows.every((i) => view.selection.has(i));
    return { rows, item: whole ? item : null };
  }

  draw() {
    const { view } = this;
    const { rows, item } = this.target();
    const shown = rows.length ? rows : view.focusRow() >= 0 ? [view.focusRow()] : [];
    this.root.hidden = !view.names.length;
    this.about.replaceChildren(...(shown.length ? aboutRows(view, shown, item) : [make("span", { text: view.model.get("group_sizes").length ? "Select layers to see why, and to choose for them (F2 goes to the choices)." : "Select layers to see why." })]));
    this.drawButtons(rows);
  }

  drawButtons(rows) {
    const { view } = this;
    const sizes = view.model.get("group_sizes");
    this.buttons.parentNode.hidden = !sizes.length;
    if (!sizes.length) return;
    const { data } = view;
    const able = rows.filter((i) => view.isAble(i));
    const int4 = able.filter((i) => data.decision[i] === "int4");
    const all = able.length > 0 && int4.length === able.length;
    const sized = all && data.group_size ? new Set(able.map((i) => data.group_size[i])) : new Set();
    const what = plural(able.length, "layer");
    const why = able.length ? "" : rows.length ? "Nothing that is selected can become int4" : "Select layers first";
    const focused = this.root.getRootNode().activeElement?.dataset?.choice;
    const button = (id, text, title, pressed, choice) => {
      const onclick = () => this.choose(choice);
      return make("button", { type: "button", class: "wb-button", "data-choice": id, title: why || title, "aria-pressed": String(pressed), tabindex: -1, disabled: !able.length, onclick, text });
    };
    const group = (size) => button(`g${size}`, String(size), `Make ${what} int4 with groups of ${size} weights`, sized.size === 1 && sized.has(size), { decision: "int4", group_size: size });
    this.buttons.replaceChildren(
      make("span", { class: "wb-label", text: able.length ? `Make ${what}` : "Make" }),
      make(
        "span",
        { class: "wb-joined" },
        button("int4", "int4", `Make ${what} int4 with the settings they had, or the default's`, all, { decision: "int4" }),
        button("dense", "dense", `Leave ${what} in full precision`, able.length > 0 && !int4.length, { decision: "dense" }),
      ),
      make("span", { class: "wb-label", text: "int4 in groups of" }),
      make("span", { class: "wb-joined" }, ...sizes.map(group)),
    );
    const list = [...this.buttons.querySelectorAll("button")];
    const now = list.find((one) => one.dataset.choice === focused);
    (now ?? list[0]).tabIndex = 0;
    now?.focus({ preventScroll: true });
  }

  focus() {
    this.buttons.querySelector("button:not(:disabled)[tabindex='0']")?.focus();
  }

  /** A toolbar is one stop of the tab key; arrows move inside it. */
  onKey(event) {
    if (event.key === "Escape") this.view.grid.focus({ preventScroll: true });
    const list = [...this.buttons.querySelectorAll("button:not(:disabled)")];
    const at = list.indexOf(event.target);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: list.length - 1 }[event.key];
    if (at < 0 || to === undefined) return;
    const next = list[clamp(to, 0, list.length - 1)];
    list.forEach((one) => (one.tabIndex = one === next ? 0 : -1));
    next.focus();
    event.preventDefault();
  }

  choose(choice) {
    const { view } = this;
    const { rows, item } = this.target();
    if (!rows.some((i) => view.isAble(i))) return;
    const whole = item && (!view.filtered || view.countOf(item.node.glob) === rows.length) ? item.node.glob : "";
    this.say("", "");
    view.model.send({ type: "choose", ...choice, rows, glob: whole });
  }

  say(text, kind) {
    this.said.textContent = text;
    this.said.title = text;
    this.said.dataset.kind = kind;
  }
}

/** One weight in full, or several with their reasons counted. */
function aboutRows(view, rows, item) {
  const { data } = view;
  const sum = summaryOf(data, rows);
  const title = rows.length === 1 ? data.name[rows[0]] : item ? item.node.path : plural(rows.length, "weight");
  const facts = [];
  if (rows.length === 1) {
    const i = rows[0];
    facts.push([data.kind?.[i] && kindOf(data.kind[i]), sum.shape].filter(Boolean).join(" "), `${data.decision[i]}: ${data.reason[i]}`);
    if (data.padding?.[i]) facts.push(`padded ${data.padding[i]}`);
  } else {
    facts.push([item && plural(rows.length, "weight"), sum.shape && `each ${sum.shape}`].filter(Boolean).join(", "));
    facts.push(`${formatCount(sum.int4Count)} int4 (${percentOf(sum.coverage)} of bytes)`);
    if (sum.padded) facts.push(`${formatCount(sum.padded)} padded`);
  }
  facts.push(`${bitsText(sum.bits)} bits per weight`, `${formatBytes(sum.before)} → ${formatBytes(sum.after)}`);
  const line = make("div", {}, make("b", { class: "wb-about-name", text: title || "(the model)" }), ` ${facts.filter(Boolean).join(" · ")}`);
  if (rows.length === 1) return [line];
  const reasons = [...sum.reasons].sort((a, b) => b[1] - a[1]);
  const more = reasons.length > 3 ? ` · and ${plural(reasons.length - 3, "other reason")}` : "";
  const said = reasons.slice(0, 3).map(([reason, count]) => `${formatCount(count)} ${reason}`);
  const all = reasons.map(([reason, count]) => `${formatCount(count)} ${reason}`).join("\n");
  return [line, make("div", { class: "wb-about-why", title: all, text: said.join(" · ") + more })];
}

/** What stays dense, by kind and reason; a click selects those weights. */
function denseLine(view) {
  const groups = view.model.get("left_dense");
  const { data } = view;
  const pick = ({ kind, reason }) =>
    view.names.map((_, i) => i).filter((i) => data.decision[i] !== "int4" && (data.kind?.[i] ?? "") === kind && (!reason || data.reason[i] === reason));
  const chip = (group) =>
    make("button", { type: "button", class: "wb-dense-group", title: `${formatBytes(group.size_bytes)}; click to select`, text: group.text, onclick: () => view.pick(pick(group)) });
  return groups.length ? [make("span", { class: "wb-label", text: "Left dense" }), ...groups.map(chip)] : [];
}
