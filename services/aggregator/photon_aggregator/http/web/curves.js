// Which charts there are, and the columns that each is drawn from.

import { Chart } from "./chart.js";
import { byId, choice, nextFrame } from "./dom.js";
import * as format from "./format.js";
import { PHASES, colourOfPhase, hueOf } from "./hues.js";

const AXES = {
  rounds: { name: "rounds", format: (v) => `round ${Number.isInteger(v) ? v : Math.ceil(v)}`, tick: (v) => Number.isInteger(v) ? String(v) : "" },
  tokens: { name: "tokens", format: (v) => `${format.amount(v)} tokens`, tick: (v) => format.amount(v) },
  time: { name: "time", format: (v) => format.duration(v), tick: (v) => format.duration(v) },
};
const SPANS = [[0, "All"], [200, "Last 200"], [50, "Last 50"]];
const TALL = 250;
const LOW = 150;

export class Curves {
  constructor(feed) {
    this.feed = feed;
    this.axis = "rounds";
    this.span = 0;
    byId("choices").append(
      choice("How many rounds", SPANS, 0, (span) => { this.span = span; this.redraw(); }),
      choice("Horizontal axis", [["rounds", "Rounds"], ["tokens", "Tokens"], ["time", "Time"]], "rounds", (axis) => { this.axis = axis; this.redraw(); }),
    );
    const chart = (id, title, note, options) => new Chart(byId(options.height ? "charts" : "more-charts"),
      { id, title, note, height: LOW, tick: format.tick, ...options });
    // On a small screen the participants come first.
    byId("more").open = matchMedia("(min-width: 761px)").matches;
    this.charts = {
      loss: chart("loss", "Loss", "nats a token", { format: format.loss, height: TALL, wide: true }),
      perplexity: chart("perplexity", "Perplexity", "held-out text of all", { format: format.perplexity, height: TALL, log: true, wide: true }),
      norms: chart("norms", "Norms", "of the mean update and the outer momentum", { format: format.number, zero: true }),
      agreement: chart("agreement", "Agreement", "1: all pull where the mean pulls", { format: format.number }),
      noise: chart("noise", "Gradient noise scale", "tokens; larger batches gain little", { format: format.amount, tick: format.amount, log: true }),
      time: chart("time", "Time of a round", "by phase, slowest participant", { format: format.seconds, tick: (v) => v ? format.seconds(v) : "0", stacked: true, wide: true }),
      bytes: chart("bytes", "Bytes of a round", "all participants", { format: format.bytes, tick: format.bytes, zero: true, wide: true }),
    };
    feed.listen((what) => { if (what === "curves") this.redraw(); });
    this.draw = this.draw.bind(this);
  }

  redraw() { nextFrame(this.draw); }

  draw() {
    const { job, people, live, tail } = this.feed;
    if (!job.length || !live) return;
    const axis = AXES[this.axis];
    const places = this.places();
    const from = this.span ? Math.max(0, places.length - this.span) : 0;
    const rows = [];
    for (let i = from; i < places.length; i += 1) if (places[i] != null) rows.push(i);
    const xs = rows.map((i) => places[i]);
    const pick = (columns, name) => { const column = columns.column(name); return rows.map((i) => column[i] ?? null); };
    const of = (name) => pick(job, name);
    const line = (label, name, colour, options = {}) => ({ label, colour, ys: of(name), ...options });
    const names = live.status.participants.map((p) => p.name);
    const own = (column) => names.filter((name) => people.has(name))
      .map((name) => ({ label: name, colour: hueOf(names, name), ys: pick(people.get(name), column), width: 1 }));
    const show = (name, lines, options = {}) => this.charts[name].show({ axis, xs, lines, ...options });

    const loss = [
      line("validation", "validationLoss", "--ink", { width: 2.25 }),
      line("training", "trainLoss", "--soft", { width: 2 }), ...own("trainLoss"),
    ];
    // The range of all is drawn where they are not all drawn themselves.
    const range = (name) => names.every((n) => people.has(n)) ? null
      : { low: of(`${name}Low`), high: of(`${name}High`), label: "range of participants" };
    this.withTail(axis, xs, loss, range("trainLoss"), tail);
    show("perplexity", [line("of all", "perplexity", "--ink", { width: 2.25 }), ...own("perplexity")],
      { band: range("perplexity") });
    show("norms", [line("update", "pseudoGradientNorm", "--ink"), line("momentum", "momentumNorm", "--s3")]);
    show("agreement", [line("consensus", "consensus", "--ink"), line("pairwise cosine", "pairwiseCosine", "--s3")]);
    show("noise", [line("noise scale", "noiseScale", "--ink")]);
    show("time", PHASES.map((phase) => line(phase, phase, colourOfPhase(phase))));
    show("bytes", [line("sent", "bytesUp", colourOfPhase("push")), line("received", "bytesDown", colourOfPhase("pull"))]);
  }

  // Where each known round is on the axis; null: not known.
  places() {
    const { job } = this.feed;
    if (this.axis === "rounds") return Array.from({ length: job.length }, (_, i) => job.first + i);
    if (this.axis === "tokens") return job.column("tokens");
    const at = job.column("at");
    const start = at.find((t) => t != null) ?? 0;
    return at.map((t) => t == null ? null : t - start);
  }

  // The loss chart goes on within the running round.
  withTail(axis, xs, lines, band, tail) {
    const { job, live } = this.feed;
    const at = job.column("at").find((t) => t != null) ?? live.now;
    const tokens = job.column("tokens").at(-1) ?? 0;
    const place = {
      rounds: (p) => job.last + p.share,
      tokens: (p) => tokens + p.share * live.roundTokens * (live.running?.cohort ?? 1),
      time: (p) => p.at - at,
    }[this.axis];
    const last = xs.at(-1) ?? -Infinity;
    const more = tail.filter((p) => place(p) > last);
    const pad = (ys) => [...ys, ...more.map(() => null)];
    const all = lines.map((l) => ({ ...l, ys: pad(l.ys) }));
    if (more.length) {
      all.splice(2, 0, { label: "training now", colour: "--soft", width: 2, dash: [2, 3], fleeting: true, ys: [...xs.map(() => null), ...more.map((p) => p.loss)], dots: false });
    }
    this.charts.loss.show({
      axis, xs: [...xs, ...more.map(place)], lines: all,
      band: band && { ...band, low: pad(band.low), high: pad(band.high) },
    });
  }
}
