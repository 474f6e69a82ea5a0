// The running job with its bar, problems with their mend, and the log of what has ended.

class StatusView {
  constructor(model, el) {
    this.model = model;
    this.root = card(el, "wb-status");
    this.label = make("span", { class: "wb-job-label" });
    this.text = make("span", { class: "wb-job-text" });
    this.bar = make("div", { class: "wb-bar", role: "progressbar", "aria-valuemin": 0, "aria-valuemax": 100 }, make("i"));
    this.line = make("div", { class: "wb-job", role: "status" }, this.label, this.text);
    this.problems = make("div", { class: "wb-problems", role: "alert" });
    this.lines = make("ol", { class: "wb-log-lines" });
    this.logName = make("summary");
    this.log = make("details", { class: "wb-log" }, this.logName, this.lines);
    this.root.append(make("div", { class: "wb-now" }, this.line, this.log), this.bar, this.problems);
    this.stops = [followTheme(this.root, () => {})];
    model.on("change:job", () => this.drawJob());
    model.on("change:problems", () => this.drawProblems());
    model.on("change:log", () => this.drawLog());
    this.log.addEventListener("toggle", () => this.drawLog());
    this.drawJob();
    this.drawProblems();
    this.drawLog();
  }

  drawJob() {
    const job = this.model.get("job");
    const running = ["waiting", "running", "cancelling"].includes(job.state);
    this.root.dataset.state = job.state ?? "idle";
    this.label.textContent = job.label ?? "Idle";
    this.text.textContent = job.text ?? "nothing runs";
    this.bar.hidden = !running;
    this.bar.dataset.unknown = job.fraction === null;
    this.bar.firstChild.style.width = `${100 * (job.fraction ?? 0)}%`;
    this.bar.setAttribute("aria-valuenow", Math.round(100 * (job.fraction ?? 0)));
    this.bar.setAttribute("aria-label", job.label ?? "Progress");
  }

  drawProblems() {
    const problems = this.model.get("problems");
    this.problems.hidden = problems.length === 0;
    const dismiss = make("button", { type: "button", class: "wb-button", text: "Dismiss", onclick: () => this.model.send({ type: "dismiss" }) });
    const items = problems.map(({ title, text, details }) =>
      make(
        "div",
        { class: "wb-problem" },
        make("b", { text: title }),
        make("span", { text }),
        details ? make("details", {}, make("summary", { text: "Traceback" }), make("pre", { text: details })) : null,
      ),
    );
    this.problems.replaceChildren(make("div", { class: "wb-problem-list" }, ...items), dismiss);
  }

  drawLog() {
    const log = this.model.get("log");
    this.log.hidden = log.length === 0;
    this.logName.textContent = `Log (${log.length})`;
    if (!this.log.open) return;
    const lines = log.map(({ at, label, kind, text, details, times }) =>
      make(
        "li",
        { "data-kind": kind },
        make("time", { text: at }),
        make("b", { text: label }),
        make("span", { text: times > 1 ? `${text} (${times} times)` : text }),
        details ? make("details", {}, make("summary", { text: "Traceback" }), make("pre", { text: details })) : null,
      ),
    );
    this.lines.replaceChildren(...lines);
  }

  stop() {
    this.stops.forEach((stop) => stop());
    this.root.remove();
  }
}

export default {
  render({ model, el }) {
    const view = new StatusView(model, el);
    return () => view.stop();
  },
};
