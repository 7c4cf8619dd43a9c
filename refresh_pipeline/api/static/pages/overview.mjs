// Overview: every market, every series' freshness at once, what is wrong, what happened last.

import { command, get, getOr, recent, seriesPage, seriesRow } from "/static/client.mjs";
import { ago, badge, button, card, count, duration, empty, fill, h, iconButton, instant, SIGNS, skeleton, until } from "/static/dom.mjs";
import { grouped } from "/static/pages/alerts.mjs";
import { cellsOf, Matrix, STATES, stateOf } from "/static/matrix.mjs";

const ACTIVITY = 12;

export async function open(root, { signal, go, query }) {
  // The matrix is there first: what stands around it waits for Dagster's web server.
  const rest = recent("/api/v1/status");
  rest.catch(() => {});
  const rows = cellsOf(await recent("/api/v1/matrix"));
  const view = new Overview(go);
  view.cells(rows);
  // A link from an asset in Dagster names its market.
  if (rows.some(row => row.market === query.get("market"))) view.matrix.only(query.get("market"));
  fill(root, view.elements);
  // What does not come now comes with the next news.
  rest.then(status => view.show(status)).catch(() => fill(view.markets));
  view.more(signal);
  return { update: (kind, message) => view.update(kind, message), close: () => view.close() };
}

class Overview {
  constructor(go) {
    this.go = go;
    this.lead = h("p", { class: "lead" });
    this.markets = h("div", { class: "markets" }, skeleton(1));
    this.alerts = h("div", { class: "list" }, skeleton(2));
    this.activity = h("div", { class: "list" }, skeleton(4));
    this.matrix = new Matrix({ open: row => go(seriesPage(row)), refresh: row => refresh(row), details: row => seriesRow(row) });
    this.pending = null;
    this.elements = [this.#head(), this.markets, h("div", { class: "split" }, this.matrix.element, h("div", { class: "stack" }, card("Alerts", h("a", { href: "/alerts" }, "All"), this.alerts), card("Activity", h("a", { href: "/runs" }, "All runs"), this.activity)))];
  }

  #head() {
    const all = button("Refresh all", "refresh", () => command("A refresh of every market has started.", "POST", "/api/v1/refresh", {}), { class: "button primary" });
    this.pauser = h("span");
    return h("header", { class: "page-head" }, h("div", {}, h("h1", {}, "Overview"), this.lead), h("div", { class: "row" }, this.pauser, all));
  }

  cells(rows) {
    this.rows = rows;
    const counts = countStates(rows), markets = new Set(rows.map(row => row.market)).size;
    const wrong = counts.late + counts.stale + counts.failed;
    fill(this.lead, `${count(rows.length)} series in ${markets} ${markets === 1 ? "market" : "markets"}. `, wrong ? h("b", {}, `${count(wrong)} not up to date.`) : "Everything is up to date.");
    this.matrix.show(rows);
  }

  show(status) {
    fill(this.markets, status.markets.map(market => this.#market(market)));
    this.#pause(status);
  }

  #pause(status) {
    const running = status.markets.some(market => market.schedule_running);
    const known = status.markets.some(market => market.schedule_running !== null && market.schedule_running !== undefined);
    const [text, sign, path] = running ? ["Pause", "pause", "pause"] : ["Resume", "play", "resume"];
    fill(this.pauser, known && button(text, sign, async () => { await command(running ? "All schedules are paused." : "All schedules are running.", "POST", `/api/v1/${path}`, {}); await this.update("poll"); }));
  }

  #market(market) {
    const counts = { ...countStates(this.rows.filter(row => row.market === market.name)) };
    const last = market.last_refresh;
    return h("section", { class: "card market", "aria-label": `Market ${market.name}` },
      h("header", {}, h("h2", {}, h("button", { type: "button", class: "plain", title: "Show this market alone in the matrix", onclick: () => this.matrix.only(market.name) }, market.name)), openBadge(market),
        h("div", { class: "tools" }, this.#switch(market), iconButton(`Refresh ${market.name}`, "refresh", () => refreshMarket(market.name), { class: "button icon-only quiet", "aria-label": `Refresh ${market.name}`, title: `Refresh ${market.name}` }))),
      bar(counts),
      h("div", { class: "counts" }, ["fresh", "late", "stale", "failed", ...["closed", "no_data", "never"].filter(state => counts[state])].map(state => h("span", { class: counts[state] ? state : "faint" }, h("b", {}, count(counts[state])), ` ${state.replace("_", " ")}`))),
      h("dl", { class: "facts" },
        fact("Next close", until(market.next_close)),
        fact("Next tick", market.schedule_running === false ? badge("paused") : until(market.next_tick)),
        fact("Tick to fresh", duration(market.tick_to_fresh_seconds)),
        fact("Last refresh", last ? h("a", { href: `/runs/${last.run_id}` }, ago(last.ended_at)) : h("span", { class: "faint" }, "none yet"))));
  }

  #switch(market) {
    if (market.schedule_running === null || market.schedule_running === undefined) return null;
    const [text, sign, path] = market.schedule_running ? ["Pause", "pause", "pause"] : ["Resume", "play", "resume"];
    const label = `${text} ${market.name}`;
    return iconButton(label, sign, async () => { await command(`${market.name} is ${market.schedule_running ? "paused" : "running"}.`, "POST", `/api/v1/${path}`, { market: market.name }); await this.update("poll"); }, { class: "button icon-only quiet", "aria-label": label, title: label });
  }

  async more(signal) {
    const [alerts, runs] = await Promise.all([getOr("/api/v1/alerts", { alerts: [] }, { signal }), getOr(`/api/v1/runs?limit=${ACTIVITY}`, null, { signal })]);
    fill(this.alerts, alerts.alerts.length ? grouped(alerts.alerts).slice(0, 6).map(alertLine) : h("p", { class: "calm" }, h("span", { class: "tick" }, SIGNS.fresh), "Nothing is wrong."));
    fill(this.activity, activity(runs));
  }

  /** Bring the page forward; many pieces of news within a moment make one question. */
  update() {
    this.pending ??= new Promise(resolve => setTimeout(resolve, 300)).then(async () => {
      this.pending = null;
      const rest = get("/api/v1/status");
      rest.catch(() => {});
      this.cells(cellsOf(await get("/api/v1/matrix")));
      this.show(await rest);
      await this.more();
    });
    return this.pending;
  }

  close() {
    this.matrix.close();
  }
}

const fact = (name, value) => h("div", {}, h("dt", {}, name), h("dd", {}, value));

function openBadge(market) {
  return market.is_open ? badge("open") : h("span", { title: market.next_open ? `Opens ${instant(market.next_open)} UTC` : undefined }, badge("closed"));
}

export function countStates(rows) {
  const counts = Object.fromEntries(STATES.map(state => [state, 0]));
  for (const row of rows) counts[stateOf(row)] = (counts[stateOf(row)] ?? 0) + 1;
  return counts;
}

function bar(counts) {
  const all = Object.values(counts).reduce((sum, number) => sum + number, 0) || 1;
  const text = STATES.filter(state => counts[state]).map(state => `${counts[state]} ${state.replace("_", " ")}`).join(", ");
  return h("div", { class: "bar", role: "img", "aria-label": text, title: text }, STATES.filter(state => counts[state]).map(state => h("i", { class: state.replace("_", "-"), style: { "flex-grow": String(counts[state] / all) } })));
}

function alertLine(alerts) {
  const [first] = alerts, several = alerts.length > 1;
  const title = several ? `${first.scope}: ${String(first.kind).replaceAll("_", " ")}` : first.subject;
  const text = several ? `${count(alerts.length)} series: ${alerts.slice(0, 3).map(one => one.item).join(", ")}${alerts.length > 3 ? ", …" : ""}` : first.text;
  return h("a", { class: "list-line", href: "/alerts" }, h("span", { class: "dot failed", "aria-hidden": "true" }, "!"), h("span", {}, h("b", {}, title), h("small", {}, text)));
}

function activity(runs) {
  if (runs === null) return empty("runs", "Runs are not known", "Dagster's web server does not answer, so runs cannot be listed. Reading works without it.");
  if (!runs.runs.length) return empty("runs", "No run yet", "The first tick of a schedule, or Refresh all, starts one.");
  return runs.runs.map(run => h("a", { class: "list-line", href: `/runs/${run.run_id}` }, badge(run.status), h("span", {}, h("b", {}, run.job ?? run.market), h("small", {}, ago(run.ended_at ?? run.started_at ?? run.queued_at), run.seconds !== null && run.seconds !== undefined && ` · ${duration(run.seconds)}`))));
}

export const refreshMarket = market => command(`A refresh of ${market} has started.`, "POST", "/api/v1/refresh", { markets: [market] });

export const refresh = row => command(`A refresh of ${row.instrument} ${row.timeframe} has started.`, "POST", "/api/v1/refresh", { markets: [row.market], instruments: [row.instrument], timeframes: [row.timeframe] });

