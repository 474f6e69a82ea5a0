// What stands beside the lines of a chart: a vertical mark, and under the plot a ribbon of what was chosen at each x.

const RIBBON = { height: 18, gap: 7 };

const ribbonRoom = (chart) => (chart.ribbon.length ? RIBBON.height + RIBBON.gap : 0);

/** The reference line, and a vertical one, for instance where two series cross. */
function ruleParts({ reference, mark }, xAxis, yAxis, { left, right, top, bottom }) {
  const parts = [];
  if (reference !== null) parts.push(make("svg:line", { class: "wb-reference", x1: left, x2: right, y1: yAxis.at(reference), y2: yAxis.at(reference) }));
  if (mark !== null) parts.push(make("svg:line", { class: "wb-mark", x1: xAxis.at(mark), x2: xAxis.at(mark), y1: top, y2: bottom }));
  return parts;
}

/** Their names, which stand over the lines: that of the vertical one on the side that has more room. */
function ruleNames(chart, xAxis, yAxis, { left, right, top }) {
  const parts = [];
  if (chart.reference !== null) parts.push(make("svg:text", { class: "wb-reference-name", x: right, y: yAxis.at(chart.reference) - 6, "text-anchor": "end", text: chart.reference_label }));
  if (chart.mark === null) return parts;
  const x = xAxis.at(chart.mark);
  const after = right - x > x - left;
  const place = { x: x + (after ? 7 : -7), y: top + 9, "text-anchor": after ? "start" : "end" };
  return [...parts, make("svg:text", { class: "wb-reference-name wb-mark-name", ...place, text: chart.mark_label })];
}

/** The ribbon: a coloured piece for each choice, named where the name fits, its reach in its tooltip. */
function ribbonParts(chart, axis, frame) {
  const name = chart.ribbon_label;
  const y = frame.bottom + RIBBON.gap;
  const middle = { y: y + RIBBON.height / 2, dy: "0.35em" };
  const parts = ribbonPieces(chart.ribbon, axis, frame).map(({ from, to, label, color, xs }) => {
    const fits = to - from > 6.5 * label.length + 8;
    return make(
      "svg:g",
      { class: "wb-ribbon", style: `color:var(--wb-c${color % 6})`, "data-choice": label, "data-from": xs[0], "data-to": xs[xs.length - 1] },
      make("svg:title", { text: `${name}: ${label} ${between(xs)}` }),
      make("svg:rect", { x: from + 1, y, width: Math.max(1, to - from - 2), height: RIBBON.height, rx: 3 }),
      fits ? make("svg:text", { x: (from + to) / 2, ...middle, "text-anchor": "middle", text: label }) : null,
    );
  });
  if (parts.length) parts.push(make("svg:text", { x: frame.left - 8, ...middle, "text-anchor": "end", text: name }));
  return parts;
}

/** The pieces of a ribbon, neighbours with the same label joined; each reaches half way to the next. */
function ribbonPieces(ribbon, axis, { left, right }) {
  const places = [...ribbon].sort((a, b) => a.x - b.x);
  const at = places.map(({ x }) => axis.at(x));
  const half = (i) => (at[i] + at[i + 1]) / 2;
  const end = at.length - 1;
  const pieces = [];
  places.forEach(({ x, label, color }, i) => {
    const from = i > 0 ? half(i - 1) : Math.max(left, end > 0 ? 2 * at[0] - half(0) : at[0] - 40);
    const to = i < end ? half(i) : Math.min(right, end > 0 ? 2 * at[end] - half(end - 1) : at[0] + 40);
    const last = pieces[pieces.length - 1];
    if (last?.label === label) Object.assign(last, { to, xs: [...last.xs, x] });
    else pieces.push({ label, color, from, to, xs: [x] });
  });
  return pieces;
}

/** "at 4", or "from 4 to 64". */
function between(xs) {
  const [first, last] = [formatNumber(xs[0], 6), formatNumber(xs[xs.length - 1], 6)];
  return xs.length === 1 ? `at ${first}` : `from ${first} to ${last}`;
}
