// Figures as the terminal writes them (photon/terminal/units.py; tests/cli/test_figures.py compares both): three
// significant digits, SI units, a dash for nothing.

const NONE = "–";
const SI = ["", "k", "M", "G", "T", "P"];

function scaled(value) {
  let i = 0;
  while (Math.abs(value) >= 999.5 && i < SI.length - 1) { value /= 1000; i += 1; }
  const digits = Math.abs(value) >= 99.95 ? 0 : Math.abs(value) >= 9.995 ? 1 : 2;
  return [value.toFixed(digits), SI[i]];
}

export function bytes(value) {
  if (value == null) return NONE;
  if (value < 1000) return `${value.toFixed(0)} B`;
  const [number, prefix] = scaled(value);
  return `${number} ${prefix}B`;
}

export function amount(value) {
  if (value == null) return NONE;
  return Math.abs(value) < 1000 ? value.toFixed(0) : scaled(value).join("");
}

export function duration(value) {
  if (value == null) return NONE;
  const whole = Math.max(0, Math.round(value));
  const hours = Math.floor(whole / 3600), minutes = Math.floor(whole / 60) % 60, rest = whole % 60;
  const two = (n) => String(n).padStart(2, "0");
  if (hours >= 48) return `${Math.floor(hours / 24)} d ${two(hours % 24)} h`;
  return hours ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`;
}

export const loss = (value) => value == null ? NONE : value.toFixed(3);

export function perplexity(value) {
  if (value == null) return NONE;
  if (value < 1000) return value.toFixed(2);
  return value >= 1e5 ? value.toExponential(2).replace(/\+(\d)$/, "+0$1") : value.toFixed(0);
}

export const percent = (value) => value == null ? NONE : `${(100 * value).toFixed(1)} %`;

export const seconds = (value) => value == null ? NONE
  : value < 9.95 ? `${value.toFixed(value < 0.95 ? 2 : 1)} s` : value < 90 ? `${value.toFixed(0)} s` : duration(value);

export function number(value) {
  if (value == null) return NONE;
  if (value === 0) return "0";
  const size = Math.abs(value);
  return size >= 1e5 || size < 1e-3 ? value.toExponential(2) : String(Number(value.toPrecision(4)));
}

// Ticks of an axis: no more digits than they need.
export const tick = (value) => value == null ? "" : Math.abs(value) >= 1e4 ? amount(value) : String(Number(value.toPrecision(6)));

const clockFormat = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const dayFormat = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric" });
const HALF_DAY = 12 * 3600 * 1000;

// A time of day; with the date when that is not plain.
export function clock(at) {
  const date = at instanceof Date ? at : new Date(at);
  if (Number.isNaN(date.getTime())) return NONE;
  const time = clockFormat.format(date);
  return Math.abs(Date.now() - date.getTime()) < HALF_DAY ? time : `${dayFormat.format(date)} ${time}`;
}

// RoundsDone -> rounds done
export const words = (name) => String(name ?? "").replace(/([a-z])([A-Z])/g, "$1 $2").toLowerCase();
