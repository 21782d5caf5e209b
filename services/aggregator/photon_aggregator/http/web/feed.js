// What is known of the job, kept up to date: one small answer a second says what else is new.
//
// Answers are merged into `feed`; listeners are told which part changed: "live", "curves", "events", "connection".

import { Columns } from "./columns.js";
import { NeedsToken } from "./source.js";

const EVERY_MS = 1000;
// An aggregator that takes long to answer is asked less often, though often enough to see within 15 s who is gone.
const SHARE = 4;
const SELDOM_MS = 2500;
const LONGEST_PAUSE_MS = 5000;
// An evaluation may come some rounds after its commit: this many rounds are asked for again.
const OVERLAP = 16;
const EVENTS_KEPT = 1000;
const TAIL_POINTS = 240;

const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const visible = () => document.visibilityState === "visible" ? Promise.resolve()
  : new Promise((done) => document.addEventListener("visibilitychange", done, { once: true })).then(visible);

export class Feed {
  constructor(source) {
    this.source = source;
    this.live = null;
    this.instance = null;
    this.lostSince = null;
    this.lastGood = null;
    this.needsToken = false;
    this.events = []; // newest last; kept over restarts of the aggregator, which forgets them
    this.chosen = new Set(); // participants whose own columns are wanted
    this.listeners = [];
    this.forget();
  }

  forget() {
    this.job = new Columns();
    this.people = new Map();
    this.revision = null;
    this.sequence = 0;
    this.tail = []; // of the running round: {share of it done, loss, at}
  }

  listen(listener) { this.listeners.push(listener); }

  tell(what) { for (const listener of this.listeners) listener(what); }

  // Whose own columns are wanted from now on. What fails here is made good by the next look.
  choose(names) {
    this.chosen = new Set(names);
    this.revision = null;
    if (this.job.length) this.lookAtCurves().catch(() => {});
  }

  async run() {
    let pauseMs = EVERY_MS; // until the next look
    for (;;) {
      await visible();
      const began = performance.now();
      try {
        await this.look();
        this.lastGood = new Date();
        if (this.lostSince || this.needsToken) { this.lostSince = null; this.needsToken = false; this.tell("connection"); }
        pauseMs = Math.min(SELDOM_MS, Math.max(EVERY_MS, SHARE * (performance.now() - began)));
      } catch (error) {
        if (error instanceof NeedsToken) {
          this.needsToken = true;
          this.tell("connection");
          await this.token();
          continue;
        }
        this.lostSince ??= this.lastGood ?? new Date();
        this.tell("connection");
        pauseMs = Math.min(LONGEST_PAUSE_MS, pauseMs * 1.5);
      }
      await pause(pauseMs);
    }
  }

  // Until somebody typed a token.
  token() { return new Promise((done) => { this.tokenGiven = done; }); }

  async look() {
    const first = this.live == null;
    const [live, curves] = await Promise.all([
      this.source.get("v1/live"), first ? this.source.get("v1/curves") : null,
    ]);
    if (live.instance !== this.instance) {
      if (this.instance != null) this.events.push({ restart: true, at: live.at });
      this.forget();
      this.instance = live.instance;
    }
    const round = this.live?.status.committedRounds;
    this.live = live;
    if (round !== live.status.committedRounds) this.tail = [];
    this.remember(live);
    if (curves) this.take(curves);
    this.tell("live");
    if (live.curves !== this.revision) await this.lookAtCurves();
    if (live.lastEvent > this.sequence) await this.lookAtEvents();
  }

  // The loss within a round: its mean over those that train, by how far they are.
  remember(live) {
    const training = live.status.participants.filter((p) => p.state === "Training" && p.loss != null && p.step > 0);
    if (!training.length || !live.localSteps) return;
    const mean = (get) => training.reduce((sum, p) => sum + get(p), 0) / training.length;
    const share = Math.min(1, mean((p) => p.step) / live.localSteps);
    const before = this.tail.at(-1);
    if (before && share <= before.share) return;
    this.tail.push({ share, loss: mean((p) => p.loss), at: live.now });
    if (this.tail.length > TAIL_POINTS) this.tail = this.tail.filter((_, i) => i % 2 === 0 || i === this.tail.length - 1);
    this.tell("curves");
  }

  async lookAtCurves() {
    const wanted = [...this.chosen];
    // Before the dot: whether older rounds came or went.
    const same = this.revision?.split(".")[0] === this.live.curves.split(".")[0];
    const known = same && this.job.length > 0 && wanted.every((name) => this.people.has(name));
    const after = known ? Math.max(-1, this.job.last - OVERLAP) : -1;
    this.take(await this.source.get("v1/curves", [["after", after], ...wanted.map((name) => ["participant", name])]));
  }

  take(curves) {
    if (curves.instance !== this.instance) return; // it was started again between two questions
    this.job.merge(curves.first, curves.last, curves.columns);
    for (const [name, columns] of Object.entries(curves.participants)) {
      if (!this.people.has(name)) this.people.set(name, new Columns());
      this.people.get(name).merge(curves.first, curves.last, columns);
    }
    for (const name of this.people.keys()) if (!this.chosen.has(name)) this.people.delete(name);
    const all = [...this.chosen].every((name) => this.people.has(name));
    this.revision = all ? curves.revision : null;
    this.tell("curves");
  }

  async lookAtEvents() {
    const found = await this.source.get("v1/events", [["after", this.sequence]]);
    if (!found.length) return;
    this.sequence = found.at(-1).sequence;
    this.events.push(...found);
    if (this.events.length > EVENTS_KEPT) this.events.splice(0, this.events.length - EVENTS_KEPT);
    this.tell("events");
  }
}
