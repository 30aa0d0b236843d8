// Numbers as people read them. What nobody knows is "unknown", and never 0.

const GIB = 1024 ** 3;
const TIB = 1024 ** 4;
export const UNKNOWN = "unknown";

const isKnown = (value) => value !== null && value !== undefined && Number.isFinite(value);

/** Bytes in GiB (TiB from 1,000 GiB on). */
export function bytes(value) {
  if (!isKnown(value)) return UNKNOWN;
  if (value >= 1000 * GIB) return `${(value / TIB).toFixed(1)} TiB`;
  return `${(value / GIB).toFixed(1)} GiB`;
}

/** A ratio (0 to 1) in percent; the last half percent before 100 is not rounded up. */
export function percent(ratio) {
  if (!isKnown(ratio)) return UNKNOWN;
  const rounded = ratio < 1 ? Math.min(99, Math.round(ratio * 100)) : Math.round(ratio * 100);
  return `${rounded} %`;
}

const GROUPED = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** A whole number. */
export function count(value) {
  return isKnown(value) ? GROUPED.format(value) : UNKNOWN;
}

/** Seconds, in the unit that fits. */
export function seconds(value) {
  if (!isKnown(value)) return UNKNOWN;
  if (value < 0.0995) return `${Math.round(value * 1000)} ms`;
  if (value < 9.95) return `${value.toFixed(1)} s`;
  if (value < 120) return `${Math.round(value)} s`;
  if (value < 7200) return `${Math.round(value / 60)} min`;
  return `${Math.round(value / 3600)} h`;
}

/** The time of day of a Date, to the second. */
export function clock(date) {
  const two = (number) => String(number).padStart(2, "0");
  return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}

/** "1 request", "2 requests". */
export function counted(number, noun) {
  return `${count(number)} ${noun}${number === 1 ? "" : "s"}`;
}

/** A pod without the namespace that it shares with its model. */
export function shortName(key) {
  return key.slice(key.indexOf("/") + 1);
}

/** "NVIDIA-H100-80GB-HBM3" as "H100 80GB". */
export function product(name) {
  if (!name) return "unknown product";
  return name
    .replace(/^(NVIDIA|AMD|Tesla)[- ]/i, "")
    .replace(/[- ](HBM\d\w?|SXM\d?|PCIe?|NVL)\b/gi, "")
    .replaceAll("-", " ");
}
