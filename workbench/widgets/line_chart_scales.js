// Scales, ticks and marker shapes of the line chart.

const MARGIN = { left: 68, right: 18, top: 14, bottom: 44 };

const TRANSFORMS = { linear: (v) => v, log2: Math.log2, log10: Math.log10 };

/** A scale from values to pixels, with its ticks. */
function makeAxis(kind, low, high, from, to, ticks) {
  const transform = TRANSFORMS[kind];
  const [a, b] = [transform(low), transform(high)];
  return { ticks, at: (value) => from + ((transform(value) - a) / (b - a || 1)) * (to - from) };
}

function xAxis(chart, values, from, to) {
  const all = [...new Set([...chart.x_ticks, ...values])].sort((a, b) => a - b);
  let [low, high] = [all[0] ?? 1, all[all.length - 1] ?? 64];
  if (low === high) [low, high] = chart.x_scale === "log2" ? [low / 2, high * 2] : [low - 1, high + 1];
  const fits = Math.max(2, Math.floor((to - from) / 44));
  const skip = Math.ceil(all.length / fits);
  const round = chart.x_scale === "linear" && !chart.x_ticks.length && all.length > fits;
  const ticks = round ? linearTicks(low, high, fits) : all.filter((_, i) => i % skip === 0);
  const inset = Math.min(24, (to - from) * 0.04);
  return makeAxis(chart.x_scale, low, high, from + inset, to - inset, ticks);
}

function yAxis(chart, values, from, to) {
  const all = chart.reference === null ? values : [...values, chart.reference];
  const most = Math.max(2, Math.floor((from - to) / 44));
  const [least, greatest] = [Math.min(...all), Math.max(...all)];
  if (chart.y_scale === "linear" && !chart.y_from_zero) return fittedAxis(least, greatest, from, to, most);
  if (chart.y_scale === "linear") {
    const low = Math.min(0, least);
    const step = niceStep((greatest - low || 1) * 1.04, most);
    const [bottom, top] = [Math.floor(low / step) * step, Math.ceil((greatest * 1.04) / step) * step || step];
    return makeAxis("linear", bottom, top, from, to, linearTicks(bottom, top, most));
  }
  if (chart.y_scale === "log2") {
    const [low, high] = [Math.floor(Math.log2(least / 1.05)), Math.ceil(Math.log2(greatest * 1.05))];
    const stride = Math.max(1, Math.ceil((high - low) / most));
    const ticks = [];
    for (let p = low; p <= high; p += stride) ticks.push(2 ** p);
    return makeAxis("log2", 2 ** low, 2 ** Math.max(high, low + 1), from, to, ticks);
  }
  const [low, high] = [least / 1.3, greatest * 1.3];
  return makeAxis("log10", low, high, from, to, logTicks(low, high, most));
}

/** A linear axis around values that are near each other, of 2 % of them at least, so that its labels differ. */
function fittedAxis(least, greatest, from, to, most) {
  const low = Math.min(least, greatest - 0.02 * Math.abs(greatest));
  const step = niceStep((greatest - low || 1) * 1.1, most);
  const bottom = Math.floor((low - 0.05 * (greatest - low)) / step);
  const top = Math.max(bottom + 1, Math.ceil((greatest + 0.05 * (greatest - low)) / step));
  const ticks = Array.from({ length: top - bottom + 1 }, (_, i) => (bottom + i) * step);
  return makeAxis("linear", bottom * step, top * step, from, to, ticks);
}

/** A marker's outline around (x, y): each series has its own shape, for those who cannot tell the colours apart. */
function markerPath(place, x, y, size = 4.5) {
  const s = size * 0.9;
  const shapes = [
    `M${x - size},${y} a${size},${size} 0 1,0 ${2 * size},0 a${size},${size} 0 1,0 ${-2 * size},0 z`,
    `M${x - s},${y - s} h${2 * s} v${2 * s} h${-2 * s} z`,
    `M${x},${y - size * 1.25} l${size * 1.2},${size * 2.1} h${-2.4 * size} z`,
    `M${x},${y - size * 1.3} l${size * 1.3},${size * 1.3} l${-size * 1.3},${size * 1.3} l${-size * 1.3},${-size * 1.3} z`,
    `M${x},${y + size * 1.25} l${size * 1.2},${-size * 2.1} h${-2.4 * size} z`,
    `M${x - s},${y - s * 0.35} h${2 * s} v${0.7 * s} h${-2 * s} z`,
  ];
  return shapes[place % shapes.length];
}

/** The points of a series that have a value. */
function pointsOf(series) {
  return series.x
    .map((x, i) => ({ x, y: series.y[i], low: series.low[i], high: series.high[i], detail: series.detail[i] ?? "" }))
    .filter((point) => point.y !== null);
}
