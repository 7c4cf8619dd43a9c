// Signals: the newest of each kind per series, when it became known, and how timeframes agree.

import { get, seriesPage } from "/static/client.mjs";
import { ago, badge, card, choice, count, empty, fill, h, icon, instant, table, tabs } from "/static/dom.mjs";
import { TIMEFRAMES } from "/static/matrix.mjs";

const KINDS = [["fractal", "Fractal"], ["divergent", "Divergent bar"], ["zone_change", "Zone"], ["saucer", "Saucer"], ["zero_cross", "Zero-line cross"], ["squat", "Squat"]];
const SIGN = { buy: "▲", up: "▲", green: "▲", sell: "▼", down: "▼", red: "▼", squat: "■" };
const SIDE = { buy: "up", up: "up", green: "up", sell: "down", down: "down", red: "down" };

export async function open(root, { signal }) {
  const view = new Signals();
  await view.read(signal);
  fill(root, view.elements);
  return { update: kind => ["candles", "poll", "reset"].includes(kind) ? view.read() : null };
}

class Signals {
  constructor() {
    this.filter = { text: "", side: "all", market: "all" };
    this.panel = 0;
    this.lead = h("p", { class: "lead" });
    this.body = h("div");
    this.market = h("span");
    const search = h("label", { class: "search" }, icon("search"), h("input", { type: "search", placeholder: "Filter series", "aria-label": "Filter series", oninput: event => { this.filter.text = event.target.value.toLowerCase(); this.draw(); } }));
    const side = choice("Direction", [["all", "All"], ["up", "▲ Buy"], ["down", "▼ Sell"]], "all", key => { this.filter.side = key; this.draw(); });
    this.elements = [h("header", { class: "page-head" }, h("div", {}, h("h1", {}, "Signals"), this.lead), h("div", { class: "row" }, search, this.market, side)), card(null, null, this.body)];
  }

  async read(signal) {
    const answer = await get("/api/v1/signals", { signal });
    this.rows = answer.signals;
    const markets = [...new Set(this.rows.map(row => row.market))];
    fill(this.market, markets.length > 1 && choice("Market", [["all", "All"], ...markets], this.filter.market, key => { this.filter.market = key; this.draw(); }));
    const agreeing = coherence(this.rows).filter(one => Math.abs(one.sum) === one.directions.size && one.directions.size > 1).length;
    fill(this.lead, `${count(this.rows.length)} series. `, agreeing ? h("b", {}, `All timeframes agree on ${count(agreeing)} ${agreeing === 1 ? "instrument" : "instruments"}.`) : "The timeframes of no instrument all agree.");
    this.one = markets.length < 2;
    this.draw();
  }

  get #shown() {
    const { text, side, market } = this.filter;
    return this.rows.filter(row => (market === "all" || row.market === market) && (side === "all" || SIDE[row.mouth_direction] === side) && `${row.instrument} ${row.instrument.replace("/", "")} ${row.timeframe} ${row.market}`.toLowerCase().includes(text));
  }

  draw() {
    if (!this.rows.length) { fill(this.body, empty("signals", "No signals yet", "Signals come from the enhanced candles: the first refresh computes them.")); return; }
    const tabbed = tabs("Signals", [{ title: "Coherence", draw: () => coherenceTable(this.#shown, this.one) }, { title: "Newest by series", draw: () => newest(this.#shown) }], this.panel);
    tabbed.addEventListener("click", event => { const index = [...tabbed.querySelectorAll("[role=tab]")].indexOf(event.target); if (index >= 0) this.panel = index; });
    fill(this.body, tabbed);
  }
}

/** The mouth's direction of each instrument on every timeframe, with their sum. */
export function coherence(rows) {
  const instruments = new Map();
  for (const row of rows) {
    const key = `${row.market}|${row.instrument}`;
    if (!instruments.has(key)) instruments.set(key, { market: row.market, instrument: row.instrument, directions: new Map(), sum: 0 });
    const one = instruments.get(key);
    one.directions.set(row.timeframe, row);
    one.sum += { up: 1, down: -1 }[SIDE[row.mouth_direction]] ?? 0;
  }
  return [...instruments.values()];
}

function coherenceTable(rows, oneMarket) {
  const frames = TIMEFRAMES.filter(frame => rows.some(row => row.timeframe === frame));
  return table([
    { title: "Instrument", cell: one => h("span", {}, h("b", {}, one.instrument), !oneMarket && h("small", {}, ` ${one.market}`)), sort: one => one.instrument },
    ...frames.map(frame => ({ title: frame, class: "center", cell: one => one.directions.has(frame) ? mouth(one.directions.get(frame)) : "" })),
    { title: "Coherence", class: "wide-cell", cell: balance, sort: one => one.sum / one.directions.size, number: true },
  ], coherence(rows).sort((a, b) => Math.abs(b.sum / b.directions.size) - Math.abs(a.sum / a.directions.size)), { none: "No series fits the filter." });
}

function mouth(row) {
  const side = SIDE[row.mouth_direction] ?? "flat", text = `${row.instrument} ${row.timeframe}: mouth ${row.mouth_phase ?? "unknown"}, direction ${row.mouth_direction ?? "unknown"}`;
  return h("a", { class: `mouth ${side}`, href: seriesPage(row), title: text, "aria-label": text }, SIGN[row.mouth_direction] ?? "–");
}

function balance(one) {
  const share = one.sum / one.directions.size;
  const text = share === 0 ? "none" : `${Math.round(Math.abs(share) * 100)} % ${share > 0 ? "buy" : "sell"}`;
  return h("span", { class: "balance" }, h("span", { class: "balance-bar", "aria-hidden": "true" }, h("i", { class: share < 0 ? "down" : "up", style: { width: `${Math.abs(share) * 50}%`, [share < 0 ? "right" : "left"]: "50%" } })), h("span", { class: "balance-text" }, text));
}

function newest(rows) {
  return table([
    { title: "Series", cell: row => h("a", { href: seriesPage(row) }, `${row.instrument} ${row.timeframe}`), sort: row => `${row.instrument} ${row.timeframe}` },
    { title: "Mouth", cell: row => h("span", { class: "row nowrap" }, mouth(row), h("span", { class: "muted" }, row.mouth_phase ?? "–")), sort: row => row.mouth_phase },
    { title: "Zone", cell: row => zone(row.zone), sort: row => row.zone },
    ...KINDS.filter(([kind]) => rows.some(row => row[kind])).map(([kind, title]) => ({ title, cell: row => one(row[kind]), sort: row => row[kind]?.known_at ?? row[kind]?.open_time })),
  ], rows, { page: 100, none: "No series fits the filter." });
}

const zone = name => name ? badge({ green: "buy", red: "sell", gray: "closed" }[name] ?? name, name) : h("span", { class: "faint" }, "–");

function one(signal) {
  if (!signal) return h("span", { class: "faint" }, "–");
  return h("span", { class: "signal", title: `Candle ${instant(signal.open_time)} UTC, known ${instant(signal.known_at)} UTC` }, h("b", { class: `${SIDE[signal.direction] ?? ""}-text` }, `${SIGN[signal.direction] ?? "•"} ${signal.direction}`), h("small", {}, ago(signal.known_at ?? signal.open_time)));
}
