// What happened lately, newest first; what happens in every round only on request.

import { byId, element, mark } from "./dom.js";
import * as format from "./format.js";

const SHOWN = 120;
const MOODS = { UpdateRefused: "bad", RolledBack: "bad", ParticipantAbsent: "bad", ParticipantJoined: "good", RoundCommitted: "good", JobEnded: "good" };

function item(event) {
  if (event.restart) return element("li", { class: "restart" }, time(event.at), element("span", {}, "the aggregator was started again"));
  const said = [event.reason && format.words(event.reason), event.message].filter(Boolean).join(": ");
  return element("li", { "data-kind": event.kind }, time(event.at),
    element("b", { "data-mood": MOODS[event.kind] ?? "quiet" }, format.words(event.kind)),
    element("span", { class: "soft" }, `round ${event.round}`),
    event.participant ? element("span", { class: "who" }, event.participant) : null,
    said ? element("span", { class: "said" }, said) : null);
}

const time = (at) => element("time", { datetime: at }, format.clock(at));

export class Events {
  constructor(feed) {
    this.feed = feed;
    this.list = byId("events-list");
    this.all = byId("events-all");
    this.all.addEventListener("change", () => this.show(true));
    this.newest = null;
    feed.listen((what) => { if (what === "events") this.show(false); });
  }

  show(again) {
    // A closed round that has something to say is news.
    const kinds = this.feed.live?.routine ?? [];
    const routine = (event) => kinds.includes(event.kind) && !(event.kind === "RoundClosed" && event.message);
    const wanted = this.feed.events.filter((event) => this.all.checked || !routine(event));
    const from = again ? -1 : wanted.lastIndexOf(this.newest);
    const fresh = wanted.slice(Math.max(from + 1, wanted.length - SHOWN)).reverse().map(item);
    if (from < 0) this.list.replaceChildren(...fresh);
    else this.list.prepend(...fresh);
    while (this.list.childElementCount > SHOWN) this.list.lastElementChild.remove();
    this.newest = wanted.at(-1) ?? null;
    mark(this.list, "data-empty", wanted.length ? null : "");
  }
}
