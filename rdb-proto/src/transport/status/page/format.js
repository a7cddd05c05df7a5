// Numbers as people read them.

// What is not known.
export const NONE = "–";

// How often something happens in a second.
export const rate = (value) => {
  if (value === null || value === undefined) return NONE;
  if (value === 0) return "0";
  if (value < 9.95) return value.toFixed(1);
  if (value < 99_950) return Math.round(value).toLocaleString("en");
  if (value < 999_500) return `${Math.round(value / 1000)}k`;
  return `${(value / 1e6).toFixed(2)}M`;
};

// A duration in seconds, in the unit that fits.
export const seconds = (value) => {
  if (value === null || value === undefined) return NONE;
  if (value === 0) return "0 s";
  if (value < 0.0009995) return `${Math.round(value * 1e6)} µs`;
  if (value < 0.00995) return `${(value * 1e3).toFixed(1)} ms`;
  if (value < 0.9995) return `${Math.round(value * 1e3)} ms`;
  return `${value < 9.95 ? value.toFixed(1) : Math.round(value)} s`;
};

// The same of one in microseconds.
export const micros = (value) => seconds(value === null || value === undefined ? null : value / 1e6);

// Bytes, in the unit that fits.
export const size = (bytes) => {
  if (bytes === null || bytes === undefined) return NONE;
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
  let [amount, unit] = [bytes, 0];
  while (amount >= 1023.5 && unit < units.length - 1) [amount, unit] = [amount / 1024, unit + 1];
  return `${unit === 0 || amount >= 99.95 ? Math.round(amount) : amount.toFixed(1)} ${units[unit]}`;
};

// A whole number, all of it.
export const count = (value) => (value === null || value === undefined ? NONE : value.toLocaleString("en"));

// A number of many things, in millions from one on.
export const about = (value) => (value >= 1e6 ? `${(value / 1e6).toFixed(value < 1e8 ? 1 : 0)}M` : count(value));

// A time in its two largest units.
export const span = (totalSeconds) => {
  const whole = Math.max(0, Math.floor(totalSeconds));
  if (whole < 60) return `${whole}s`;
  if (whole < 3600) return `${Math.floor(whole / 60)}m ${whole % 60}s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)}h ${Math.floor((whole / 60) % 60)}m`;
  return `${Math.floor(whole / 86400)}d ${Math.floor((whole / 3600) % 24)}h`;
};

// In the larger of those.
export const roughly = (totalSeconds) => span(totalSeconds).split(" ")[0];

// A number of things with their name.
export const plural = (number, noun) => `${count(number)} ${noun}${number === 1 ? "" : "s"}`;

// A time of the day, as whoever looks at the page has it.
export function clock(atMs) {
  return new Date(atMs).toLocaleTimeString([], { hourCycle: "h23" });
}
