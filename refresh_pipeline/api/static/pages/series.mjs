// One series: its chart, what is stored, what was corrected, where its candles come from.

import { command, dataPath, get, getOr, recent, seriesPage, seriesRow, session } from "/static/client.mjs";
import { ago, ask, badge, button, card, choice, copy, count, duration, empty, fill, h, icon, instant, menu, percent, price, seconds, skeleton, table, tabs, toast, until } from "/static/dom.mjs";
import { PriceChart } from "/static/chart.mjs";
import { cellsOf, stateOf, TIMEFRAMES } from "/static/matrix.mjs";

const FIRST = 600, MORE = 1000, MOST = 20000, LAST_ROWS = 200;
const BASE = ["open", "high", "low", "close", "volume", "jaw", "teeth", "lips", "ao", "zone"];
const OVERLAYS = [["alligator", "Alligator"], ["big_alligator", "Big"], ["tide_alligator", "Tide"], ["zones", "Zones"], ["heikin", "Heikin-Ashi"], ["ao", "AO"], ["ac", "AC"], ["volume", "Volume"]];
const NEEDS = { alligator: ["jaw", "teeth", "lips"], big_alligator: ["big_jaw", "big_teeth", "big_lips"], tide_alligator: ["tide_jaw", "tide_teeth", "tide_lips"], ac: ["ac"], ao: ["ao"], zones: ["zone"], volume: ["volume"] };
const FRACTALS = ["2", "3", "5", "8", "13", "21", "34", "55", "89"];
const NUMBERS = /double|float|int|decimal|number/i;

export async function open(root, { path, go, signal }) {
  const rows = cellsOf(await recent("/api/v1/matrix"));
  if (!rows.length) { fill(root, empty("chart", "No series", "No market is loaded. Set REFRESH_MARKETS, or add a market's YAML.")); return null; }
  const wanted = parts(path);
  if (!wanted) { go(seriesPage(rows.find(row => !["never", "no_data"].includes(row.freshness)) ?? rows[0]), { replace: true }); return null; }
  const cell = rows.find(one => same(one, wanted));
  if (!cell) { fill(root, unknown(wanted, rows)); return null; }
  const row = await seriesRow(cell);
  const view = new SeriesView(root, row, rows, go, signal);
  await view.open();
  return view;
}

function parts(path) {
  const names = path.split("/").filter(Boolean).map(decodeURIComponent);
  return names.length < 3 ? null : { market: names[0], instrument: names.slice(1, -1).join("/"), timeframe: names.at(-1) };
}

const simple = text => text.toLowerCase().replace(/[^a-z0-9]/g, "");
const same = (row, wanted) => row.market === wanted.market && row.timeframe === wanted.timeframe && (row.instrument === wanted.instrument || simple(row.instrument) === simple(wanted.instrument));

function unknown(wanted, rows) {
  const near = rows.filter(row => simple(row.instrument) === simple(wanted.instrument) || row.market === wanted.market).slice(0, 6);
  return h("div", {}, empty("search", "No such series", `No loaded market has ${wanted.instrument} on ${wanted.timeframe} as ${wanted.market}.`, near.map(row => h("a", { class: "button", href: seriesPage(row) }, `${row.instrument} ${row.timeframe}`))));
}

class SeriesView {
  constructor(root, row, rows, go, signal) {
    Object.assign(this, { root, row, rows, go, signal, data: [], full: false, corrections: [] });
    this.options = { alligator: true, zones: false, ao: true, fractal: "2", heikin: false, volume: false, ac: false, ...stored(), columns: [] };
    this.legend = h("div", { class: "chart-legend", "aria-live": "off" });
    this.place = h("div", { class: "chart", role: "img", "aria-label": `Chart of ${row.instrument} ${row.timeframe}; the newest rows are in the table below` });
    this.headPlace = h("header", { class: "page-head series-head" });
    this.note = h("span", { class: "faint" });
  }

  async open() {
    this.#head();
    fill(this.root, this.headPlace, this.#chartCard(), this.#below());
    await this.#read();
  }

  /** The chart measures its place, so it is drawn once the page is on screen. */
  shown() {
    if (!this.data.length) { fill(this.place, this.#nothing()); return; }
    this.chart = new PriceChart(this.place, { older: () => this.#older(), hover: index => this.#legend(index) });
    this.#draw();
    this.chart.newest();
  }

  #nothing() {
    const { row } = this;
    return empty("chart", "No candle yet", row.reason ?? "Nothing is stored of this series.", button("Refresh", "refresh", () => this.#refresh(), { class: "button primary" }), button("Backfill", "history", () => this.#backfill()));
  }

  // ---- head

  #head() {
    const { row, rows } = this, last = this.data.at(-1), before = this.data.at(-2);
    const frames = rows.filter(one => one.market === row.market && one.instrument === row.instrument).map(one => one.timeframe).sort((a, b) => TIMEFRAMES.indexOf(a) - TIMEFRAMES.indexOf(b));
    const change = last && before ? last.close / before.close - 1 : null;
    fill(this.headPlace,
      h("div", { class: "quote" },
        h("div", { class: "row" }, this.#picker(), badge(stateOf(row), stateOf(row).replace("_", " ")), h("span", { class: "faint" }, row.market)),
        h("div", { class: "row price-row" }, h("b", { class: "price" }, price(last?.close)), change !== null && h("span", { class: change < 0 ? "down-text" : "up-text" }, `${change < 0 ? "▼" : "▲"} ${Math.abs(change * 100).toFixed(2)} %`), h("span", { class: "muted" }, "Next candle in ", until(row.next_close)))),
      h("div", { class: "row" }, choice("Timeframe", frames, row.timeframe, frame => this.go(seriesPage({ ...row, timeframe: frame }))), this.#actions()));
  }

  #picker() {
    const { row, rows } = this;
    const keys = [...new Set(rows.map(one => `${one.market}|${one.instrument}`))];
    const pick = event => {
      const [market, instrument] = event.target.value.split("|");
      const mine = rows.filter(one => one.market === market && one.instrument === instrument);
      this.go(seriesPage(mine.find(one => one.timeframe === row.timeframe) ?? mine[0]));
    };
    return h("span", { class: "instrument" }, h("h1", {}, row.instrument), h("select", { "aria-label": "Instrument", onchange: pick }, keys.map(key => h("option", { value: key, selected: key === `${row.market}|${row.instrument}` }, key.replace("|", "  ")))));
  }

  #actions() {
    const { row } = this, file = `${row.instrument.replaceAll("/", "-")}_${row.timeframe}`;
    const link = (format, limit) => ({ label: `${format} · newest ${count(limit)}`, href: dataPath(row, { format, limit: String(limit) }), download: `${file}.${format}` });
    return h("div", { class: "row" },
      button("Refresh", "refresh", () => this.#refresh(), { class: "button primary" }),
      button("Backfill", "history", () => this.#backfill()),
      menu("Download", "download", [link("csv", 500), link("csv", 5000), link("json", 500), link("ndjson", 5000), link("arrow", 5000), link("parquet", 5000)]),
      menu("Copy as", "copy", Object.keys(snippets(row)).map(name => ({ label: name, act: async () => copy(snippets(row, (await session()).key_needed)[name], name) }))));
  }

  #refresh() {
    const { row } = this;
    return command(`A refresh of ${row.instrument} ${row.timeframe} has started.`, "POST", "/api/v1/refresh", { markets: [row.market], instruments: [row.instrument], timeframes: [row.timeframe] });
  }

  async #backfill() {
    const { row } = this;
    const answer = await ask(`Backfill ${row.instrument} ${row.timeframe}`, "Candles that are missing in this range are asked for; stored ones stay.", [{ name: "since", label: "From (UTC)", type: "date", required: true }, { name: "until", label: "Until (UTC), open if empty", type: "date" }], { confirm: "Backfill" });
    if (!answer) return;
    const body = { markets: [row.market], instruments: [row.instrument], timeframes: [row.timeframe], since: `${answer.since}T00:00:00Z` };
    if (answer.until) body.until = `${answer.until}T00:00:00Z`;
    await command(`A backfill of ${row.instrument} ${row.timeframe} has started.`, "POST", "/api/v1/backfill", body);
  }

  // ---- chart

  #chartCard() {
    const toggles = OVERLAYS.map(([name, text]) => h("button", { type: "button", class: "chip", "aria-pressed": String(Boolean(this.options[name])), onclick: event => this.#toggle(name, event.currentTarget) }, text));
    const fractal = h("label", { class: "select small" }, h("span", {}, "Fractals"), h("select", { onchange: event => { this.options.fractal = event.target.value; this.#change(); } }, [["", "off"], ...FRACTALS.map(degree => [degree, degree])].map(([key, text]) => h("option", { value: key, selected: key === this.options.fractal }, text))));
    this.extra = h("span", { class: "row" });
    this.columnField = h("input", { type: "search", list: "columns", placeholder: "Add a column", "aria-label": "Add a column to the chart", onfocus: () => this.#offerColumns(), onchange: event => this.#addColumn(event.target.value.trim()) });
    const tools = h("div", { class: "chart-tools" }, toggles, fractal, h("label", { class: "search small" }, icon("columns"), this.columnField, h("datalist", { id: "columns" })), this.extra);
    return h("section", { class: "card chart-card", "aria-label": "Chart" }, tools, h("div", { class: "chart-frame" }, this.legend, this.place), h("footer", { class: "chart-foot" }, this.note, h("a", { href: "https://www.tradingview.com/", target: "_blank", rel: "noreferrer" }, "Charts by TradingView Lightweight Charts™")));
  }

  #toggle(name, chip) {
    this.options[name] = !this.options[name];
    chip.setAttribute("aria-pressed", String(this.options[name]));
    this.#change();
  }

  async #change() {
    const { columns, ...kept } = this.options;
    localStorage.setItem("chart", JSON.stringify(kept));
    await this.#complete();
    this.#draw();
  }

  /** The columns that the chart needs now, by the layer they come from. */
  #wanted() {
    const { options } = this;
    const enhanced = new Set(BASE);
    for (const [name, columns] of Object.entries(NEEDS)) if (options[name]) for (const column of columns) enhanced.add(column);
    if (options.fractal) { enhanced.add(`fractal_up_${options.fractal}`); enhanced.add(`fractal_down_${options.fractal}`); }
    for (const column of options.columns) if (column.layer === "enhanced") enhanced.add(column.name);
    return { enhanced: [...enhanced], indicators: options.columns.filter(column => column.layer === "indicators").map(column => column.name) };
  }

  async #fetch(query) {
    const wanted = this.#wanted(), range = { format: "columns", time: "s", ...query };
    const ask = (layer, columns) => columns.length ? get(dataPath(this.row, { layer, columns: columns.join(","), ...range }), { signal: this.signal }) : null;
    const [enhanced, indicators] = await Promise.all([ask("enhanced", wanted.enhanced), ask("indicators", wanted.indicators)]);
    const rows = records(enhanced), by = indicators && new Map(records(indicators).map(row => [row.time, row]));
    for (const row of rows) Object.assign(row, by?.get(row.time));
    return { rows, expected: enhanced.expected_open_time, indicators: wanted.indicators };
  }

  async #read() {
    const { row } = this;
    const [answer, revisions] = await Promise.all([row.candle_count ? this.#fetch({ limit: String(FIRST) }) : { rows: [] }, getOr(`/api/v1/revisions?${new URLSearchParams({ market: row.market, instrument: row.instrument, timeframe: row.timeframe })}`, { revisions: [] }, { signal: this.signal })]);
    this.data = answer.rows;
    this.known = new Set(Object.keys(this.data[0] ?? {}));
    this.expected = answer.expected && seconds(answer.expected);
    this.revisions = revisions.revisions ?? [];
    this.corrections = this.revisions.map(one => seconds(one.open_time));
    this.full = answer.rows.length < FIRST;
    this.#head();
    this.panels?.show(this.panel ?? 0);
  }

  /** Read the rows on screen anew where a column that is wanted now is not in them. */
  async #complete() {
    const { enhanced, indicators } = this.#wanted();
    if ([...enhanced, ...indicators].every(name => this.known?.has(name)) || !this.data.length) return;
    const { rows } = await this.#fetch({ limit: String(Math.min(10000, this.data.length)) });
    const by = new Map(rows.map(row => [row.time, row]));
    this.data = this.data.map(row => ({ ...row, ...by.get(row.time) }));
    this.known = new Set([...(this.known ?? []), ...enhanced, ...indicators]);
  }

  async #older() {
    if (this.full || this.reading || this.data.length >= MOST) return;
    this.reading = true;
    this.note.textContent = "Reading older candles …";
    try {
      const { rows } = await this.#fetch({ limit: String(MORE), until: String(this.data[0].time * 1000) });
      const first = this.data[0].time, older = rows.filter(row => row.time < first);
      this.full = rows.length < MORE;
      this.data = [...older, ...this.data];
      this.#draw();
    } catch (error) {
      if (error.name !== "AbortError") toast(error.message, "error");
      this.full = true;
    } finally {
      this.reading = false;
      this.#say();
    }
  }

  #draw() {
    if (!this.chart) return;
    this.chart.draw(this.data, { ...this.options, expected: this.expected, corrections: this.corrections });
    this.#legend(null);
    this.#say();
  }

  #say() {
    this.note.textContent = `${count(this.data.length)} of ${count(this.row.candle_count)} candles, since ${instant(this.data[0] && new Date(this.data[0].time * 1000).toISOString())}${this.full ? "" : "; scroll left for more"}`;
  }

  #legend(index) {
    const row = this.data[index ?? this.data.length - 1];
    if (!row) return;
    const value = (name, number) => h("span", {}, h("i", {}, name), h("b", { class: row.close >= row.open ? "up-text" : "down-text" }, price(number)));
    const names = [...(this.options.alligator ? ["jaw", "teeth", "lips"] : []), ...(this.options.ao ? ["ao"] : []), ...this.options.columns.map(column => column.name)];
    fill(this.legend, h("time", {}, instant(new Date(row.time * 1000).toISOString())), value("O", row.open), value("H", row.high), value("L", row.low), value("C", row.close), h("span", { class: "legend-columns" }, names.map(name => h("span", { class: `line-${name}` }, h("i", {}, name), price(row[name])))));
  }

  async #offerColumns() {
    if (this.offered) return;
    this.offered = [];
    const [enhanced, indicators] = await Promise.all(["enhanced", "indicators"].map(layer => getOr(`/api/v1/columns?${new URLSearchParams({ layer, market: this.row.market })}`, { columns: [] })));
    const usable = (answer, layer) => answer.columns.filter(column => NUMBERS.test(column.type ?? "double")).map(column => ({ ...column, layer }));
    const taken = new Set(["open_time", "open", "high", "low", "close"]);
    this.offered = [...usable(enhanced, "enhanced"), ...usable(indicators, "indicators")].filter(column => !taken.has(column.name) && taken.add(column.name));
    fill(this.root.querySelector("#columns"), this.offered.map(column => h("option", { value: column.name }, column.description ?? column.layer)));
  }

  async #addColumn(name) {
    if (!name) return;
    await this.#offerColumns();
    const column = this.offered.find(one => one.name.toLowerCase() === name.toLowerCase());
    this.columnField.value = "";
    if (!column) { toast(`${name} is not a column of this series; type a few letters to see their names.`, "error"); return; }
    if (this.options.columns.some(one => one.name === column.name)) return;
    this.options.columns.push({ ...column, below: false });
    await this.#complete();
    column.below = !nearPrice(this.data, column.name);
    this.options.columns.at(-1).below = column.below;
    this.#chips();
    this.#draw();
  }

  #chips() {
    fill(this.extra, this.options.columns.map(column => h("button", { type: "button", class: "chip", "aria-pressed": "true", title: `Remove ${column.name}`, onclick: () => { this.options.columns = this.options.columns.filter(one => one !== column); this.#chips(); this.#draw(); } }, column.name, icon("close"))));
  }

  // ---- below the chart

  #below() {
    const panel = (title, draw) => ({ title, draw: () => draw() });
    const list = [panel("Last rows", () => this.#rows()), panel("Corrections", () => this.#corrections()), panel("Rejected", () => this.#lazy("rejected", rejectedTable)), panel("Where it stands", () => this.#standing())];
    this.panels = tabs("About this series", list);
    const element = card(null, null, this.panels);
    element.addEventListener("click", event => { const heads = [...element.querySelectorAll("[role=tab]")]; if (heads.includes(event.target)) this.panel = heads.indexOf(event.target); });
    return element;
  }

  #rows() {
    const place = h("div", {}, skeleton(4));
    const { row } = this;
    if (!row.candle_count) { fill(place, empty("chart", "No candle yet", "A refresh or a backfill brings the first.")); return place; }
    get(dataPath(row, { layer: "candles", limit: String(LAST_ROWS) }), { signal: this.signal }).then(answer => fill(place, lastRows(answer, new Set(this.corrections))), error => { if (error.name !== "AbortError") fill(place, empty("alerts", "Not read", error.message)); });
    return place;
  }

  #corrections() {
    if (!this.revisions) return skeleton(3);
    if (!this.revisions.length) return empty("check", "Nothing was corrected", "Every candle stands as it was first stored. A late correction of the source would be listed here: was, is, when.");
    const fields = ["open", "high", "low", "close", "volume"];
    const changed = one => one.is ? fields.filter(name => one.was[name] !== one.is[name]) : fields;
    return table([
      { title: "Candle", cell: one => instant(one.open_time), sort: one => one.open_time },
      { title: "Was", cell: one => changed(one).map(name => h("div", {}, h("span", { class: "faint" }, `${name} `), price(one.was[name]))) },
      { title: "Is", cell: one => one.is ? changed(one).map(name => h("div", {}, h("span", { class: "faint" }, `${name} `), price(one.is[name]))) : h("span", { class: "faint" }, "withdrawn") },
      { title: "Source", cell: one => one.was?.source ?? "–" },
      { title: "Corrected", cell: one => ago(one.at), sort: one => one.at },
    ], this.revisions);
  }

  #lazy(route, draw) {
    const place = h("div", {}, skeleton(3)), { row } = this;
    const query = new URLSearchParams({ market: row.market, instrument: row.instrument, timeframe: row.timeframe });
    getOr(`/api/v1/${route}?${query}`, {}, { signal: this.signal }).then(answer => fill(place, draw(answer)), () => fill(place, empty("alerts", "Not read", "The server did not answer.")));
    return place;
  }

  #standing() {
    const { row } = this, place = h("div", { class: "card-body" });
    const lines = [["Newest candle", instant(row.newest_candle)], ["Expected", instant(row.expected_candle)], ["Behind", row.bars_behind ? `${row.bars_behind} candles` : "not behind"], ["Age", duration(row.age_seconds)], ["First candle", instant(row.first_candle)], ["Stored", count(row.candle_count)], ["Completeness", percent(row.completeness, 3)], ["Last attempt", ago(row.attempted_at)], ["Outcome", row.outcome ?? "–"], ["Reason", row.reason ?? "–"]];
    const facts = h("dl", { class: "facts wide" });
    const draw = more => fill(facts, [...lines, ...more].map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
    draw([]);
    getOr(`/api/v1/lineage/${row.instrument.split("/").map(encodeURIComponent).join("/")}/${row.timeframe}?market=${encodeURIComponent(row.market)}`, {}, { signal: this.signal }).then(lineage => draw(lineageLines(lineage)), () => {});
    const links = h("div", { class: "row" });
    recent("/api/v1/config", 600000).then(config => fill(links, dagsterLinks(row, config.settings?.REFRESH_DAGSTER_URL?.value)), () => {});
    fill(place, facts, links);
    return place;
  }

  // ---- news

  async update(kind, message) {
    const mine = (message.series ?? []).some(one => one.instrument === this.row.instrument) && message.market === this.row.market && message.timeframe === this.row.timeframe;
    if (kind === "candles" && !mine) return;
    if (!["candles", "poll", "reset"].includes(kind)) return;
    this.row = await seriesRow(this.row, 0);
    if (!this.row.candle_count) { this.#head(); return; }
    const { rows, expected } = await this.#fetch({ limit: String(LAST_ROWS) });
    const first = rows[0]?.time ?? Infinity;
    this.data = [...this.data.filter(row => row.time < first), ...rows];
    this.expected = expected && seconds(expected);
    if (!this.chart) { fill(this.place); this.shown(); }
    this.#draw();
    this.#head();
  }

  close() {
    this.chart?.close();
    this.chart = null;
  }
}

function stored() {
  try { return JSON.parse(localStorage.getItem("chart")) ?? {}; } catch { return {}; }
}

/** Columns of arrays as rows, with `time` in seconds. */
function records(answer) {
  if (!answer) return [];
  const { open_time: times = [], ...rest } = answer.data, names = Object.keys(rest);
  return times.map((time, number) => Object.fromEntries([["time", time], ...names.map(name => [name, rest[name][number]])]));
}

/** Whether a column runs where prices run, so that it belongs on the candles and not below them. */
function nearPrice(rows, name) {
  const values = rows.slice(-300).filter(row => Number.isFinite(row[name]));
  const inside = values.filter(row => row[name] > row.close * 0.7 && row[name] < row.close * 1.3);
  return values.length > 0 && inside.length > values.length * 0.9;
}

function lastRows(answer, corrected) {
  const rows = answer.data.map(row => ({ ...row, corrected: corrected.has(seconds(row.open_time)) })).reverse();
  const number = name => ({ title: name, number: true, cell: row => name === "volume" ? count(row[name]) : price(row[name]), sort: row => row[name] });
  return table([{ title: "open_time (UTC)", cell: row => h("span", {}, instant(row.open_time), row.corrected && h("span", { class: "badge queued", title: "This candle was corrected" }, h("b", {}, "c"), "corrected")), sort: row => row.open_time }, ...["open", "high", "low", "close", "volume"].map(number), { title: "Source", cell: row => row.source ?? "–" }, { title: "Fetched", cell: row => ago(row.fetched_at) }], rows, { page: 20 });
}

function rejectedTable(answer) {
  const rows = answer.rejected ?? [];
  if (!rows.length) return empty("check", "Nothing was rejected", "Every candle that came had numbers that agree with each other.");
  return table([{ title: "Candle", cell: row => instant(row.open_time), sort: row => row.open_time }, { title: "Reason", class: "wrap", cell: row => row.reason }, { title: "Received", class: "wrap", cell: row => h("code", {}, row.received ?? "–") }, { title: "Source", cell: row => row.source ?? "–" }, { title: "When", cell: row => ago(row.at), sort: row => row.at }], rows);
}

function lineageLines(lineage) {
  const lines = [["Source", lineage.source]];
  if (lineage.fetched) lines.push(["Newest candle fetched", ago(lineage.fetched.at)]);
  for (const one of lineage.computed ?? []) lines.push([one.asset, h("span", {}, badge(one.outcome), " ", ago(one.at), one.run_id && [" ", h("a", { href: `/runs/${one.run_id}` }, "run")])]);
  for (const one of lineage.exported ?? []) lines.push(["Exported", h("span", {}, h("code", {}, one.path), " ", ago(one.at))]);
  for (const one of lineage.uploaded ?? []) lines.push([`Uploaded to ${one.destination}`, ago(one.at)]);
  return lines;
}

/** The partition of the series on the page of each of its assets in Dagster. */
function dagsterLinks(row, base) {
  if (!/^https?:\/\//.test(base ?? "")) return [];
  const partition = encodeURIComponent(`${row.instrument}|${row.timeframe}`);
  return ["raw_candles", "enhanced_candles", "indicators"].map(asset => h("a", { class: "button small", target: "_blank", rel: "noreferrer", href: `${base.replace(/\/$/, "")}/assets/${encodeURIComponent(row.market)}/${asset}?view=partitions&partition=${partition}` }, icon("link"), `${asset} in Dagster`));
}

const KEY = '{"X-API-Key": os.environ["REFRESH_API_KEY"]}';

/** The same question for other programs; the key that a server asks for comes from their environment. */
export function snippets(row, keyed = false) {
  const url = `${location.origin}${dataPath(row, { limit: "500" })}`;
  return {
    curl: `curl -s ${keyed ? '-H "X-API-Key: $REFRESH_API_KEY" ' : ""}'${url}'`,
    pandas: `import ${keyed ? "os\nimport " : ""}pandas as pd\n\ndf = pd.read_csv("${url}&format=csv", parse_dates=["open_time"]${keyed ? `, storage_options=${KEY}` : ""})`,
    polars: `import ${keyed ? "os, " : ""}polars as pl, urllib.request\n\nrequest = urllib.request.Request("${url}&format=csv"${keyed ? `, headers=${KEY}` : ""})\ndf = pl.read_csv(urllib.request.urlopen(request), infer_schema_length=None, try_parse_dates=True)`,
    SQL: `select * from ${row.market}.enhanced_candles\nwhere instrument = '${row.instrument.replaceAll("'", "''")}' and timeframe = '${row.timeframe}'\norder by open_time desc limit 500;`,
  };
}

