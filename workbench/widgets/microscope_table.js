// The table of the microscope: variants by domain or by error, each with its levels, errors, bits and where 0 lands.

const DOMAIN_NAMES = {
  float: "float zero point, in weight units",
  int: "int zero point, one of the 16 codes",
  symmetric: "symmetric, no zero point",
};
const ERROR_COLUMNS = [
  ["rms", "RMS error"],
  ["mean_abs", "Mean |error|"],
  ["max_abs", "Largest |error|"],
];
const COLUMNS = [...ERROR_COLUMNS, ["bits", "Bits"], ["zero_level", "0 lands at"]];
const SUPERSCRIPTS = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };

/** The setting is said only where it is a choice. */
const preservesZero = (variant) => variant.domain === "float" && variant.preserve_zero;

function variantName(variant) {
  return `${variant.domain} · ${variant.solver}${preservesZero(variant) ? " · preserve_zero" : ""}`;
}

/** The power of ten that all errors are shown in: that of the least RMS error, or 0 where plain numbers will do. */
function errorPower(variants) {
  const least = Math.min(...variants.map((variant) => variant.rms).filter((rms) => rms > 0));
  const power = Number.isFinite(least) ? Math.floor(Math.log10(least)) : 0;
  return power < -2 || power > 4 ? power : 0;
}

/** As many decimals for every error as give the least one three digits, so that the columns line up. */
function errorText(value, { power, decimals }) {
  return (value / 10 ** power).toFixed(decimals);
}

function errorDecimals(variants, power) {
  const least = Math.min(...variants.flatMap((variant) => ERROR_COLUMNS.map(([key]) => variant[key])).filter((error) => error > 0));
  return Number.isFinite(least) ? clamp(2 - Math.floor(Math.log10(least / 10 ** power)), 0, 4) : 0;
}

const powerText = (power) => (power === 0 ? "" : `×10${[...String(power)].map((digit) => SUPERSCRIPTS[digit]).join("")}`);

/** Variants in the order of the table: sections of [heading or "", variants]. */
function inSections(variants, sort) {
  if (sort.key === "domain") {
    const domains = [...new Set(variants.map(({ domain }) => domain))];
    return domains.map((domain) => [DOMAIN_NAMES[domain] ?? domain, variants.filter((variant) => variant.domain === domain)]);
  }
  const value = (variant) => Math.abs(variant[sort.key]);
  const sorted = [...variants].sort((a, b) => (value(a) - value(b)) * (sort.descending ? -1 : 1));
  return [["", sorted]];
}

/** The least value of each error, and of bits; a tie marks all that share it. */
function bestOf(variants) {
  return Object.fromEntries([...ERROR_COLUMNS.map(([key]) => key), "bits"].map((key) => [key, Math.min(...variants.map((variant) => variant[key]))]));
}

function errorCell(variant, key, shape, best) {
  const [value, ratio] = [variant[key], variant[`${key}_ratio`]];
  const text = errorText(value, shape);
  const against = variant.solver === "rtn" ? "" : ratio === null ? "rtn is exact" : `${ratio < 9.9995 ? ratio.toFixed(3) : formatNumber(ratio)}×`;
  const leads = value === best[key];
  return make(
    "td",
    { "data-column": key, "data-best": leads, title: `${formatNumber(value, 5)} weight units` },
    make("span", { text }),
    leads ? make("span", { class: "wb-hidden", text: " (best)" }) : null,
    make("small", { text: against, "data-tone": ratio !== null && ratio < 0.9995 ? "good" : null }),
  );
}

function zeroCell(variant) {
  const exact = variant.zero_level === 0;
  return make("td", { "data-column": "zero_level", "data-exact": exact, text: exact ? "exact" : formatNumber(variant.zero_level, 2) });
}

/** What a variant says of itself beside its ticks, for those who cannot see them. */
function levelsText(variant) {
  const used = usage(variant).filter((count) => count > 0).length;
  const [first, last] = [variant.levels[0], variant.levels[15]].map((level) => formatNumber(level));
  return `${used} of 16 levels in use, from ${first} to ${last}`;
}
