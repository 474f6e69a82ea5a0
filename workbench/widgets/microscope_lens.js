// The lens of the microscope: the weights as dots over a rug, and a line from each to its level in one variant.

const LENS = { axis: 20, dots: 56, rug: 8, fan: 62, levels: 14, pad: 10 };
const LENS_HEIGHT = LENS.axis + LENS.dots + LENS.rug + LENS.fan + LENS.levels + 4;
const HALF_STEP = 0.5 + 1e-4; // a weight further from its level than this many steps is beyond the levels

/** The scale that all variants share, from weight units to pixels of a column that is `width` wide. */
function levelScale(weights, variants, width) {
  const all = [0, ...weights, ...variants.flatMap((variant) => variant.levels)];
  const [low, high] = [Math.min(...all), Math.max(...all)];
  const room = Math.max(1, width - 2 * LENS.pad);
  const span = high - low || 1;
  const ticks = linearTicks(low, high, Math.max(5, Math.floor(room / 72))).map((tick) => (Math.abs(tick) < span * 1e-9 ? 0 : tick));
  return { low, high, width, ticks, at: (value) => LENS.pad + ((value - low) / span) * room };
}

/** What a variant makes of each weight: its code, its level, its error, and whether it lies beyond the levels. */
function assignments(weights, variant) {
  return weights.map((weight, i) => {
    const code = parseInt(variant.codes[i], 16);
    const level = variant.levels[code];
    const error = level - weight;
    return { i, weight, code, level, error, beyond: Math.abs(error) > HALF_STEP * variant.scale };
  });
}

/** How many weights take each of the 16 codes. */
function usage(variant) {
  const counts = new Array(16).fill(0);
  for (const digit of variant.codes) counts[parseInt(digit, 16)] += 1;
  return counts;
}

/** Dots of the weights, stacked where they meet, as [x, y, place of the weight]. */
function stackedDots(weights, scale, bottom) {
  const size = 5;
  const columns = new Map();
  const order = weights.map((weight, i) => [scale.at(weight), i]).sort((a, b) => a[0] - b[0]);
  for (const [x, i] of order) {
    const column = Math.round(x / size);
    columns.set(column, [...(columns.get(column) ?? []), i]);
  }
  const highest = Math.max(1, ...[...columns.values()].map((column) => column.length));
  const step = Math.min(size, (LENS.dots - size) / highest);
  return [...columns].flatMap(([column, places]) => places.map((i, level) => [column * size, bottom - size / 2 - level * step, i]));
}

/** Vertical lines of the axis, the one at 0 dashed, from `top` to `bottom`. */
function gridLines(scale, top, bottom) {
  const line = (value, name) => make("svg:line", { class: name, x1: scale.at(value), x2: scale.at(value), y1: top, y2: bottom });
  return [...scale.ticks.filter((tick) => tick !== 0).map((tick) => line(tick, "wb-gridline")), line(0, "wb-at-zero")];
}

/** Ticks of a variant's levels, those in use higher the more weights they hold. */
function levelTicks(variant, scale, bottom, height) {
  const counts = usage(variant);
  const most = Math.max(...counts);
  return variant.levels.map((level, code) => {
    const used = counts[code] > 0;
    const length = used ? height * (0.4 + 0.6 * Math.sqrt(counts[code] / most)) : height * 0.3;
    const at = { x1: scale.at(level), x2: scale.at(level), y1: bottom - length, y2: bottom };
    return make("svg:line", { class: `wb-level${used ? " wb-used" : ""}`, ...at, "data-code": code, "data-count": counts[code] });
  });
}

/** Everything in the lens for one variant; `marked` is the place of the weight that is read, or null. */
function lensParts(weights, variant, scale, marked) {
  const rug = LENS.axis + LENS.dots;
  const [from, to] = [rug + LENS.rug, rug + LENS.rug + LENS.fan];
  const bottom = to + LENS.levels;
  const middle = (from + to) / 2;
  const found = assignments(weights, variant);
  const parts = gridLines(scale, LENS.axis, bottom);
  for (const tick of scale.ticks) {
    parts.push(make("svg:text", { x: scale.at(tick), y: 11, "text-anchor": "middle", text: formatNumber(tick) }));
  }
  const fan = ({ i, weight, level, beyond }) => {
    const [a, b] = [scale.at(weight), scale.at(level)].map((x) => x.toFixed(1));
    const name = `wb-fan${beyond ? " wb-beyond" : ""}${i === marked ? " wb-marked" : ""}`;
    return make("svg:path", { class: name, d: `M${a},${from} C${a},${middle} ${b},${middle} ${b},${to}`, "data-weight": i });
  };
  parts.push(...found.filter(({ i, beyond }) => i !== marked && !beyond).map(fan));
  parts.push(...found.filter(({ i, beyond }) => i !== marked && beyond).map(fan), ...found.filter(({ i }) => i === marked).map(fan));
  for (const { i, weight, beyond } of found) {
    const name = `wb-rug${beyond ? " wb-beyond" : ""}${i === marked ? " wb-marked" : ""}`;
    parts.push(make("svg:line", { class: name, x1: scale.at(weight), x2: scale.at(weight), y1: rug, y2: from }));
  }
  for (const [x, y, i] of stackedDots(weights, scale, rug)) {
    const name = `wb-weight${found[i].beyond ? " wb-beyond" : ""}${i === marked ? " wb-marked" : ""}`;
    parts.push(make("svg:circle", { class: name, cx: x, cy: y, r: i === marked ? 4 : 2.2 }));
  }
  parts.push(make("svg:line", { class: "wb-base", x1: 0, x2: scale.width, y1: bottom, y2: bottom }));
  parts.push(...levelTicks(variant, scale, bottom, LENS.levels));
  return parts;
}
