// Buttons of the command-only widget: says "ready" once shown, and marks each click until its reply is there.

class CommandsView {
  constructor(model, el) {
    this.model = model;
    this.root = card(el, "wb-commands");
    this.row = make("div", { class: "wb-buttons", role: "group", "aria-label": "Commands", tabindex: -1 });
    this.text = make("span", { class: "wb-reply", role: "status" });
    this.root.append(this.row, this.text);
    this.waiting = new Map();
    this.clicks = 0;
    this.mine = Math.random().toString(36).slice(2);
    this.stops = [followTheme(this.root, () => {}), () => this.waiting.forEach(({ timer }) => clearTimeout(timer))];
    model.on("change:buttons", () => this.draw());
    model.on("msg:custom", (message) => this.receive(message));
    this.draw();
    model.send({ type: "ready" });
  }

  draw() {
    const active = this.root.getRootNode().activeElement;
    const focused = this.row.contains(active) ? active.dataset.command : null;
    const wanted = this.model.get("buttons");
    const kept = this.row.children.length === wanted.length && wanted.every(({ id }, at) => this.row.children[at].dataset.command === id);
    // Kept where they are: a button that is replaced between press and release loses the click.
    if (!kept) this.row.replaceChildren(...wanted.map(({ id }) => make("button", { type: "button", class: "wb-button", "data-command": id, onclick: () => this.click(id) })));
    wanted.forEach(({ id, label, tooltip, kind, enabled }, at) => {
      const button = this.row.children[at];
      Object.assign(button, { textContent: label, title: tooltip, disabled: !enabled });
      button.dataset.kind = kind;
      button.setAttribute("aria-busy", String([...this.waiting.values()].some((wait) => wait.id === id)));
    });
    if (!focused) return;
    const same = this.row.querySelector(`[data-command="${CSS.escape(focused)}"]:enabled`);
    (same ?? this.row).focus(); // of a button that is gone, its row keeps the keyboard's place
  }

  click(id) {
    const { label } = this.model.get("buttons").find((button) => button.id === id);
    const click = `${this.mine}-${(this.clicks += 1)}`;
    const timer = setTimeout(() => this.say(`${label}: waiting for the kernel…`, "waiting"), 1500);
    this.waiting.set(click, { id, timer });
    this.model.send({ type: "command", command: id, click });
    this.draw();
  }

  receive(message) {
    if (message.type === "ready") this.root.dataset.ready = "true";
    const wait = message.type === "reply" ? this.waiting.get(message.click) : undefined;
    if (!wait) return;
    clearTimeout(wait.timer);
    this.waiting.delete(message.click);
    this.root.dataset.replied = message.command;
    this.say(message.text, message.ok ? "done" : "failed");
    this.draw();
  }

  /** Show a reply; one that worked goes away by itself, one that failed stays until the next click. */
  say(text, kind) {
    clearTimeout(this.fade);
    if (kind === "done" && text) this.fade = setTimeout(() => this.say("", kind), 6000);
    this.text.textContent = text;
    this.text.dataset.kind = kind;
    this.text.title = text;
  }

  stop() {
    clearTimeout(this.fade);
    this.stops.forEach((stop) => stop());
    this.root.remove();
  }
}

export default {
  render({ model, el }) {
    const view = new CommandsView(model, el);
    return () => view.stop();
  },
};
