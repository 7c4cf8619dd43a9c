// The matrix instrument x timeframe: one cell a series, drawn once and then only recoloured.

import { card, choice, count, duration, empty, fill, h, icon, instant, SIGNS } from "/static/dom.mjs";

export const TIMEFRAMES = ["m1", "m5", "m15", "m30", "H1", "H2", "H3", "H4", "H6", "H8", "D1", "W1", "MN1"];
/** From good to bad, which is also the order of "worst first". */
export const STATES = ["fresh", "closed", "never", "no_data", "late", "stale", "failed"];
const WORDS = { fresh: "fresh", closed: "market closed", never: "never fetched", no_data: "no data", late: "late", stale: "stale", failed: "failed" };
const MOST_FLASHES = 100;
// Milliseconds on a cell before its series is asked for.
const HOVER = 120;
const ORDERS = [["worst", "Worst first"], ["catalog", "Catalog"], ["name", "Name"]];

export const stateOf = row => WORDS[row.freshness] ? row.freshness : "never";
const worstOf = rows => Math.max(...[...rows.values()].map(row => STATES.indexOf(stateOf(row))));
const keyOf = ({ market, instrument }) => `${market}|${instrument}`;
const isCell = element => element.classList.contains("cell");
const signOf = state => state === "fresh" ? "" : SIGNS[state.replace("_", "-")];

/** A row for each digit of the answer of /api/v1/matrix. */
export function cellsOf({ states, markets }) {
  return markets.flatMap(({ market, instruments, timeframes, cells }) => timeframes.flatMap((timeframe, frame) => instruments.map((instrument, number) => ({ market, instrument, timeframe, freshness: states[cells[frame * instruments.length + number]] }))));
}

/** The matrix with its filters. `open(row)` and `refresh(row)` are what a cell can do; `details(row)` promises all of it. */
export class Matrix {
  constructor(actions) {
    this.actions = actions;
    this.filter = { market: "all", text: "", states: new Set(), order: "worst" };
    this.signature = "";
    this.tools = h("div", { class: "matrix-tools" });
    this.grid = h("div", { class: "matrix-scroll" });
    this.sum = h("span", { class: "faint" });
    this.element = card("Freshness", this.sum, this.tools, this.grid);
    this.element.classList.add("matrix-card");
    this.tip = document.getElementById("tooltip");
    this.#listen();
  }

  show(rows) {
    this.rows = rows;
    const signature = rows.map(row => `${row.market}|${row.instrument}|${row.timeframe}`).join();
    if (signature !== this.signature) {
      this.signature = signature;
      this.#build();
    } else {
      this.#recolour();
    }
    this.#tools();
    this.#arrange();
  }

  only(market) {
    this.filter.market = this.filter.market === market ? "all" : market;
    this.#tools();
    this.#arrange();
  }

  #build() {
    this.frames = TIMEFRAMES.filter(frame => this.rows.some(row => row.timeframe === frame));
    // Its name beside each instrument says nothing.
    this.element.classList.toggle("one-market", new Set(this.rows.map(row => row.market)).size < 2);
    this.patterns = new Map();
    this.lines = group(this.rows).map((line, number) => this.#line(line, number));
    this.byKey = new Map(this.lines.map(line => [keyOf(line), line]));
    this.byElement = new Map(this.lines.map(line => [line.element, line]));
    this.body = h("div", { role: "rowgroup" });
    const head = h("div", { class: "matrix-row head", role: "row" }, h("div", { class: "row-head", role: "columnheader" }, "Instrument"), this.frames.map(frame => h("div", { role: "columnheader" }, frame)));
    fill(this.grid, this.rows.length ? h("div", { class: "matrix", style: { "--frames": String(this.frames.length) }, role: "grid", "aria-label": "Freshness by instrument and timeframe" }, head, this.body) : empty("overview", "No series", "No market is loaded. Set REFRESH_MARKETS, or add a market's YAML to REFRESH_MARKETS_DIR."));
  }

  #line(line, number) {
    const { market, instrument, rows } = line;
    const element = this.#pattern(rows).cloneNode(true), [name, from] = element.firstChild.children;
    element.firstChild.title = `${instrument} (${market})`;
    name.textContent = instrument;
    from.textContent = market;
    return { market, instrument, rows, element, number, worst: worstOf(rows), text: `${market} ${instrument} ${instrument.replace(/[^A-Za-z0-9]/g, "")}`.toLowerCase() };
  }

  /** An element with the cells of these rows. It is cloned: that takes a fifth of making and painting thirteen cells. */
  #pattern(rows) {
    const key = this.frames.map(frame => rows.has(frame) ? STATES.indexOf(stateOf(rows.get(frame))) : "-").join();
    if (!this.patterns.has(key)) {
      const cells = this.frames.map(frame => {
        const cell = h("div", { role: "gridcell", tabindex: rows.has(frame) && "-1" });
        if (rows.has(frame)) paint(cell, rows.get(frame));
        return cell;
      });
      this.patterns.set(key, h("div", { class: "matrix-row", role: "row" }, h("div", { class: "row-head", role: "rowheader" }, h("span"), h("small")), cells));
    }
    return this.patterns.get(key);
  }

  #row(cell) {
    const line = this.byElement.get(cell.parentElement);
    return line.rows.get(this.frames[[...line.element.children].indexOf(cell) - 1]);
  }

  #recolour() {
    const changed = [];
    for (const row of this.rows) {
      const line = this.byKey.get(keyOf(row)), before = line.rows.get(row.timeframe);
      line.rows.set(row.timeframe, row);
      if (stateOf(before) === stateOf(row)) continue;
      const cell = line.element.children[this.frames.indexOf(row.timeframe) + 1];
      line.worst = worstOf(line.rows);
      paint(cell, row);
      changed.push(cell);
    }
    // A flash draws the eye to a few; where everything changes there is nothing to point at.
    if (changed.length <= MOST_FLASHES) for (const cell of changed) cell.classList.add("changed");
  }

  #tools() {
    const counts = Object.fromEntries(STATES.map(state => [state, 0]));
    const markets = [...new Set(this.rows.map(row => row.market))];
    for (const row of this.rows) if (this.filter.market === "all" || row.market === this.filter.market) counts[stateOf(row)] += 1;
    if (!this.legend) this.#buildTools();
    fill(this.picker, markets.length > 1 && choice("Market", [["all", "All"], ...markets], this.filter.market, key => { this.filter.market = key; this.#tools(); this.#arrange(); this.picker.querySelector("[aria-pressed=true]").focus(); }));
    this.#counts(counts);
  }

  #buildTools() {
    const search = h("label", { class: "search" }, icon("search"), h("input", { type: "search", placeholder: "Filter instruments", "aria-label": "Filter instruments", oninput: event => { this.filter.text = event.target.value.toLowerCase(); this.#arrange(); } }));
    const order = h("label", { class: "select" }, h("span", {}, "Sort"), h("select", { onchange: event => { this.filter.order = event.target.value; this.#arrange(); } }, ORDERS.map(([key, text]) => h("option", { value: key, selected: key === this.filter.order }, text))));
    this.picker = h("span");
    this.legend = h("div", { class: "legend", role: "group", "aria-label": "Show these states alone" });
    fill(this.tools, h("div", { class: "row" }, search, this.picker, order), this.legend);
  }

  #counts(counts) {
    const chips = STATES.toReversed().filter(state => counts[state] || this.filter.states.has(state)).map(state => {
      const press = () => { if (!this.filter.states.delete(state)) this.filter.states.add(state); this.#tools(); this.#arrange(); this.legend.querySelector(`[data-state=${state}]`)?.focus(); };
      return h("button", { type: "button", class: `chip ${slugged(state)}`, data: { state }, "aria-pressed": String(this.filter.states.has(state)), onclick: press }, h("i", { class: `swatch ${slugged(state)}`, "aria-hidden": "true" }, signOf(state)), WORDS[state], h("b", {}, count(counts[state])));
    });
    fill(this.legend, chips);
  }

  /** Rows in their order, those that the filter hides left out. */
  #arrange() {
    if (!this.body) return;
    const { market, text, states, order } = this.filter;
    const shown = this.lines.filter(line => (market === "all" || line.market === market) && line.text.includes(text) && (!states.size || [...line.rows.values()].some(row => states.has(stateOf(row)))));
    const by = { worst: (a, b) => b.worst - a.worst || a.number - b.number, catalog: (a, b) => a.number - b.number, name: (a, b) => a.instrument < b.instrument ? -1 : 1 }[order];
    shown.sort(by);
    const rows = shown.map(line => line.element);
    if (rows.length !== this.body.children.length || rows.some((row, index) => row !== this.body.children[index])) this.body.replaceChildren(...rows);
    this.sum.textContent = shown.length === this.lines.length ? `${count(this.lines.length)} instruments` : `${count(shown.length)} of ${count(this.lines.length)} instruments`;
    if (!shown.length && this.lines.length) this.body.replaceChildren(h("div", { class: "nothing" }, "No instrument fits the filter."));
    this.grid.classList.toggle("dim", states.size > 0);
    for (const state of STATES) this.grid.classList.toggle(`keep-${slugged(state)}`, states.has(state));
    const focusable = this.body.querySelector(".cell[tabindex='0']") ?? this.body.querySelector(".cell");
    if (focusable) focusable.tabIndex = 0;
  }

  #listen() {
    const cellOf = event => event.target.closest?.(".cell");
    this.grid.addEventListener("pointerover", event => { const cell = cellOf(event); if (cell && event.pointerType === "mouse") this.#hint(cell); });
    this.grid.addEventListener("pointerleave", () => this.#hide());
    this.grid.addEventListener("focusin", event => { const cell = cellOf(event); if (cell?.matches(":focus-visible")) this.#hint(cell); });
    this.grid.addEventListener("focusout", () => this.#hide());
    this.grid.addEventListener("click", event => { const cell = cellOf(event); if (cell) this.#card(cell); });
    this.grid.addEventListener("keydown", event => this.#key(event));
  }

  #key(event) {
    const cell = event.target.closest?.(".cell");
    if (!cell) return;
    const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    if (steps[event.key]) { event.preventDefault(); this.#move(cell, ...steps[event.key]); }
    const ends = { Home: 0, End: -1 };
    if (event.key in ends) { event.preventDefault(); this.#focus(cell, [...cell.parentElement.children].filter(isCell).at(ends[event.key])); }
    if (event.key === "Escape") this.#hide();
    if (event.key === "Enter") { event.preventDefault(); this.actions.open(this.#row(cell)); }
    if (event.key === " ") { event.preventDefault(); this.#card(cell); }
    if (event.key === "r") this.actions.refresh(this.#row(cell));
  }

  #move(cell, down, right) {
    let line = cell.parentElement, at = [...line.children].indexOf(cell);
    do {
      at += right;
      if (down) line = down > 0 ? line.nextElementSibling : line.previousElementSibling;
    } while (line?.children[at] && at > 0 && !isCell(line.children[at]));
    const next = line?.children[at];
    if (next && isCell(next)) this.#focus(cell, next);
  }

  /** One cell alone is a stop of the tab key: the one that was reached last. */
  #focus(cell, next) {
    cell.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }

  #hint(cell) {
    const row = this.#row(cell);
    cell.setAttribute("aria-label", `${row.instrument} ${row.timeframe}: ${WORDS[stateOf(row)]}`);
    this.hinted = cell;
    fill(this.tip, facts(row));
    this.tip.hidden = false;
    place(this.tip, cell);
    // A pointer that only passes asks nothing.
    setTimeout(() => this.#detail(cell, () => this.hinted === cell, full => { fill(this.tip, facts(full)); place(this.tip, cell); }), HOVER);
  }

  /** Show what the server knows of a series, while whoever asked still looks. */
  async #detail(cell, looking, show) {
    if (!this.actions.details || !looking()) return;
    try {
      const row = await this.actions.details(this.#row(cell));
      if (looking()) show(row);
    } catch {
      // The page says by itself that the server does not answer.
    }
  }

  #hide() {
    this.hinted = null;
    this.tip.hidden = true;
  }

  /** What is known of one series, and what can be done with it. */
  #card(cell) {
    this.#hide();
    const row = this.#row(cell), close = () => { dialog.close(); }, known = h("div", {}, facts(row));
    const dialog = h("dialog", { class: "cell-card", "aria-label": `${row.instrument} ${row.timeframe}` },
      h("button", { type: "button", class: "button icon-only quiet corner", "aria-label": "Close", onclick: close }, icon("close")),
      known,
      h("div", { class: "row" },
        h("button", { type: "button", class: "button primary", onclick: () => { close(); this.actions.open(row); } }, icon("chart"), "Open the chart"),
        h("button", { type: "button", class: "button", onclick: () => { close(); this.actions.refresh(row); } }, icon("refresh"), "Refresh")));
    dialog.addEventListener("close", () => { dialog.remove(); cell.focus(); });
    dialog.addEventListener("click", event => { if (event.target === dialog) close(); });
    document.body.append(dialog);
    dialog.showModal();
    dialog.querySelector(".primary").focus();
    this.#detail(cell, () => dialog.open, full => fill(known, facts(full)));
  }

  close() {
    this.#hide();
  }
}

const slugged = state => state.replace("_", "-");

function group(rows) {
  const lines = new Map();
  for (const row of rows) {
    const key = `${row.market}|${row.instrument}`;
    if (!lines.has(key)) lines.set(key, { market: row.market, instrument: row.instrument, rows: new Map() });
    lines.get(key).rows.set(row.timeframe, row);
  }
  return [...lines.values()];
}

function paint(cell, row) {
  const state = stateOf(row), sign = signOf(state);
  cell.className = `cell ${slugged(state)}`;
  if (cell.textContent !== sign) cell.textContent = sign;
}

function facts(row) {
  const state = stateOf(row);
  const lines = [["Newest candle", row.newest_candle && `${instant(row.newest_candle)} UTC`], ["Expected", row.expected_candle && `${instant(row.expected_candle)} UTC`], ["Age", row.age_seconds !== null && row.age_seconds !== undefined && duration(row.age_seconds)], ["Behind", row.bars_behind ? `${count(row.bars_behind)} ${row.bars_behind === 1 ? "candle" : "candles"}` : null], ["Stored", row.candle_count !== undefined && `${count(row.candle_count)} candles`], ["Reason", row.reason]];
  return [h("h3", {}, h("i", { class: `swatch ${slugged(state)}` }, signOf(state) || SIGNS.fresh), ` ${row.instrument} ${row.timeframe} `, h("small", {}, WORDS[state])), h("dl", {}, lines.filter(([, value]) => value).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))))];
}

function place(tip, cell) {
  const box = cell.getBoundingClientRect(), size = tip.getBoundingClientRect();
  const left = Math.max(8, Math.min(innerWidth - size.width - 8, box.left + box.width / 2 - size.width / 2));
  const above = box.top - size.height - 8;
  tip.style.setProperty("left", `${left}px`);
  tip.style.setProperty("top", `${above > 8 ? above : box.bottom + 8}px`);
}
