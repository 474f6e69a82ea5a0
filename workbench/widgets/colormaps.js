// Colour maps of 256 entries. Sequential ones are interpolated from control points (matplotlib's, public domain);
// the diverging one is made in OKLCH: lightness is linear on either side, so equal steps look equal.

const CONTROL_POINTS = {
  viridis: "440154 472d7b 3b528b 2c728e 21918c 28ae80 5ec962 addc30 fde725",
  magma: "000004 1c1044 4f127b 812581 b5367a e55064 fb8761 fec287 fcfdbf",
};
const COLOR_NAMES = { auto: "Automatic", viridis: "Viridis", magma: "Magma", diverging: "Diverging" };

function sequentialTable(name) {
  const points = CONTROL_POINTS[name].split(" ").map((hex) => [0, 2, 4].map((i) => parseInt(hex.slice(i, i + 2), 16)));
  return Array.from({ length: 256 }, (_, code) => {
    const at = (code / 255) * (points.length - 1);
    const left = Math.min(points.length - 2, Math.floor(at));
    return points[left].map((channel, i) => channel + (points[left + 1][i] - channel) * (at - left));
  });
}

/** OKLCH to sRGB 0..255 (Ottosson 2020), clipped to the gamut. */
function fromOklch(lightness, chroma, hue) {
  const a = chroma * Math.cos((hue * Math.PI) / 180);
  const b = chroma * Math.sin((hue * Math.PI) / 180);
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  const linear = [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ];
  return linear.map((x) => 255 * clamp(x <= 0.0031308 ? 12.92 * x : 1.055 * Math.max(x, 0) ** (1 / 2.4) - 0.055, 0, 1));
}

/** Blue below zero, orange above; the middle is the page's own lightness. */
function divergingTable(dark) {
  const [middle, end] = dark ? [0.22, 0.86] : [0.97, 0.42];
  return Array.from({ length: 256 }, (_, code) => {
    const t = code / 127.5 - 1;
    const size = Math.abs(t);
    const chroma = 0.15 * Math.sin((Math.PI / 2) * Math.min(1, size * 1.15)) * (1 - 0.25 * size);
    return fromOklch(middle + (end - middle) * size, chroma, t < 0 ? 255 : 45);
  });
}

const TABLES = new Map();

function colorTable(name, dark) {
  const key = name === "diverging" ? `diverging-${dark}` : name;
  if (!TABLES.has(key)) TABLES.set(key, name === "diverging" ? divergingTable(dark) : sequentialTable(name));
  return TABLES.get(key);
}

/** How codes 0..255 of a payload stand for values, linear or logarithmic. */
function makeScale({ lo, hi, log }) {
  const to = log ? Math.log : (x) => x;
  const from = log ? Math.exp : (x) => x;
  const [low, high] = [to(lo), to(hi)];
  return {
    lo,
    hi,
    log,
    signed: !log && lo < 0 && hi > 0,
    at: (fraction) => from(low + (high - low) * fraction),
    value: (code) => from(low + ((high - low) * code) / 255),
    fraction: (value) => (log && value <= 0 ? 0 : clamp((to(value) - low) / (high - low), 0, 1)),
  };
}

/** The colour of each code as [r, g, b], under colour limits and a threshold (values below it fade). */
function codeColors(scale, name, dark, limits, threshold, paper, reversed = false) {
  const diverging = name === "diverging" || (name === "auto" && scale.signed);
  const table = colorTable(diverging ? "diverging" : name === "auto" ? "viridis" : name, dark);
  const [from, to] = limits.map(scale.fraction);
  const reach = Math.max(Math.abs(limits[0]), Math.abs(limits[1]));
  return Array.from({ length: 256 }, (_, code) => {
    const value = scale.value(code);
    const t = diverging && scale.signed ? 0.5 + (0.5 * value) / reach : (code / 255 - from) / Math.max(1e-9, to - from);
    const place = Math.round(255 * clamp(t, 0, 1));
    const color = table[reversed && !diverging ? 255 - place : place];
    const faded = threshold !== null && (scale.signed ? Math.abs(value) : value) < threshold;
    return faded ? color.map((channel, i) => paper[i] + (channel - paper[i]) * 0.1) : color;
  });
}
