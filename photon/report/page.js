"use strict";
// Draws the report from the JSON block of the page. Text from runs only ever becomes textContent.
(() => {
  const runs = JSON.parse(document.getElementById("data").textContent);
  const root = document.getElementById("report");
  const several = runs.length > 1;
  // Rounds of different lengths side by side would mislead: then tokens are what the runs have in common.
  const tokensOfRound = (r) => (r.x.tokens.at(-1) ?? 0) / (r.x.round.at(-1) ?? 1);
  const alike = runs.every((r) => Math.abs(tokensOfRound(r) / tokensOfRound(runs[0]) - 1) < 0.01);
  const state = { x: alike ? "round" : "tokens", run: 0 };
  let plots = [];

  // ---- figures ----------------------------------------------------------------------------------------------------
  const si = (v, unit = "") => {
    if (v == null) return "–";
    const prefixes = ["", "k", "M", "G", "T", "P"];
    let i = 0;
    while (Math.abs(v) >= 999.5 && i < prefixes.length - 1) { v /= 1000; i++; }
    const digits = i === 0 && Number.isInteger(v) ? 0 : Math.abs(v) >= 99.95 ? 0 : Math.abs(v) >= 9.995 ? 1 : 2;
    return `${v.toFixed(digits)}${unit ? " " : ""}${prefixes[i]}${unit}`;
  };
  const bytes = (v) => si(v, "B");
  const number = (v) => v == null ? "–" : v === 0 ? "0" : Math.abs(v) >= 1e4 || Math.abs(v) < 1e-3
    ? v.toExponential(2) : String(+v.toPrecision(4));
  // 3, 0.07, 200: what a logarithmic axis is labelled with; its lowest end is any number.
  const round = (v) => {
    const mantissa = v / 10 ** Math.floor(Math.log10(v) + 1e-9);
    return Math.abs(mantissa - Math.round(mantissa)) < 1e-6;
  };
  const decimals = (v) => v == null ? "–" : v < 1e4 ? v.toFixed(3) : number(v);
  const duration = (v) => {
    if (v == null) return "–";
    const s = Math.max(0, Math.round(v)), h = Math.floor(s / 3600), m = Math.floor(s / 60) % 60, r = s % 60;
    const two = (n) => String(n).padStart(2, "0");
    if (h >= 48) return `${Math.floor(h / 24)} d ${two(h % 24)} h`;
    return h ? `${h}:${two(m)}:${two(r)}` : `${m}:${two(r)}`;
  };
  const axes = {
    round: { label: "Round", format: (v) => v == null ? "–" : `${v}`, ticks: (v) => Number.isInteger(v) ? `${v}` : "" },
    tokens: { label: "Tokens", format: (v) => si(v), ticks: (v) => si(v) },
    seconds: { label: "Time", format: duration, ticks: duration },
  };

  // ---- page elements ----------------------------------------------------------------------------------------------
  const element = (tag, attributes = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) {
      if (key === "onclick" || key === "onchange") node[key] = value; else node.setAttribute(key, value);
    }
    node.append(...children.filter((c) => c != null).map((c) => typeof c === "object" ? c : String(c)));
    return node;
  };
  const color = (i) => getComputedStyle(document.documentElement).getPropertyValue(`--s${i % 9}`).trim();
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const some = (column) => column && column.some((v) => v != null);

  // ---- charts -----------------------------------------------------------------------------------------------------
  // lines: [{label, xs, ys}]; every line may have its own x, so all are put on the union of them.
  function plot(card, lines, { format, log = false, stacked = false, zero = false }) {
    const axis = axes[state.x];
    lines = lines.map((l) => ({ ...l, points: l.xs.map((x, i) => [x, l.ys[i]]).filter(([x, y]) => x != null && y != null) }))
      .filter((l) => l.points.length);
    if (!lines.length) { card.remove(); return; }
    const xs = [...new Set(lines.flatMap((l) => l.points.map(([x]) => x)))].sort((a, b) => a - b);
    const at = new Map(xs.map((x, i) => [x, i]));
    const columns = lines.map((l) => {
      const column = new Array(xs.length).fill(null);
      for (const [x, y] of l.points) column[at.get(x)] = y;
      return column;
    });
    const shown = columns.map((c) => c.slice());
    if (stacked) for (let s = 1; s < shown.length; s++) shown[s] = shown[s].map((v, i) => (v ?? 0) + (shown[s - 1][i] ?? 0));
    // What the legend says: the figure under the cursor, else the latest; between two points, that of the earlier one.
    const said = (column, at) => { let i = at ?? column.length - 1; while (i > 0 && column[i] == null) i--; return column[i]; };
    const font = "12px system-ui, sans-serif";
    const order = stacked ? lines.map((_, i) => lines.length - 1 - i) : lines.map((_, i) => i);
    const thin = xs.length > 60;
    const u = new uPlot({
      width: card.clientWidth - 24, height: 220,
      scales: { x: { time: false }, y: log ? { distr: 3, range: (_, low, high) => low == null ? [1, 10] : [low / 1.08, high * 1.08] } : { range: (_, low, high) => {
        if (low == null) return [0, 1];
        const from = zero || stacked ? Math.min(0, low) : low;
        const room = (high - from || Math.abs(high) || 1) * 0.06;
        return [from === 0 ? 0 : from - room, high + room];
      } } },
      axes: [
        { stroke: css("--soft"), font, grid: { stroke: css("--grid"), width: 1 }, ticks: { show: false }, size: 30,
          values: (_, vs) => vs.map(axis.ticks), space: state.x === "round" ? 44 : 62 },
        { stroke: css("--soft"), font, grid: { stroke: css("--grid"), width: 1 }, ticks: { show: false }, size: 58,
          values: (_, vs) => vs.map((v) => v == null || (log && !round(v)) ? "" : format(v)) },
      ],
      series: [
        { label: axis.label, value: (_, v, _s, at) => axis.format(said(xs, at)) },
        ...order.map((i) => ({
          label: lines[i].label, stroke: color(lines[i].color ?? i), width: stacked ? 1 : 1.75, spanGaps: true,
          fill: stacked ? color(lines[i].color ?? i) : undefined, dash: lines[i].dash,
          points: { show: !stacked && !thin, size: 4 },
          value: (_u, _v, _s, at) => format(said(columns[i], at)),
        })),
      ],
      cursor: { sync: { key: "photon" }, y: false },
      legend: { live: true },
    }, [xs, ...order.map((i) => shown[i])], card);
    plots.push([u, card]);
  }

  const jobLine = (key) => runs.map((r, i) => ({ label: r.name, xs: r.x[state.x], ys: r.series[key] ?? [], color: i }));
  const run = () => runs[state.run];
  const people = (key) => Object.entries(run().participants)
    .map(([name, columns], i) => ({ label: name, xs: run().x[state.x], ys: columns[key], color: i }));
  const both = (pairs) => several
    ? runs.flatMap((r, i) => pairs.map(([label, key], j) => ({ label: `${r.name} ${label}`, xs: r.x[state.x], ys: r.series[key] ?? [], color: i, dash: j ? [5, 4] : undefined })))
    : pairs.map(([label, key], i) => ({ label, xs: runs[0].x[state.x], ys: runs[0].series[key] ?? [], color: i }));

  const sections = [
    ["Learning", [
      ["Validation perplexity", "Held-out text of all participants together", () => jobLine("validation_perplexity"), { format: number, log: true }],
      ["Validation loss", "Nats a token", () => jobLine("validation_loss"), { format: number }],
      ["Training loss", "Nats a token, mean of the accepted updates by tokens", () => jobLine("train_loss"), { format: number }],
    ]],
    ["Participants", [
      ["Perplexity by participant", "The global model on each one's own held-out text", () => people("perplexity"), { format: number, log: true }],
      ["Training loss by participant", "Nats a token, mean over the round", () => people("train_loss"), { format: number }],
      ["Cosine to the mean update", "1: the participant pulls where all pull", () => people("cosine_to_mean"), { format: number }],
      ["Norm of the update", "L2, before the outer step", () => people("norm"), { format: number, zero: true }],
      ["Training speed", "Tokens a second while training", () => people("tokens_per_second"), { format: (v) => si(v), zero: true }],
      ["Sent by participant", "Bytes, all rounds so far", () => people("bytes_up"), { format: bytes, zero: true }],
    ], true],
    ["Merging", [
      ["Norms", "L2 of the mean update and of the outer momentum", () => both([["update", "pseudo_gradient_norm"], ["momentum", "momentum_norm"]]), { format: number, zero: true }],
      ["Norm of the model", "L2 of all weights", () => jobLine("model_norm"), { format: number }],
      ["Agreement", "Consensus: norm of the mean over mean of the norms; cosine: mean over pairs", () => both([["consensus", "consensus"], ["pairwise cosine", "mean_pairwise_cosine"]]), { format: number }],
      ["Gradient noise scale", "Tokens; batches above it gain little (McCandlish 2018)", () => jobLine("gradient_noise_scale"), { format: (v) => si(v) }],
    ]],
    ["Exchange and time", [
      ["Bytes exchanged", "All participants, all rounds so far", () => both([["up", "bytes_up"], ["down", "bytes_down"]]), { format: bytes, zero: true }],
      ["Speed of the job", "Tokens a second, everything included", () => jobLine("tokens_per_second"), { format: (v) => si(v), zero: true }],
      ["Where a round's time goes", several ? "Seconds by phase, slowest participant; of the run chosen above" : "Seconds by phase, slowest participant", () => Object.entries(run().phases).map(([phase, ys], i) => ({ label: phase, xs: run().x[state.x], ys, color: i })), { format: (v) => v == null ? "–" : `${number(v)} s`, stacked: true }],
    ]],
  ];

  function drawCharts() {
    for (const [u] of plots) u.destroy();
    plots = [];
    const place = document.getElementById("charts");
    place.replaceChildren();
    for (const [title, charts, ofOne] of sections) {
      const grid = element("div", { class: "charts" });
      const heading = element("h2", {}, ofOne && several ? `${title} of ${run().name}` : title);
      place.append(heading, grid);
      for (const [name, what, lines, options] of charts) {
        const card = element("section", { class: "card" }, element("h3", {}, name), element("p", {}, what));
        grid.append(card);
        plot(card, lines(), options);
      }
      if (!grid.childElementCount) { heading.remove(); grid.remove(); }
    }
  }

  // ---- the rest of the page ---------------------------------------------------------------------------------------
  function tiles() {
    const s = runs[0].summary;
    const all = [
      [decimals(s.validation_perplexity), `perplexity, round ${s.evaluated_round ?? "–"}${s.coverage != null && s.coverage < 1 ? `, on ${percent(s.coverage)} of the held-out text` : ""}`],
      ...(s.baseline_perplexity == null ? [] : [[decimals(s.baseline_perplexity), "perplexity before training"]]),
      [decimals(s.train_loss), "training loss"],
      [si(s.tokens), "tokens"],
      [s.rounds, "rounds"],
      [duration(s.wall_seconds), "wall time"],
      [bytes(s.bytes_up), "sent"],
      [bytes(s.bytes_down), "received"],
    ];
    return element("div", { class: "tiles" }, ...all.map(([v, label]) => element("div", { class: "tile" }, element("b", {}, v), element("span", {}, label))));
  }

  const percent = (v) => v == null ? "–" : v > 0 && v < 0.01 ? "< 1 %" : `${Math.floor(100 * v + 1e-9)} %`;

  // What was measured of the last evaluated model: by participant, and by data folder where there are several.
  function heldOutOf(r) {
    const s = r.summary, rows = [];
    for (const [name, sources] of Object.entries(s.held_out)) {
      const several = Object.keys(sources).length > 2;
      for (const [source, f] of Object.entries(sources)) if (source === "" || several) rows.push([name, source, f]);
    }
    if (!rows.length) return [];
    const compared = s.baseline_perplexity != null;
    const titles = ["tokens measured", "of the held-out text", "perplexity", "bits per byte", ...(compared ? ["perplexity before training"] : [])];
    return [element("h2", {}, `Held-out text${runs.length > 1 ? ` of ${r.name}` : ""}, round ${s.evaluated_round}`),
      element("div", { class: "scroll" }, element("table", { class: "plain" },
        element("tr", {}, element("th", {}, "participant"), element("th", {}, "data folder"), ...titles.map((t) => element("th", { class: "number" }, t))),
        ...rows.map(([name, source, f]) => element("tr", {}, element("td", {}, name), element("td", {}, source || "all"),
          ...[si(f.tokens), percent(f.held_out ? f.tokens / f.held_out : null), decimals(f.perplexity), decimals(f.bits_per_byte),
            ...(compared ? [decimals(f.baseline_perplexity)] : [])].map((v) => element("td", { class: "number" }, v))))))];
  }

  function comparison() {
    const columns = [
      ["perplexity", (s) => decimals(s.validation_perplexity)], ["training loss", (s) => decimals(s.train_loss)],
      ["rounds", (s) => s.rounds], ["local steps", (s) => s.local_steps ?? "–"], ["tokens", (s) => si(s.tokens)],
      ["wall time", (s) => duration(s.wall_seconds)], ["sent", (s) => bytes(s.bytes_up)], ["received", (s) => bytes(s.bytes_down)],
    ];
    return element("div", { class: "scroll" }, element("table", { class: "plain" },
      element("tr", {}, element("th", {}, "run"), ...columns.map(([name]) => element("th", { class: "number" }, name))),
      ...runs.map((r) => element("tr", {}, element("td", {}, r.name), ...columns.map(([, get]) => element("td", { class: "number" }, get(r.summary)))))));
  }

  function choice(label, options, current, choose) {
    const group = element("span", { class: "choice", role: "group", "aria-label": label });
    for (const [key, text] of options) {
      group.append(element("button", { type: "button", "aria-pressed": key === current, onclick: (event) => {
        for (const b of group.children) b.setAttribute("aria-pressed", b === event.target);
        choose(key);
      } }, text));
    }
    return group;
  }

  function controls() {
    const bar = element("div", { class: "bar" }, element("span", { class: "label" }, "Against"),
      choice("Horizontal axis", [["round", "Rounds"], ["tokens", "Tokens"], ["seconds", "Time"]], state.x, (key) => { state.x = key; drawCharts(); }));
    if (several) {
      const select = element("select", { id: "run", onchange: (event) => { state.run = +event.target.value; drawCharts(); } },
        ...runs.map((r, i) => element("option", { value: i }, r.name)));
      bar.append(element("label", { for: "run" }, "Participants and phases of"), select);
    }
    return bar;
  }

  function settingsTable() {
    const paths = [...new Set(runs.flatMap((r) => r.settings.map(([path]) => path)))];
    const values = runs.map((r) => new Map(r.settings));
    const rows = paths.map((path) => {
      const found = values.map((v) => v.get(path) ?? "–");
      return element("tr", new Set(found).size > 1 ? { class: "differs" } : {},
        element("td", {}, element("code", {}, path)), ...found.map((v) => element("td", {}, v)));
    });
    return element("div", { class: "scroll" }, element("table", { class: "plain" },
      element("tr", {}, element("th", {}, "setting"), ...runs.map((r) => element("th", {}, several ? r.name : "value"))), ...rows));
  }

  function chainOf(r) {
    const broken = r.chain.filter((c) => !c.linked);
    const verdict = broken.length
      ? element("p", { class: "bad" }, `The chain is broken at round ${broken[broken.length - 1].round}: the record does not name the one before it.`)
      : element("p", { class: "good" }, `${r.chain.length} commits, each naming the sha256 of the one before it.`);
    const rows = r.chain.map((c) => element("tr", {},
      element("td", { class: "number" }, c.round),
      element("td", {}, element("code", {}, c.digest)),
      element("td", { class: "number" }, si(c.tokens)),
      element("td", {}, c.accepted.length ? c.accepted.map((a) => `${a.participant} ${(100 * a.weight).toFixed(1)} %${a.clip ? ` (scaled by ${number(a.clip)})` : ""}`).join(", ") : c.rollback ?? "initial model")));
    const table = () => element("div", { class: "scroll" }, element("table", { class: "plain" },
      element("tr", {}, element("th", { class: "number" }, "round"), element("th", {}, "commit (sha256)"), element("th", { class: "number" }, "tokens"), element("th", {}, "updates and weights")), ...rows));
    return [several ? element("h3", {}, r.name) : null, verdict,
      element("details", {}, element("summary", {}, "All commits"), table())];
  }

  function eventsOf(r) {
    if (!r.events.length) return [];
    return [element("h2", {}, several ? `Events of ${r.name}` : "Events"), element("div", { class: "scroll" }, element("table", { class: "plain" },
      ...r.events.map((e) => element("tr", {}, element("td", {}, element("code", {}, e.time)), element("td", {}, e.message)))))];
  }

  root.replaceChildren(
    element("h1", {}, runs.map((r) => r.name).join(" · ")),
    element("p", { class: "sub" }, several ? `${runs.length} runs` : `last commit ${runs[0].summary.last_commit ?? "–"}`),
    several ? comparison() : tiles(), controls(), element("div", { id: "charts" }),
    ...runs.flatMap(heldOutOf),
    element("h2", {}, "Commit chain"), ...runs.flatMap(chainOf).filter(Boolean),
    ...runs.flatMap(eventsOf),
    element("h2", {}, "Settings"), element("details", several ? { open: "" } : {}, element("summary", {}, "All settings of the job"), settingsTable()));
  drawCharts();

  new ResizeObserver(() => {
    for (const [u, card] of plots) {
      const width = card.clientWidth - 24;
      if (width > 0 && Math.abs(width - u.width) > 1) u.setSize({ width, height: 220 });
    }
  }).observe(root);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawCharts);
})();
