// One chart: a canvas by uPlot, and below its title what every line says now, or where the cursor stands.
//
// The cursor moves by mouse, by touch and by the arrow keys, and over all charts at once.

import { element, mark, say } from "./dom.js";

const colours = new Map();
export function colour(name) {
  if (!colours.has(name)) colours.set(name, getComputedStyle(document.documentElement).getPropertyValue(name).trim());
  return colours.get(name);
}

const charts = new Set();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  colours.clear();
  for (const chart of charts) chart.plot?.redraw(false);
});

// The cursor of every chart to a place on the horizontal axis, or away.
function moveAll(x) {
  for (const { plot } of charts) plot?.setCursor(x == null ? { left: -10, top: -10 } : { left: plot.valToPos(x, "x"), top: 1 }, true, false);
}

const FONT = "11px system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif";
const LOG_FROM = 6; // a range of this many times its least is easier to read on a logarithmic axis
const POINTS_UP_TO = 40;

// The largest number of one significant digit that is not above: where a logarithmic axis has a tick.
const downTo = (value) => { const unit = 10 ** Math.floor(Math.log10(value)); return Math.floor(value / unit) * unit; };

const latest = (column, at) => {
  let i = Math.min(at ?? column.length - 1, column.length - 1);
  while (i > 0 && column[i] == null) i -= 1;
  return column[i];
};

export class Chart {
  // format: of a value; zero: the axis begins at 0; stacked: areas upon each other; log: where the range is wide.
  constructor(place, { id, title, note, format, tick, height, wide = false, zero = false, stacked = false, log = false }) {
    Object.assign(this, { format, tick: tick ?? format, height, zero, stacked, log });
    this.title = title;
    this.plot = null;
    this.key = null;
    this.visible = false;
    this.stale = false;
    this.keys = element("ul", { class: "keys" });
    this.where = element("span", { class: "where soft" });
    this.canvas = element("div", { class: "canvas", tabindex: "0", role: "img" });
    this.empty = element("p", { class: "empty" }, "nothing yet");
    this.figure = element("figure", { class: wide ? "card wide" : "card", id: `chart-${id}` },
      element("figcaption", {}, element("b", {}, title), element("span", { class: "soft note" }, note), this.where), this.keys, this.canvas, this.empty);
    this.canvas.style.height = `${height}px`;
    this.canvas.addEventListener("keydown", (event) => this.press(event));
    this.canvas.addEventListener("blur", () => moveAll(null));
    place.append(this.figure);
    charts.add(this);
    new ResizeObserver(() => this.resize()).observe(this.canvas);
    new IntersectionObserver(([entry]) => {
      this.visible = entry.isIntersecting;
      if (this.visible && this.stale) this.draw();
    }, { rootMargin: "200px" }).observe(this.figure);
  }

  // axis: {format, tick}; lines: [{label, colour, ys, dash, width, dots, fleeting}], the most important first; band:
  // {low, high, label}, drawn behind them. What is fleeting is not counted as a point of the history.
  show({ axis, xs, lines, band = null }) {
    const some = (ys) => ys.some((y) => y != null);
    this.axis = axis;
    this.lines = lines.filter((line) => some(line.ys));
    this.band = band && this.lines.length && some(band.low) ? band : null;
    this.xs = xs;
    const count = (ys) => ys.reduce((n, y) => n + (y != null), 0);
    mark(this.figure, "data-points", Math.max(0, ...this.lines.map((line) => line.fleeting ? 0 : count(line.ys))));
    mark(this.empty, "hidden", this.lines.length ? "" : null);
    mark(this.canvas, "hidden", this.lines.length ? null : "");
    this.stale = true;
    if (this.visible) this.draw();
  }

  draw() {
    this.stale = false;
    if (!this.lines.length) return this.drop();
    const data = this.data();
    const log = this.log && this.isWide();
    const key = JSON.stringify([log, this.axis.name, !!this.band, this.lines.map((l) => [l.label, l.colour, l.dash, l.dots])]);
    if (key !== this.key) {
      this.drop();
      this.key = key;
      this.legend();
      this.plot = new window.uPlot(this.options(log), data, this.canvas);
    } else {
      this.plot.setData(data);
    }
    this.read(null);
  }

  drop() {
    this.plot?.destroy();
    this.plot = null;
    this.key = null;
    this.keys.replaceChildren();
  }

  data() {
    if (!this.stacked) return [this.xs, ...(this.band ? [this.band.high, this.band.low] : []), ...this.lines.map((l) => l.ys).reverse()];
    const known = this.xs.map((_, i) => this.lines.some((line) => line.ys[i] != null));
    const sums = [];
    for (const line of this.lines) sums.push(line.ys.map((y, i) => known[i] ? (y ?? 0) + (sums.at(-1)?.[i] ?? 0) : null));
    return [this.xs, ...sums.reverse()];
  }

  isWide() {
    let low = Infinity, high = -Infinity;
    for (const line of this.lines) for (const y of line.ys) if (y != null) { low = Math.min(low, y); high = Math.max(high, y); }
    return low > 0 && high / low > LOG_FROM;
  }

  options(log) {
    const axis = { stroke: () => colour("--soft"), font: FONT, ticks: { show: false }, grid: { stroke: () => colour("--grid"), width: 1 } };
    const thin = this.xs.length > POINTS_UP_TO;
    // The first line is the most important: it is drawn last, over the others. Of a stack it is the lowest area.
    const order = [...this.lines].reverse();
    const series = order.map((line) => ({
      label: line.label,
      stroke: () => colour(line.colour),
      width: this.stacked ? 0 : line.width ?? 1.5,
      dash: line.dash,
      fill: this.stacked ? () => colour(line.colour) : undefined,
      // What a round took fills its place on the axis; between two rounds there is nothing to slope.
      paths: this.stacked ? window.uPlot.paths.stepped({ align: -1 }) : undefined,
      spanGaps: true,
      points: { show: line.dots ?? (!this.stacked && !thin), size: line.dots ? 3 : 4, fill: () => colour(line.colour) },
    }));
    const edge = { stroke: () => "transparent", width: 0, points: { show: false }, spanGaps: true };
    const range = (_, low, high) => {
      if (low == null) return [0, 1];
      if (log) return [downTo(low), high * 1.06];
      const from = this.zero || this.stacked ? Math.min(0, low) : low;
      const room = (high - from || Math.abs(high) || 1) * 0.07;
      return [from === 0 ? 0 : from - room, high + room];
    };
    return {
      width: this.canvas.clientWidth, height: this.height, padding: [8, 16, 0, 0],
      scales: { x: { time: false, range: (_, low, high) => low === high ? [low - 0.5, high + 0.5] : [low, high] }, y: log ? { distr: 3, range } : { range } },
      axes: [
        { ...axis, size: 24, gap: 4, space: 56, values: (_, values) => values.map((v) => this.axis.tick(v)) },
        { ...axis, size: 52, gap: 6, space: 32, values: (_, values) => values.map((v) => v == null ? "" : this.tick(v)) },
      ],
      series: [{}, ...(this.band ? [edge, edge] : []), ...series],
      bands: this.band ? [{ series: [1, 2], fill: () => colour("--band") }] : [],
      cursor: { sync: { key: "photon" }, y: false, drag: { x: false, y: false }, points: { size: 6 } },
      legend: { show: false },
      hooks: { setCursor: [(plot) => this.read(plot.cursor.idx)] },
    };
  }

  legend() {
    this.said = this.lines.map((line) => {
      const value = element("span", { class: "value" });
      const swatch = element("i", { class: `swatch ${this.stacked ? "block" : line.dash ? "dashed" : ""}` });
      swatch.style.color = `var(${line.colour})`;
      return [value, element("li", {}, swatch, line.label, " ", value)];
    });
    const items = this.said.map(([, item]) => item);
    if (this.band) {
      const swatch = element("i", { class: "swatch band" });
      const value = element("span", { class: "value" });
      this.saidBand = value;
      items.push(element("li", {}, swatch, this.band.label, " ", value));
    }
    this.keys.replaceChildren(...items);
  }

  // Say what the lines are at a place; null: at their ends.
  read(at) {
    if (!this.plot) return;
    say(this.where, at == null ? "" : this.axis.format(this.xs[at]));
    this.lines.forEach((line, i) => say(this.said[i][0], this.format(latest(line.ys, at))));
    if (this.band) say(this.saidBand, `${this.format(latest(this.band.low, at))} … ${this.format(latest(this.band.high, at))}`);
    // Screen readers say the label of what has the focus when it changes.
    if (at == null || document.activeElement === this.canvas) {
      const all = this.lines.slice(0, 12).map((line) => `${line.label} ${this.format(latest(line.ys, at))}`).join(", ");
      mark(this.canvas, "aria-label", at == null ? `${this.title}: ${all}. Arrow keys read single rounds.` : `${this.axis.format(this.xs[at])}: ${all}`);
    }
  }

  press(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    if (!this.plot || step == null) return;
    event.preventDefault();
    const last = this.xs.length - 1;
    const from = this.plot.cursor.idx ?? (step < 0 ? last + 1 : -1);
    const at = Math.max(0, Math.min(last, from + step));
    moveAll(this.xs[at]);
  }

  resize() {
    const width = this.canvas.clientWidth;
    if (this.plot && width > 0 && Math.abs(width - this.plot.width) > 1) this.plot.setSize({ width, height: this.height });
  }
}
