// A tab list. The app around it carries the selected id, and theme.css hides the parts of the other tabs.

class TabsView {
  constructor(model, el) {
    this.model = model;
    this.root = card(el, "wb-tabs");
    this.list = make("div", { class: "wb-tab-list", role: "tablist", "aria-label": "Parts of the workbench" });
    this.list.addEventListener("keydown", (event) => this.key(event));
    this.root.append(this.list);
    this.stops = [followTheme(this.root, () => {})];
    model.on("change:tabs change:badges", () => this.draw());
    model.on("change:selected", () => this.draw());
    this.draw();
    this.settle(60);
  }

  /** The app is around us once the page has put us in its place: look for it for some frames. */
  settle(frames) {
    if (this.stopped || this.show() || frames === 0) return;
    requestAnimationFrame(() => this.settle(frames - 1));
  }

  show() {
    const app = this.root.closest(".wb-app");
    if (!app) return false;
    const selected = this.model.get("selected");
    app.dataset.tab = selected;
    for (const { id, label } of this.model.get("tabs"))
      for (const part of app.querySelectorAll(`.wb-on-${CSS.escape(id)}`)) {
        part.setAttribute("role", "tabpanel");
        part.setAttribute("aria-label", label);
      }
    return true;
  }

  draw() {
    const focused = this.list.contains(this.root.getRootNode().activeElement);
    const selected = this.model.get("selected");
    const badges = this.model.get("badges");
    const buttons = this.model.get("tabs").map(({ id, label, tooltip }) =>
      make(
        "button",
        {
          type: "button",
          class: "wb-tab",
          role: "tab",
          "data-tab": id,
          "aria-selected": String(id === selected),
          tabindex: id === selected ? "0" : "-1",
          title: tooltip || null,
          onclick: () => this.select(id),
        },
        make("span", { text: label }),
        badges[id] ? make("span", { class: "wb-badge", text: badges[id] }) : null,
      ),
    );
    this.list.replaceChildren(...buttons);
    if (focused) this.list.querySelector('[aria-selected="true"]')?.focus();
    this.show();
  }

  select(id) {
    this.model.set("selected", id);
    this.model.save_changes();
    this.draw();
  }

  key(event) {
    const ids = this.model.get("tabs").map(({ id }) => id);
    const at = ids.indexOf(this.model.get("selected"));
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: ids.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    this.select(ids[(to + ids.length) % ids.length]);
    this.list.querySelector('[aria-selected="true"]')?.focus();
  }

  stop() {
    this.stopped = true;
    this.stops.forEach((stop) => stop());
    this.root.remove();
  }
}

export default {
  render({ model, el }) {
    const view = new TabsView(model, el);
    return () => view.stop();
  },
};
