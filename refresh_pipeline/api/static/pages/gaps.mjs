// Gaps: where the stored history of each series has holes, by day; confirmed ones are hatched.

import { command, get, recent, seriesPage } from "/static/client.mjs";
import { ago, badge, button, card, choice, count, empty, fill, h, icon, instant, percent } from "/static/dom.mjs";

const DAY = 86400000, PAGE = 60;
const SPANS = [["14", "2 weeks"], ["30", "30 days"], ["90", "90 days"], ["365", "1 year"]];
const STEP = { m1: 60, m5: 300, m15: 900, m30: 1800, H1: 3600, H2: 7200, H3: 10800, H4: 14400, H6: 21600, H8: 28800, D1: 86400, W1: 604800, MN1: 2592000 };

export async function open(root, { signal }) {
  const view = new Gaps();
  await view.read(signal);
  fill(root, view.elements);
  return { update: kind => kind === "candles" ? null : view.read() };
}

class Gaps {
  constructor() {
    this.filter = { days: 30, text: "", all: false, shown: PAGE };
    this.lead = h("p", { class: "lead" });
    this.tracks = h("div", { class: "tracks" });
    this.detail = h("div", { class: "gap-detail", "aria-live": "polite" });
    const search = h("label", { class: "search" }, icon("search"), h("input", { type: "search", placeholder: "Filter series", "aria-label": "Filter series", oninput: event => { this.filter.text = event.target.value.toLowerCase(); this.draw(); } }));
    const which = choice("Series", [["gaps", "With gaps"], ["all", "All"]], "gaps", key => { this.filter.all = key === "all"; this.draw(); });
    const days = choice("Days", SPANS, "30", key => { this.filter.days = Number(key); this.draw(); });
    this.elements = [
      h("header", { class: "page-head" }, h("div", {}, h("h1", {}, "Gaps"), this.lead), h("div", { class: "row" }, days)),
      card("Completeness by day", [search, which], this.#legend(), this.tracks),
    ];
  }

  #legend() {
    const sign = (name, text) => h("span", { class: "key" }, h("i", { class: `day ${name}`, "aria-hidden": "true" }), text);
    return h("div", { class: "keys" }, sign("whole", "complete"), sign("few", "few missing"), sign("many", "many missing"), sign("confirmed", "confirmed: the source has nothing"), sign("before", "before the first candle"));
  }

  async read(signal) {
    const [gaps, series] = await Promise.all([get("/api/v1/gaps", { signal }), recent("/api/v1/series")]);
    const first = new Map(series.series.map(row => [key(row), row.first_candle]));
    this.rows = (gaps.series ?? gaps.gaps).map(row => ({ ...row, first: first.get(key(row)) }));
    const missing = this.rows.reduce((sum, row) => sum + row.expected_count - row.stored_count, 0);
    const holed = this.rows.filter(row => row.gaps.length).length;
    fill(this.lead, holed ? [h("b", {}, `${count(missing)} candles`), ` missing in ${count(holed)} of ${count(this.rows.length)} series.`] : `All ${count(this.rows.length)} series are complete.`);
    this.draw();
  }

  draw() {
    const { text, all, shown } = this.filter;
    const rows = this.rows.filter(row => (all || row.gaps.length) && `${row.market} ${row.instrument} ${row.instrument.replace("/", "")} ${row.timeframe}`.toLowerCase().includes(text));
    if (!rows.length) { fill(this.tracks, this.rows.length ? empty("check", text ? "No series fits the filter" : "No gaps", text ? "Change the filter, or show all series." : "Every expected candle of every series is stored.") : empty("gaps", "No series", "No market is loaded.")); return; }
    const more = rows.length > shown && h("div", { class: "table-more" }, button(`Show ${Math.min(PAGE, rows.length - shown)} more of ${count(rows.length - shown)}`, null, () => { this.filter.shown += PAGE; this.draw(); }, { class: "button quiet" }));
    fill(this.tracks, this.#scale(), rows.slice(0, shown).map(row => this.#track(row)), more);
  }

  get #from() {
    return startOfDay(Date.now()) - (this.filter.days - 1) * DAY;
  }

  #scale() {
    const { days } = this.filter, step = days > 100 ? 61 : days > 40 ? 15 : days > 20 ? 5 : 2;
    const marks = [];
    for (let day = 0; day < days; day += step) marks.push(h("span", { style: { left: `${day / days * 100}%` } }, new Date(this.#from + day * DAY).toISOString().slice(5, 10)));
    return h("div", { class: "track-line scale", "aria-hidden": "true" }, h("span"), h("div", { class: "track-scale" }, marks), h("span"));
  }

  #track(row) {
    const from = this.#from, width = this.filter.days * DAY, place = time => Math.max(0, Math.min(100, (time - from) / width * 100));
    const first = row.first ? place(startOfDay(Date.parse(row.first))) : 100;
    const spans = daysOf(row).filter(day => day.until > from).map(day => this.#day(row, day, place));
    return h("div", { class: "track-line" },
      h("a", { class: "track-name", href: seriesPage(row) }, h("b", {}, row.instrument), h("span", {}, row.timeframe), h("small", {}, row.market)),
      h("div", { class: "track", style: { "--days": String(this.filter.days) } }, first > 0 && h("i", { class: "day before", style: { left: "0", width: `${first}%` } }), spans),
      h("span", { class: "track-end" }, percent(row.completeness, 2), row.gaps.some(gap => !gap.confirmed) && button("Fill all", null, () => fillGaps(row, row.gaps), { class: "button small" })));
  }

  #day(row, day, place) {
    const left = place(day.since), label = `${row.instrument} ${row.timeframe}, ${day.days > 1 ? `${iso(day.since)} to ${iso(day.until - DAY)}` : iso(day.since)}: ${percent(1 - day.share, 1)} complete${day.confirmed ? ", confirmed" : ""}`;
    const open = event => this.#show(row, day, event.currentTarget);
    return h("button", { type: "button", class: `day ${day.confirmed ? "confirmed" : day.share > 0.25 ? "many" : "few"}`, style: { left: `${left}%`, width: `${Math.max(0.35, place(day.until) - left)}%` }, title: label, "aria-label": label, onclick: open });
  }

  #show(row, day, opener) {
    const close = () => dialog.close();
    const lines = day.gaps.map(gap => h("div", { class: "list-line" }, badge(gap.confirmed ? "closed" : "late", gap.confirmed ? "confirmed" : "missing"), h("span", {}, h("b", {}, `${count(gap.candles)} ${gap.candles === 1 ? "candle" : "candles"}`), h("small", {}, `${instant(gap.first)} to ${instant(gap.last)} UTC`), gap.asked_at && h("small", {}, "asked ", ago(gap.asked_at))), !gap.confirmed && button("Fill", "refresh", () => { close(); return fillGaps(row, [gap]); }, { class: "button small" })));
    const dialog = h("dialog", { "aria-label": "Gaps of a day" }, h("button", { type: "button", class: "button icon-only quiet corner", "aria-label": "Close", onclick: close }, icon("close")), h("h2", {}, `${row.instrument} ${row.timeframe}`), h("p", {}, day.days > 1 ? `${iso(day.since)} to ${iso(day.until - DAY)}` : iso(day.since)), h("div", { class: "list" }, lines), h("div", { class: "row end" }, h("a", { class: "button", href: seriesPage(row), onclick: close }, icon("chart"), "Open the chart")));
    dialog.addEventListener("close", () => { dialog.remove(); opener.focus(); });
    document.body.append(dialog);
    dialog.showModal();
  }
}

const key = row => `${row.market}|${row.instrument}|${row.timeframe}`;
const startOfDay = time => Math.floor(time / DAY) * DAY;
const iso = time => new Date(time).toISOString().slice(0, 10);

/** The days of a series that miss candles, neighbours of the same kind together: since, until, share, confirmed, gaps. */
export function daysOf(row) {
  const days = new Map(), step = (STEP[row.timeframe] ?? 3600) * 1000;
  for (const gap of row.gaps) {
    const first = Date.parse(gap.first), last = Date.parse(gap.last) + step;
    for (let day = startOfDay(first); day < last; day += DAY) {
      const entry = days.get(day) ?? { since: day, until: day + DAY, share: 0, confirmed: true, gaps: [], days: 1 };
      entry.share = Math.min(1, entry.share + (Math.min(last, day + DAY) - Math.max(first, day)) / DAY);
      entry.confirmed &&= gap.confirmed;
      entry.gaps.push(gap);
      days.set(day, entry);
    }
  }
  return joined([...days.values()].sort((a, b) => a.since - b.since));
}

function joined(days) {
  const result = [];
  for (const day of days) {
    const before = result.at(-1);
    if (before && before.until === day.since && before.confirmed === day.confirmed && before.share === 1 && day.share === 1) { before.until = day.until; before.days += 1; before.gaps = [...new Set([...before.gaps, ...day.gaps])]; } else result.push(day);
  }
  return result;
}

async function fillGaps(row, gaps) {
  const missing = gaps.filter(gap => !gap.confirmed), firsts = missing.map(gap => gap.first).sort(), lasts = missing.map(gap => gap.last).sort();
  await command(`${row.instrument} ${row.timeframe} is asked for what is missing.`, "POST", "/api/v1/gaps/fill", { market: row.market, series: `${row.instrument}|${row.timeframe}`, first: firsts[0], last: lasts.at(-1) });
}
