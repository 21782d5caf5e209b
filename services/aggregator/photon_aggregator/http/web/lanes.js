// A lane for each participant: what it is doing now, how its time in this round was spent so far, and its figures.

import { byId, element, mark, nextFrame, say, width } from "./dom.js";
import * as format from "./format.js";
import { PHASES, colourOfPhase, hueOf } from "./hues.js";

const LANE_PHASES = PHASES.filter((phase) => !["merge", "commit"].includes(phase));

// As many participants as have their curves drawn without being asked for; more would be a thicket.
const CHOSEN_AT_FIRST = 6;
// More than these do not fit a screen: the list gets a bar of its own, and begins with those in trouble.
const MANY = 24;
const WITH_STEP = new Set(["Training", "Pushing", "Checking", "Submitted", "Refused"]);
const TROUBLED = new Set(["Absent", "Refused", "Late"]);

const COLUMNS = [
  ["step", "Step", (p, live) => WITH_STEP.has(p.state) ? `${p.step} / ${live.localSteps}` : "–"],
  ["speed", "Tokens/s", (p) => format.amount(p.tokensPerSecond)],
  ["loss", "Loss", (p) => format.loss(p.loss)],
  ["perplexity", "Perplexity", (p) => format.perplexity(p.perplexity)],
  ["mfu", "MFU", (p) => format.percent(p.mfu)],
  ["memory", "Memory", (p) => format.bytes(p.memoryBytes)],
  ["sent", "Sent", (p) => format.bytes(p.bytesUp)],
  ["received", "Received", (p) => format.bytes(p.bytesDown)],
  ["round", "Last round", (p) => p.lastRound == null ? "–" : String(p.lastRound)],
  ["seen", "Seen", (p) => p.lastSeenSeconds == null ? "never" : p.lastSeenSeconds < 2.5 ? "now" : `${format.duration(p.lastSeenSeconds)} ago`],
];

class Lane {
  constructor(name, hue, pressed, choose) {
    this.swatch = element("i", { class: "swatch" });
    this.swatch.style.color = `var(${hue})`;
    this.button = element("button", { type: "button", class: "name", "aria-pressed": pressed, title: "Show or hide its curves" }, this.swatch, element("span", {}, name));
    this.button.addEventListener("click", () => choose(name));
    this.state = element("td", { role: "cell", class: "state" });
    this.track = element("div", { class: "track", role: "img" });
    this.segments = LANE_PHASES.map((phase) => {
      const segment = element("span", { class: "segment" });
      segment.style.background = `var(${colourOfPhase(phase)})`;
      this.track.append(segment);
      return [phase, segment];
    });
    this.cells = COLUMNS.map(([key, label, get]) => {
      const cell = element("td", { role: "cell", class: `number ${key}`, "data-label": label });
      return [get, cell];
    });
    // Roles are written out: a small screen shows rows as blocks, which would take them away.
    this.row = element("tr", { role: "row", class: "lane" }, element("th", { role: "rowheader", scope: "row" }, this.button), this.state,
      element("td", { role: "cell", class: "time" }, this.track), ...this.cells.map(([, cell]) => cell));
    this.reason = element("td", { role: "cell", colspan: 3 + COLUMNS.length });
    this.why = element("tr", { role: "row", class: "why", hidden: "" }, this.reason);
    this.body = element("tbody", { role: "rowgroup", "data-participant": name }, this.row, this.why);
  }

  show(p, live, scale) {
    say(this.state, format.words(p.state));
    mark(this.body, "data-state", p.state);
    mark(this.body, "data-idle", p.inCohort ? null : "");
    const spent = live.phases[p.name] ?? {};
    let text = "";
    for (const [phase, segment] of this.segments) {
      const seconds = spent[phase] ?? 0;
      width(segment, (100 * seconds) / scale);
      if (seconds >= 0.05) text += `${text ? ", " : ""}${phase} ${format.seconds(seconds)}`;
    }
    mark(this.track, "aria-label", text || "nothing yet in this round");
    mark(this.track, "title", text || null);
    for (const [get, cell] of this.cells) say(cell, get(p, live));
    const why = [p.reason, p.message].filter(Boolean).join(": ");
    say(this.reason, why);
    mark(this.why, "hidden", why ? null : "");
  }

  press(pressed) { mark(this.button, "aria-pressed", String(pressed)); }
}

export class Lanes {
  constructor(feed) {
    this.feed = feed;
    this.lanes = new Map();
    this.names = [];
    const head = byId("lanes-table").tHead.rows[0];
    const titles = [["", "Participant"], ["state", "State"], ["time", "Time in this round"], ...COLUMNS.map(([key, label]) => [`number ${key}`, label])];
    head.append(...titles.map(([kind, label]) => element("th", { scope: "col", class: kind }, label)));
    byId("phases").append(...LANE_PHASES.filter((phase) => phase !== "wait").map((phase) => {
      const swatch = element("i", { class: "swatch block" });
      swatch.style.color = `var(${colourOfPhase(phase)})`;
      return element("li", {}, swatch, phase);
    }));
    this.show = this.show.bind(this);
    feed.listen((what) => { if (what === "live") nextFrame(this.show); });
  }

  show() {
    const { live } = this.feed;
    const people = live.status.participants;
    const names = people.map((p) => p.name);
    if (names.join() !== this.names.join()) this.arrange(names);
    const sums = Object.values(live.phases).map((spent) => Object.values(spent).reduce((a, b) => a + b, 0));
    const elapsed = live.running ? live.now - live.running.openedAt : 0;
    const scale = Math.max(1, elapsed, live.secondsPerRound ?? 0, ...sums);
    for (const p of people) this.lanes.get(p.name).show(p, live, scale);
    if (people.length > MANY) this.order([...people].sort((a, b) => TROUBLED.has(b.state) - TROUBLED.has(a.state)));
    const troubled = people.filter((p) => TROUBLED.has(p.state)).length;
    const cohort = people.filter((p) => p.inCohort).length;
    say(byId("lanes-summary"), [
      live.running ? `${cohort} in the cohort of round ${live.running.round}` : "",
      troubled ? `${troubled} absent, refused or late` : "",
      `a full lane is ${format.seconds(scale)}`,
    ].filter(Boolean).join(" · "));
  }

  arrange(names) {
    if (!this.names.length && names.length <= CHOSEN_AT_FIRST) this.feed.choose(names);
    this.names = names;
    this.ordered = names.join();
    mark(byId("lanes-scroll"), "data-many", names.length > MANY ? "" : null);
    for (const lane of this.lanes.values()) lane.body.remove();
    this.lanes = new Map(names.map((name) => [name, new Lane(name, hueOf(names, name), this.feed.chosen.has(name), (n) => this.toggle(n))]));
    byId("lanes-table").append(...[...this.lanes.values()].map((lane) => lane.body));
  }

  order(people) {
    const names = people.map((p) => p.name).join();
    if (names === this.ordered) return;
    this.ordered = names;
    byId("lanes-table").append(...people.map((p) => this.lanes.get(p.name).body));
  }

  toggle(name) {
    const chosen = new Set(this.feed.chosen);
    if (!chosen.delete(name)) chosen.add(name);
    this.lanes.get(name).press(chosen.has(name));
    this.feed.choose(chosen);
  }
}
