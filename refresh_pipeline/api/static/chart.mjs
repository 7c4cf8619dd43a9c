// The chart of one series: candles, alligator, fractals, zones, AO below, and any column. It draws; what to draw is given.

import { CandlestickSeries, createChart, createSeriesMarkers, CrosshairMode, HistogramSeries, LineSeries, LineStyle } from "/static/vendor/lightweight-charts.mjs";

export const ALLIGATORS = { alligator: ["jaw", "teeth", "lips"], big_alligator: ["big_jaw", "big_teeth", "big_lips"], tide_alligator: ["tide_jaw", "tide_teeth", "tide_lips"] };
const LINE_COLORS = { jaw: "--jaw", teeth: "--teeth", lips: "--lips" };
const EXTRA_COLORS = ["--extra-1", "--extra-2", "--extra-3", "--extra-4", "--extra-5", "--extra-6"];
const ZONE_COLORS = { green: "--up", red: "--down", gray: "--zone-gray" };

const css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const defined = value => value !== null && value !== undefined;

/** A chart in `place`. `older()` is called when its left end comes near; `hover(index)` tells the row under the crosshair. */
export class PriceChart {
  constructor(place, { older, hover }) {
    this.place = place;
    this.chart = createChart(place, { autoSize: true, ...look() });
    this.candles = this.chart.addSeries(CandlestickSeries, {}, 0);
    this.markers = createSeriesMarkers(this.candles, []);
    this.lines = new Map();
    this.below = new Map();
    this.chart.timeScale().subscribeVisibleLogicalRangeChange(range => { if (range && range.from < 30 && this.rows?.length) older(); });
    this.chart.subscribeCrosshairMove(event => hover(event.time === undefined ? null : this.index?.get(event.time) ?? null));
    this.theme = () => { this.chart.applyOptions(look()); if (this.rows) this.draw(this.rows, this.options); };
    addEventListener("themechange", this.theme);
  }

  /** Draw rows `{time, open, high, low, close, ...}`, oldest first, as the options say. */
  draw(rows, options) {
    this.rows = rows;
    this.options = options;
    this.index = new Map(rows.map((row, number) => [row.time, number]));
    const digits = digitsOf(rows);
    this.candles.applyOptions({ upColor: css("--up"), downColor: css("--down"), borderVisible: false, wickUpColor: css("--up"), wickDownColor: css("--down"), priceFormat: { type: "price", precision: digits, minMove: 10 ** -digits } });
    const shape = options.heikin ? heikinAshi(rows) : rows;
    const ahead = options.expected && options.expected > (rows.at(-1)?.time ?? 0) ? [{ time: options.expected }] : [];
    this.candles.setData([...shape.map((row, number) => candle(row, options.zones ? rows[number].zone : null)), ...ahead]);
    this.markers.setMarkers(marks(rows, options));
    this.#overlays(rows, options);
    this.#panes(rows, options);
    this.#heights();
  }

  #overlays(rows, options) {
    const wanted = new Map(Object.keys(ALLIGATORS).filter(name => options[name]).flatMap(name => ALLIGATORS[name].map(line => [line, alligatorLine(line, name)])));
    options.columns.filter(column => !column.below).forEach((column, number) => wanted.set(column.name, { color: css(EXTRA_COLORS[number % EXTRA_COLORS.length]), lineWidth: 2, title: column.name }));
    this.#keep(this.lines, wanted, LineSeries, 0);
    for (const [name, series] of this.lines) series.setData(points(rows, name));
  }

  #panes(rows, options) {
    const names = [options.ao && "ao", options.ac && "ac", options.volume && "volume", ...options.columns.filter(column => column.below).map(column => column.name)].filter(Boolean);
    for (const [name, series] of this.below) if (!names.includes(name)) { this.chart.removeSeries(series); this.below.delete(name); }
    names.forEach((name, number) => {
      if (!this.below.has(name)) this.below.set(name, this.#paneSeries(name, number + 1));
      this.below.get(name).setData(points(rows, name, colorsOf(name)));
    });
  }

  #paneSeries(name, pane) {
    const type = ["ao", "ac", "volume"].includes(name) ? HistogramSeries : LineSeries;
    const options = type === LineSeries ? { color: css("--extra-1"), lineWidth: 2 } : {};
    return this.chart.addSeries(type, { ...options, title: name.toUpperCase(), priceLineVisible: false, lastValueVisible: true, priceFormat: name === "volume" ? { type: "volume" } : { type: "price", precision: digitsOf(this.rows) + 1, minMove: 10 ** -(digitsOf(this.rows) + 1) } }, Math.min(pane, this.chart.panes().length));
  }

  #keep(map, wanted, type, pane) {
    for (const [name, series] of map) if (!wanted.has(name)) { this.chart.removeSeries(series); map.delete(name); }
    for (const [name, options] of wanted) {
      const all = { priceLineVisible: false, lastValueVisible: false, crosshairMarkerVisible: false, ...options };
      if (map.has(name)) map.get(name).applyOptions(all); else map.set(name, this.chart.addSeries(type, all, pane));
    }
  }

  #heights() {
    const panes = this.chart.panes();
    panes.forEach((pane, number) => pane.setStretchFactor(number === 0 ? 4 : 1));
  }

  /** The newest rows at the right, with room for the next candle. */
  newest() {
    const bars = Math.min(this.rows.length, Math.max(40, Math.floor(this.place.clientWidth / 8)));
    this.chart.timeScale().setVisibleLogicalRange({ from: this.rows.length - bars, to: this.rows.length + 4 });
  }

  close() {
    removeEventListener("themechange", this.theme);
    this.chart.remove();
  }
}

function look() {
  const line = css("--line");
  return {
    layout: { background: { color: "transparent" }, textColor: css("--muted"), fontFamily: getComputedStyle(document.body).fontFamily, fontSize: 12, attributionLogo: false, panes: { separatorColor: line, separatorHoverColor: css("--accent-soft") } },
    grid: { vertLines: { color: css("--grid") }, horzLines: { color: css("--grid") } },
    crosshair: { mode: CrosshairMode.Normal, vertLine: { color: css("--faint"), labelBackgroundColor: css("--accent") }, horzLine: { color: css("--faint"), labelBackgroundColor: css("--accent") } },
    rightPriceScale: { borderColor: line },
    timeScale: { borderColor: line, timeVisible: true, secondsVisible: false, rightOffset: 4 },
    localization: { locale: "en-GB" },
  };
}

function candle(row, zone) {
  const color = zone && css(ZONE_COLORS[zone]);
  const { time, open, high, low, close } = row;
  return color ? { time, open, high, low, close, color, wickColor: color } : { time, open, high, low, close };
}

const alligatorLine = (line, name) => ({ color: css(LINE_COLORS[line.split("_").at(-1)]), lineWidth: name === "alligator" ? 2 : 1, lineStyle: name === "tide_alligator" ? LineStyle.Dashed : LineStyle.Solid });

const points = (rows, name, color) => rows.map((row, number) => defined(row[name]) ? { time: row.time, value: row[name], ...(color && { color: color(row, rows[number - 1]) }) } : { time: row.time });

function colorsOf(name) {
  const up = css("--up"), down = css("--down");
  if (name === "volume") return row => (row.close >= row.open ? up : down) + "88";
  if (name === "ao" || name === "ac") return (row, before) => defined(before?.[name]) && row[name] < before[name] ? down : up;
  return null;
}

/** Fractals point away from the candle; a corrected candle carries a square. */
function marks(rows, { fractal, corrections }) {
  const [above, below] = [`fractal_up_${fractal}`, `fractal_down_${fractal}`], corrected = new Set(corrections);
  return rows.flatMap(row => [
    fractal && row[above] === 1 && { time: row.time, position: "aboveBar", shape: "arrowUp", color: css("--faint"), size: 0.6 },
    fractal && row[below] === 1 && { time: row.time, position: "belowBar", shape: "arrowDown", color: css("--faint"), size: 0.6 },
    corrected.has(row.time) && { time: row.time, position: "aboveBar", shape: "square", color: css("--accent"), size: 0.7, text: "c" },
  ].filter(Boolean));
}

/** Each candle from the mean of itself and the body before. */
export function heikinAshi(rows) {
  let before = null;
  return rows.map(row => {
    const close = (row.open + row.high + row.low + row.close) / 4;
    const open = before ? (before.open + before.close) / 2 : (row.open + row.close) / 2;
    before = { time: row.time, open, close, high: Math.max(row.high, open, close), low: Math.min(row.low, open, close) };
    return before;
  });
}

/** Digits that the newest prices have: eight in all at most, so that no axis is wider than its prices. */
export function digitsOf(rows) {
  const prices = rows.slice(-50).flatMap(row => [row.open, row.close]).filter(defined);
  const digits = prices.map(number => (String(number).split(".")[1] ?? "").length);
  const before = Math.max(1, ...prices.map(number => Math.floor(Math.log10(Math.abs(number) || 1)) + 1));
  return Math.max(before < 3 ? 2 : 1, Math.min(8, 8 - before, ...(digits.length ? [Math.max(...digits)] : [2])));
}
