// The legend of the heat map: how the cells' values are distributed, their colours, and three handles to drag
// (upper limit, lower limit, threshold). Everything happens in the browser.

const LEGEND = { width: 148, hist: 46, bar: 14 };

/** `view` has scale, codes, colors, limits, threshold, unit, height; `change(name, value or null)` is told of drags. */
function makeLegend(change) {
  const svg = make("svg:svg", { class: "wb-legend", width: LEGEND.width });
  let view = null;
  const y = (value) => (1 - view.scale.fraction(value)) * view.height;
  const valueAt = (clientY) => {
    const top = svg.getBoundingClientRect().top;
    return view.scale.at(clamp(1 - (clientY - top) / view.height, 0, 1));
  };

  function histogram() {
    const bins = Math.min(128, Math.max(16, Math.floor(view.height / 3)));
    const counts = new Float64Array(bins);
    for (const code of view.codes) counts[Math.min(bins - 1, (code * bins) >> 8)] += 1;
    const most = Math.sqrt(Math.max(...counts)) || 1;
    const step = view.height / bins;
    return Array.from(counts, (count, i) => {
      const width = count === 0 ? 0 : Math.max(1, (Math.sqrt(count) / most) * LEGEND.hist);
      const top = view.height - (i + 1) * step;
      const [r, g, b] = view.colors[Math.min(255, Math.round(((i + 0.5) * 256) / bins))];
      // The middle of a diverging map is the page's own colour, so its bars are grey.
      const fill = view.scale.signed ? "var(--wb-fg3)" : `rgb(${r | 0},${g | 0},${b | 0})`;
      return make("svg:rect", { x: LEGEND.hist + 10 - width, y: top, width, height: Math.max(0.5, step - 0.5), fill });
    });
  }

  function bar() {
    const steps = 64;
    const step = view.height / steps;
    const x = LEGEND.hist + 12;
    const parts = Array.from({ length: steps }, (_, i) => {
      const [r, g, b] = view.colors[Math.round(((i + 0.5) * 255) / steps)];
      const top = view.height - (i + 1) * step;
      return make("svg:rect", { x, y: top, width: LEGEND.bar, height: step + 0.5, fill: `rgb(${r | 0},${g | 0},${b | 0})` });
    });
    const frame = { x: x - 0.5, y: -0.5, width: LEGEND.bar + 1, height: view.height + 1 };
    return [...parts, make("svg:rect", { ...frame, class: "wb-legend-frame" })];
  }

  function ticks() {
    const { lo, hi, log } = view.scale;
    const most = Math.max(2, Math.floor(view.height / 40));
    const x = LEGEND.hist + 12 + LEGEND.bar;
    return (log ? logTicks(lo, hi, most) : linearTicks(lo, hi, most)).flatMap((value) => [
      make("svg:line", { x1: x, x2: x + 4, y1: y(value), y2: y(value), class: "wb-tick" }),
      make("svg:text", { x: x + 14, y: y(value), dy: "0.35em", text: formatNumber(value) }),
    ]);
  }

  function handle(name, label, value, points, x) {
    const at = y(value);
    const node = make("svg:g", {
      class: `wb-handle wb-handle-${name}`,
      tabindex: 0,
      role: "slider",
      "aria-label": label,
      "aria-orientation": "vertical",
      "aria-valuemin": view.scale.lo,
      "aria-valuemax": view.scale.hi,
      "aria-valuenow": value,
      "aria-valuetext": `${formatNumber(value)} ${view.unit}`,
    });
    node.append(
      make("svg:title", { text: `${label}: ${formatNumber(value)} ${view.unit} (drag, or arrow keys; double-click to reset)` }),
      make("svg:rect", { x: x - 4, y: at - 9, width: 18, height: 18, class: "wb-handle-hit" }),
      make("svg:path", { d: points(at) }),
    );
    node.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      const move = (e) => change(name, valueAt(e.clientY));
      const up = () => {
        removeEventListener("pointermove", move);
        svg.querySelector(`.wb-handle-${name}`)?.focus({ preventScroll: true });
      };
      addEventListener("pointermove", move);
      addEventListener("pointerup", up, { once: true });
    });
    node.addEventListener("dblclick", () => change(name, null));
    node.addEventListener("keydown", (event) => {
      const step = { ArrowUp: 0.01, ArrowDown: -0.01, PageUp: 0.1, PageDown: -0.1 }[event.key];
      if (step === undefined && event.key !== "Delete") return;
      event.preventDefault();
      event.stopPropagation();
      change(name, step === undefined ? null : view.scale.at(clamp(view.scale.fraction(value) + step, 0, 1)));
      svg.querySelector(`.wb-handle-${name}`)?.focus({ preventScroll: true });
    });
    return node;
  }

  function handles() {
    const right = LEGEND.hist + 12 + LEGEND.bar;
    const left = (at) => `M${right + 1},${at} l8,-5 v10 z`;
    const arrow = (at) => `M9,${at} l-8,-5 v10 z`;
    const parked = view.scale.signed ? 0 : view.scale.lo;
    const parts = [
      handle("high", "Upper colour limit", view.limits[1], left, right),
      handle("low", "Lower colour limit", view.limits[0], left, right),
      handle("threshold", "Threshold", view.threshold ?? parked, arrow, 0),
    ];
    if (view.threshold !== null) {
      const at = y(view.threshold);
      parts.unshift(make("svg:line", { x1: 9, x2: right, y1: at, y2: at, class: "wb-threshold" }));
    }
    return parts;
  }

  function draw(next) {
    view = next;
    const focused = [...(svg.getRootNode().activeElement?.classList ?? [])].find((name) => name.startsWith("wb-handle-"));
    svg.setAttribute("height", view.height);
    const name = `${view.unit}${view.scale.log ? " (log scale)" : ""}`;
    const turned = `translate(${LEGEND.width - 8},${view.height / 2}) rotate(90)`;
    const label = make("svg:text", { class: "wb-axis-name", transform: turned, "text-anchor": "middle", text: name });
    svg.replaceChildren(...histogram(), ...bar(), ...ticks(), label, ...handles());
    if (focused) svg.querySelector(`.${focused}`)?.focus({ preventScroll: true });
  }

  return { svg, draw };
}
