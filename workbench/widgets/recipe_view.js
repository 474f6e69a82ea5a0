// The recipe: rules on one side, everything else that it is on the other.

class RecipeView {
  constructor(model, el) {
    this.model = model;
    this.root = card(el, "wb-recipe");
    this.turns = 0;
    this.mine = Math.random().toString(36).slice(2);
    this.waiting = new Map();
    const act = (action, args, done) => this.act(action, args, done);
    this.hint = make("span", { class: "wb-hint" });
    const head = make("div", { class: "wb-head" }, make("h3", { class: "wb-title", text: "Recipe" }), this.hint);
    this.rules = new RecipeRules(model, act);
    this.panes = new RecipePanes(model, act);
    this.root.append(head, make("div", { class: "wb-recipe-sides" }, this.rules.node, this.panes.node));
    this.stops = [followTheme(this.root, () => {}), () => this.panes.stop()];
    model.on("change:summary", () => this.draw());
    model.on("msg:custom", (message) => this.receive(message));
    this.draw();
  }

  draw() {
    this.hint.textContent = this.model.get("summary");
  }

  act(action, args, done) {
    const turn = `${this.mine}-${(this.turns += 1)}`;
    this.waiting.set(turn, done);
    this.root.dataset.turn = this.turns;
    this.model.send({ type: "do", action, turn, ...args });
  }

  receive(message) {
    if (message.type !== "reply" || !this.waiting.has(message.turn)) return;
    const done = this.waiting.get(message.turn);
    this.waiting.delete(message.turn);
    done(message);
    this.root.dataset.answered = message.turn.split("-")[1];
  }

  stop() {
    this.stops.forEach((stop) => stop());
    this.root.remove();
  }
}

export default {
  render({ model, el }) {
    const view = new RecipeView(model, el);
    return () => view.stop();
  },
};
