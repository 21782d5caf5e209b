// The chain of commits, newest first. A row is from the columns; what a commit was made of is fetched when it is opened.

import { byId, element, mark, nextFrame, say } from "./dom.js";
import * as format from "./format.js";

const FIRST = 12;
const MORE = 50;

const code = (text) => element("code", {}, text ?? "–");
const short = (digest) => digest.slice(0, 12);

function table(titles, rows) {
  return element("div", { class: "scroll" }, element("table", { class: "plain" },
    element("thead", {}, element("tr", {}, ...titles.map(([title, kind]) => element("th", { scope: "col", class: kind }, title)))),
    element("tbody", {}, ...rows.map((cells) => element("tr", {}, ...cells.map((cell, i) => element("td", { class: titles[i][1] }, cell)))))));
}

function returned({ to, reason, message, offenders }) {
  const who = offenders.length ? ` Stood out: ${offenders.join(", ")}.` : "";
  return `The model of round ${to} again (${format.words(reason)}${message ? `: ${message}` : ""}).${who}`;
}

// All of one commit: who is in it, what it follows from, what it is.
/* An update that was far longer than the others is scaled down. */
function normOf({ norm, clip = 1 }) {
  return clip < 1 ? `${format.number(norm)} (scaled by ${format.number(clip)})` : format.number(norm);
}

function made(entry) {
  const { commit, digest, log } = entry;
  const pairs = [["commit", code(digest)], ["follows", code(commit.previous)], ["plan", code(commit.plan)], ["folder", code(commit.folder)]];
  if (log) pairs.push(["took", `${format.seconds((new Date(log.committedAt) - new Date(log.startedAt)) / 1000)}; sent ${format.bytes(log.bytesUp)}, received ${format.bytes(log.bytesDown)}`]);
  const left = Object.entries(log?.participants ?? {}).filter(([, p]) => p.outcome !== "Accepted");
  const number = "number";
  return [
    commit.accepted.length ? table(
      [["update of"], ["weight", number], ["tokens", number], ["norm", number], ["cosine", number], ["loss", number], ["manifest (sha256)"]],
      commit.accepted.map((u) => [u.participant, format.percent(u.weight), format.amount(u.tokens), normOf(u), format.number(u.cosineToMean), format.loss(u.lossMean), code(u.manifest)]),
    ) : element("p", { class: "soft" }, commit.rollback ? returned(commit.rollback) : "The initial model: made of no update."),
    left.length ? element("p", {}, "Not in it: ", left.map(([name, p]) => `${name} (${format.words(p.outcome)}${p.message ? `: ${p.message}` : ""})`).join(", ")) : null,
    element("dl", { class: "pairs" }, ...pairs.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)])),
    table([["file"], ["size", number], ["sha256"]], [...commit.files, ...(commit.state ?? [])].map((f) => [f.name, format.bytes(f.sizeBytes), code(f.sha256)])),
  ];
}

export class Chain {
  constructor(feed) {
    this.feed = feed;
    this.shown = FIRST;
    this.rows = new Map(); // round -> {node, digest}
    this.instance = null;
    this.list = byId("chain-list");
    this.more = byId("chain-more");
    this.more.addEventListener("click", () => { this.shown += MORE; this.show(); });
    this.show = this.show.bind(this);
    feed.listen((what) => { if (what === "curves") nextFrame(this.show); });
  }

  show() {
    const { job } = this.feed;
    if (!job.length) return;
    const oldest = Math.max(job.first, job.last - this.shown + 1);
    const columns = ["digest", "at", "updates", "tokens", "trainLoss"].map((name) => job.column(name));
    let after = null;
    for (let round = job.last; round >= oldest; round -= 1) {
      const figures = columns.map((column) => column[round - job.first] ?? null);
      let row = this.rows.get(round);
      if (row && row.digest !== figures[0]) { row.node.remove(); row = null; }
      row ??= this.row(round, figures[0]);
      const [digest, at, updates, tokens, loss] = figures;
      [at == null ? "" : format.clock(at * 1000), digest, updates ? `${updates} update${updates > 1 ? "s" : ""}` : round ? "rolled back" : "initial model", `${format.amount(tokens)} tokens`, loss == null ? "" : `loss ${format.loss(loss)}`]
        .forEach((text, i) => say(row.cells[i], text));
      if (row.node.parentNode !== this.list) { if (after) after.after(row.node); else this.list.prepend(row.node); }
      after = row.node;
    }
    for (const [round, row] of this.rows) if (round < oldest || round > job.last) { row.node.remove(); this.rows.delete(round); }
    mark(this.more, "hidden", oldest > job.first ? null : "");
    say(byId("chain-summary"), `${job.last + 1} records, each naming the sha256 of the one before`);
  }

  row(round, digest) {
    const cells = [element("span", { class: "when" }), element("code", {}), element("span", { class: "made" }), element("span", {}), element("span", {})];
    const body = element("div", { class: "made-of" });
    const node = element("details", { class: "commit", "data-round": round },
      element("summary", {}, element("b", {}, `round ${round}`), ...cells), body);
    node.addEventListener("toggle", () => { if (node.open) this.open(round, node, body); });
    const row = { node, digest, cells };
    this.rows.set(round, row);
    return row;
  }

  async open(round, node, body) {
    if (body.dataset.done) return;
    body.replaceChildren(element("p", { class: "soft" }, "reading the record"));
    try {
      const [entry] = await this.feed.source.get("v1/history", [["after", round - 1], ["limit", 1]]);
      body.replaceChildren(...made(entry).filter(Boolean));
      body.dataset.done = short(entry.digest);
    } catch {
      body.replaceChildren(element("p", { class: "bad" }, "The record could not be read; close this and open it again."));
    }
  }
}
