// The first lines of the page: which job, how it is, how far, for how long, and whether this page still hears of it.

import { byId, element, mark, say, width } from "./dom.js";
import * as format from "./format.js";

const FIGURES = [
  ["perplexity", "Perplexity", (s) => [format.perplexity(s.validationPerplexity), s.evaluatedRound == null ? "not evaluated yet" : `round ${s.evaluatedRound}`]],
  ["validation-loss", "Validation loss", (s) => [format.loss(s.validationLoss), "nats a token"]],
  ["train-loss", "Training loss", (s) => [format.loss(s.trainLoss), s.trainLoss == null ? "" : `round ${s.committedRounds}`]],
  ["tokens", "Tokens", (s) => [format.amount(s.tokens), speed(s)]],
  ["present", "Participants", (s) => [`${s.participantsPresent} of ${s.participants.length}`, "present"]],
  ["updates", "Updates", (_, live) => live.running ? [`${live.running.accepted} of ${live.running.cohort}`, `quorum ${live.running.quorum}`] : [format.number(null), ""]],
  ["deadline", "Deadline", (_, live) => live.running ? [format.duration(live.running.deadlineAt - live.now), "of the round"] : [format.number(null), ""]],
  ["bytes-up", "Sent", (s) => [format.bytes(s.bytesUp), "by participants"]],
  ["bytes-down", "Received", (s) => [format.bytes(s.bytesDown), "by participants"]],
];

function speed(status) {
  const rates = status.participants.map((p) => p.state === "Training" ? p.tokensPerSecond : null).filter((rate) => rate);
  return rates.length ? `${format.amount(rates.reduce((a, b) => a + b))}/s now` : "in accepted updates";
}

// The condition that tells most, as [word, mood, message].
export function situation(status) {
  const is = (type) => status.conditions.find((c) => c.type === type && c.status === "True");
  const failed = is("Failed"), complete = is("Complete"), suspended = is("Suspended"), running = is("Running");
  if (failed) return ["Failed", "bad", `${format.words(failed.reason)}${failed.message ? `: ${failed.message}` : ""}`];
  if (complete) return ["Complete", "good", `${format.words(complete.reason)}${complete.message ? `: ${complete.message}` : ""}`];
  if (suspended) return ["Suspended", "quiet", suspended.message];
  const word = format.words(running?.reason ?? "starting");
  return [word.charAt(0).toUpperCase() + word.slice(1), running?.reason === "WaitingForInit" ? "quiet" : "busy", running?.message ?? ""];
}

export class Strip {
  constructor(feed) {
    this.feed = feed;
    this.values = FIGURES.map(([id, label, get]) => {
      const value = element("dd", { id: `figure-${id}` }), note = element("dd", { class: "soft" });
      byId("figures").append(element("div", {}, element("dt", {}, label), value, note));
      return [get, value, note];
    });
    feed.listen((what) => {
      if (what === "live") this.show(feed.live);
      if (what === "live" || what === "connection") this.connection();
    });
  }

  show(live) {
    const status = live.status;
    const [word, mood, message] = situation(status);
    say(byId("job"), live.job);
    say(byId("state"), word);
    mark(byId("state"), "data-mood", mood);
    say(byId("round"), `round ${status.round} of ${status.rounds}`);
    say(byId("eta"), eta(status, live));
    const share = live.running && live.localSteps ? this.feed.tail.at(-1)?.share ?? 0 : 0;
    width(byId("progress"), status.rounds ? 100 * Math.min(1, (status.committedRounds + share) / status.rounds) : 0);
    say(byId("announcement"), `${live.job}: round ${status.round} of ${status.rounds}${mood === "busy" ? "" : `, ${word}`}`);
    const outcome = byId("outcome");
    say(outcome, message);
    mark(outcome, "hidden", message ? null : "");
    mark(outcome, "data-mood", mood);
    for (const [get, value, note] of this.values) {
      const [figure, remark] = get(status, live);
      say(value, figure);
      say(note, remark);
    }
    const figure = status.validationPerplexity == null ? "" : ` · ${format.perplexity(status.validationPerplexity)}`;
    const title = `${status.round}/${status.rounds}${figure} · ${live.job}`;
    if (document.title !== title) document.title = title;
  }

  connection() {
    const { lostSince, needsToken, live, lastGood } = this.feed;
    const node = byId("connection");
    const ended = live && /Complete|Failed|Suspended/.test(situation(live.status)[0]);
    const text = needsToken ? "needs a token"
      : lostSince && ended ? `the aggregator left at ${format.clock(lostSince)}; these are the last figures`
      : lostSince ? `connection lost since ${format.clock(lostSince)}`
      : live || lastGood ? "live" : "connecting";
    say(node, text);
    mark(node, "data-mood", needsToken ? "quiet" : lostSince ? (ended ? "quiet" : "bad") : "good");
    mark(document.body, "data-lost", lostSince && !ended ? "" : null);
  }
}

function eta(status, live) {
  if (situation(status)[1] !== "busy") return "";
  if (status.etaSeconds == null) return "time left is known after a round";
  const end = new Date(Date.now() + 1000 * status.etaSeconds);
  const pace = live.secondsPerRound == null ? "" : `, ${format.seconds(live.secondsPerRound)} a round`;
  return `${format.duration(status.etaSeconds)} left, until ${format.clock(end).replace(/:\d\d$/, "")}${pace}`;
}
