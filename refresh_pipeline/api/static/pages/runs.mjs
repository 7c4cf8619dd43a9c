// Runs: what Dagster did, with outcomes by series. A run opens beside the list and has its own address.

import { command, get, seriesPage } from "/static/client.mjs";
import { badge, button, card, choice, count, duration, empty, fill, h, icon, instant, retryLater, skeleton, table } from "/static/dom.mjs";

const LIMIT = 50, GOING = ["queued", "not_started", "managed", "starting", "started", "canceling"];
const FILTERS = [["", "All"], ["failure", "Failed"], ["started", "Going"], ["success", "Succeeded"]];

export async function open(root, { path, signal, go }) {
  const view = path ? new Run(path, go) : new Runs(go);
  await view.read(signal);
  fill(root, view.elements);
  return { update: kind => ["run_update", "poll", "reset"].includes(kind) ? view.read() : null };
}

class Runs {
  constructor(go) {
    this.go = go;
    this.status = "";
    this.place = h("div");
    const filter = choice("Status", FILTERS, "", key => { this.status = key; return this.read(); });
    this.elements = [h("header", { class: "page-head" }, h("div", {}, h("h1", {}, "Runs"), h("p", { class: "lead" }, "Every refresh, backfill, publish and backup, newest first. Times are UTC.")), filter), card(null, null, this.place)];
  }

  async read(signal) {
    const query = new URLSearchParams({ limit: String(LIMIT), ...(this.status && { status: this.status }) });
    try {
      this.answer = await get(`/api/v1/runs?${query}`, { signal });
    } catch (error) {
      if (error.name !== "control-unavailable") throw error;
      fill(this.place, unavailable(error));
      retryLater(this.place, () => this.read());
      return;
    }
    this.runs = this.answer.runs;
    this.#draw();
  }

  #draw() {
    if (!this.runs.length) { fill(this.place, empty("runs", this.status ? "No such run" : "No run yet", this.status ? "No run has this status." : "The first tick of a schedule starts one. Refresh all on the Overview starts one now.", !this.status && h("a", { class: "button", href: "/" }, "Overview"))); return; }
    fill(this.place, table(columns(this.runs), this.runs, { page: 500, onrow: run => this.go(`/runs/${run.run_id}`) }), this.#more());
  }

  #more() {
    const next = this.answer.next;
    if (!next) return null;
    const url = typeof next === "string" && next.startsWith("/") ? next : `/api/v1/runs?limit=${LIMIT}&after=${this.runs.at(-1).run_id}`;
    return h("div", { class: "table-more" }, button("Show older runs", null, async () => { this.answer = await get(url); this.runs = [...this.runs, ...this.answer.runs]; this.#draw(); }, { class: "button quiet" }));
  }
}

const unavailable = error => empty("runs", "Runs are not known", `${error.message.replace(/\.$/, "")}. The dashboard reads runs from Dagster's web server; \`refresh up\` starts both.`);

const began = run => run.started_at ?? run.queued_at;

function columns(runs) {
  const counts = ["updated", "unchanged", "failed"].filter(name => runs.some(run => run.counts?.[name] !== undefined));
  return [
    { title: "Status", cell: run => badge(run.status), class: "fit" },
    { title: "Job", cell: run => h("a", { href: `/runs/${run.run_id}` }, run.job ?? run.run_id), sort: run => run.job },
    { title: "Market", class: "wide-only", cell: run => run.market ?? "–", sort: run => run.market },
    { title: "Started", cell: run => instant(began(run), true), sort: began },
    { title: "Took", number: true, cell: run => took(run), sort: run => run.seconds },
    ...counts.map(name => ({ title: name[0].toUpperCase() + name.slice(1), class: name === "unchanged" && "wide-only", number: true, cell: run => counted(run, name), sort: run => run.counts?.[name] })),
    { title: "Asked by", cell: run => run.asked_by ?? "–" },
    { title: "", cell: run => h("span", { class: "row end nowrap" }, GOING.includes(run.status) && cancel(run), run.url && dagster(run)) },
  ];
}

function counted(run, name) {
  const number = run.counts?.[name];
  if (number === undefined || number === null) return h("span", { class: "faint" }, "–");
  return h("span", { class: name === "failed" && number ? "down-text" : number ? "" : "faint" }, count(number));
}

const took = run => GOING.includes(run.status) ? (began(run) ? `${duration((Date.now() - Date.parse(began(run))) / 1000)} so far` : "…") : duration(run.seconds);
const cancel = run => button("Cancel", "stop", () => command("The run is being canceled.", "POST", `/api/v1/runs/${run.run_id}/cancel`, {}), { class: "button small" });
const dagster = run => h("a", { class: "button small quiet", href: run.url, target: "_blank", rel: "noreferrer", title: "Open in Dagster", "aria-label": "Open in Dagster" }, icon("link"), h("span", { class: "wide-only" }, "Dagster"));

class Run {
  constructor(id, go) {
    this.id = id;
    this.go = go;
    this.head = h("header", { class: "page-head" });
    this.facts = h("div");
    this.outcomes = h("div", {}, skeleton());
    this.elements = [h("a", { class: "back", href: "/runs" }, "← Runs"), this.head, card(null, null, this.facts), card("Outcomes by series", null, this.outcomes)];
  }

  async read(signal) {
    try {
      this.show(await get(`/api/v1/runs/${encodeURIComponent(this.id)}`, { signal }));
    } catch (error) {
      if (error.name !== "control-unavailable") throw error;
      fill(this.outcomes, unavailable(error));
      retryLater(this.outcomes, () => this.read());
    }
  }

  show(run) {
    const again = run.market && run.job?.endsWith("_refresh") && button("Again", "refresh", () => command(`A refresh of ${run.market} has started.`, "POST", "/api/v1/refresh", { markets: [run.market] }), { class: "button primary" });
    fill(this.head, h("div", {}, h("div", { class: "row" }, h("h1", {}, run.job ?? "Run"), badge(run.status)), h("p", { class: "lead mono" }, run.run_id)), h("div", { class: "row" }, GOING.includes(run.status) && cancel(run), again, run.url && dagster(run)));
    const facts = [["Market", run.market ?? "–"], ["Started", instant(began(run), true)], ["Ended", instant(run.ended_at, true)], ["Took", took(run)], ["Asked by", run.asked_by ?? "–"], ...(run.message || run.reason ? [["Reason", run.message ?? run.reason]] : [])];
    fill(this.facts, h("dl", { class: "facts wide card-body" }, facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))));
    const outcomes = Array.isArray(run.outcomes) ? run.outcomes : [];
    fill(this.outcomes, outcomes.length ? outcomeTable(run, outcomes) : empty("runs", "No outcomes yet", "Outcomes are stored with the rows that a run writes; a run that is newer than this one replaces them."));
  }
}

function outcomeTable(run, outcomes) {
  const page = row => seriesPage({ market: row.market ?? run.market, instrument: row.instrument, timeframe: row.timeframe });
  return table([
    { title: "Outcome", class: "fit", cell: row => badge(row.outcome), sort: row => row.outcome },
    { title: "Series", cell: row => h("a", { href: page(row) }, `${row.instrument} ${row.timeframe}`), sort: row => `${row.instrument} ${row.timeframe}` },
    { title: "Asset", cell: row => row.asset ?? "–", sort: row => row.asset },
    { title: "Rows added", number: true, cell: row => count(row.rows_added), sort: row => row.rows_added },
    { title: "Corrected", number: true, cell: row => count(row.rows_revised), sort: row => row.rows_revised },
    { title: "Reason", class: "wrap", cell: row => row.reason ?? "" },
  ], [...outcomes].sort((a, b) => (b.outcome === "failed") - (a.outcome === "failed")), { page: 100 });
}
