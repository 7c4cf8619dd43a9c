// Elements and text. Everything that the API sends reaches the page as text, never as markup.

const SVG = "http://www.w3.org/2000/svg";

/** An element with properties and children. `class`, `data`, `style` and `on*` are understood; false children are left out. */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) set(element, name, value);
  element.append(...children.flat(Infinity).filter(shown).map(node));
  return element;
}

function set(element, name, value) {
  if (value === undefined || value === null || value === false) return;
  if (name === "class") element.className = value;
  else if (name === "data") Object.assign(element.dataset, value);
  else if (name === "style") for (const [key, text] of Object.entries(value)) element.style.setProperty(key, text);
  else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
  else element.setAttribute(name, value === true ? "" : value);
}

const shown = child => child !== null && child !== undefined && child !== false;
const node = child => child instanceof Node ? child : document.createTextNode(String(child));

/** Replace all children. */
export function fill(element, ...children) {
  element.replaceChildren(...children.flat(Infinity).filter(shown).map(node));
  return element;
}

// Paths of the icons on a grid of 24, drawn as strokes.
const ICONS = {
  overview: "M4 4h6v6H4zM14 4h6v6h-6zM4 14h6v6H4zM14 14h6v6h-6z",
  chart: "M7 5v14M7 8h0M5 9h4v6H5zM17 4v15M15 7h4v7h-4zM3 21h18",
  signals: "M3 12h4l3-8 4 16 3-8h4",
  gaps: "M4 6h16M4 12h5M15 12h5M4 18h16",
  runs: "M5 4l14 8-14 8z",
  files: "M6 3h8l4 4v14H6zM14 3v4h4M9 12h6M9 16h6",
  sources: "M12 3a9 9 0 100 18 9 9 0 000-18zM3 12h18M12 3c3 3 3 15 0 18M12 3c-3 3-3 15 0 18",
  alerts: "M6 17V11a6 6 0 0112 0v6l2 2H4zM10 21h4",
  settings: "M4 7h10M18 7h2M4 17h2M10 17h10M14 5v4M8 15v4",
  docs: "M4 5a2 2 0 012-2h5v18H6a2 2 0 01-2-2zM20 5a2 2 0 00-2-2h-5v18h5a2 2 0 002-2z",
  refresh: "M20 11a8 8 0 10-2 6M20 5v6h-6",
  pause: "M8 5v14M16 5v14",
  play: "M7 5l12 7-12 7z",
  stop: "M6 6h12v12H6z",
  close: "M6 6l12 12M18 6L6 18",
  menu: "M4 6h16M4 12h16M4 18h16",
  search: "M11 4a7 7 0 100 14 7 7 0 000-14zM16 16l5 5",
  download: "M12 4v11M7 11l5 5 5-5M4 20h16",
  copy: "M9 9h11v11H9zM15 9V4H4v11h5",
  sun: "M12 8a4 4 0 100 8 4 4 0 000-8zM12 2v2M12 20v2M2 12h2M20 12h2M5 5l1.5 1.5M17.5 17.5L19 19M5 19l1.5-1.5M17.5 6.5L19 5",
  moon: "M20 14A8 8 0 1110 4a7 7 0 0010 10z",
  auto: "M12 3a9 9 0 100 18zM12 3a9 9 0 010 18",
  link: "M10 5H5v14h14v-5M14 4h6v6M20 4l-9 9",
  check: "M5 13l5 5L20 6",
  plus: "M12 5v14M5 12h14",
  trash: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
  history: "M4 12a8 8 0 108-8 8 8 0 00-7 4M4 4v4h4M12 8v5l3 2",
  bell: "M6 17V11a6 6 0 0112 0v6l2 2H4zM10 21h4",
  columns: "M4 4h16v16H4zM10 4v16M15 4v16",
  chevron: "M9 6l6 6-6 6",
};

/** An icon that screen readers skip. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", ICONS[name] ?? ICONS.overview);
  svg.append(path);
  return svg;
}

/** A button with an icon and a label; `act` runs with the button disabled until it ends. */
export function button(label, iconName, act, properties = {}) {
  const element = h("button", { type: "button", class: "button", ...properties }, iconName && icon(iconName), h("span", {}, label));
  element.addEventListener("click", async event => {
    element.disabled = true;
    element.classList.add("busy");
    try {
      await act(event, element);
    } finally {
      element.disabled = false;
      element.classList.remove("busy");
    }
  });
  return element;
}

/** A button that shows an icon alone; the label is its name and its tooltip. */
export function iconButton(label, iconName, act, properties = {}) {
  const element = button(label, iconName, act, { class: "button icon-only", "aria-label": label, title: label, ...properties });
  element.querySelector("span").remove();
  return element;
}

/** What stands where nothing is: a title, a sentence, an action. */
export function empty(iconName, title, text, ...actions) {
  return h("div", { class: "empty" }, h("div", { class: "empty-icon" }, icon(iconName)), h("h3", {}, title), h("p", {}, coded(text)), actions.length > 0 && h("div", { class: "row" }, actions));
}

/** Grey bars in the shape of what is being read. */
export function skeleton(rows = 4) {
  return h("div", { class: "skeleton", "aria-label": "Reading", role: "status" }, Array.from({ length: rows }, () => h("i")));
}

/** A panel with a title, tools beside it, and a body. */
export function card(title, tools, ...body) {
  return h("section", { class: "card" }, title && h("header", { class: "card-head" }, h("h2", {}, title), h("div", { class: "tools" }, tools)), ...body);
}

/** A word in a coloured shape; the letter or sign before it says the same without the colour. */
export function badge(state, text = state) {
  return h("span", { class: `badge ${slug(state)}` }, h("b", { "aria-hidden": "true" }, SIGNS[slug(state)] ?? "•"), text);
}

export const slug = text => String(text ?? "unknown").toLowerCase().replace(/[^a-z0-9]+/g, "-");

export const SIGNS = {
  fresh: "✓", late: "L", stale: "S", failed: "F", "no-data": "N", closed: "C", never: "–", success: "✓", failure: "F",
  started: "▸", starting: "▸", queued: "…", canceled: "×", canceling: "×", open: "●", on: "●", off: "○", updated: "↑", unchanged: "=",
  buy: "▲", sell: "▼", up: "▲", down: "▼", ready: "✓", ok: "✓", running: "▸", paused: "‖", warning: "!", error: "F",
};

/**
 * A table. `columns` are `{title, cell(row), number, sort(row), class}`; a title with `sort` can be clicked.
 * Rows beyond `page` come with the button below.
 */
export function table(columns, rows, { page = 100, none = "Nothing here.", onrow } = {}) {
  const state = { rows, sorted: null, down: false, shown: page };
  const body = h("tbody");
  const more = h("div", { class: "table-more" });
  const heads = columns.map((column, number) => head(column, () => sortBy(number)));
  const draw = () => drawRows(body, more, columns, state, page, none, onrow, draw);
  function sortBy(number) {
    state.down = state.sorted === number ? !state.down : Boolean(columns[number].number);
    state.sorted = number;
    const key = columns[number].sort, sign = state.down ? -1 : 1;
    state.rows = [...state.rows].sort((a, b) => sign * compare(key(a), key(b)));
    heads.forEach((element, index) => element.setAttribute("aria-sort", index === number ? (state.down ? "descending" : "ascending") : "none"));
    draw();
  }
  draw();
  const element = h("div", { class: "table-wrap", tabindex: "0" }, h("table", { class: "table" }, h("thead", {}, h("tr", {}, heads)), body), more);
  element.show = newRows => { state.rows = newRows; state.shown = page; if (state.sorted === null) draw(); else { state.down = !state.down; sortBy(state.sorted); } };
  return element;
}

function head(column, act) {
  const properties = { scope: "col", class: classes(column), "aria-sort": column.sort && "none" };
  return h("th", properties, column.sort ? h("button", { type: "button", class: "sort", onclick: act }, column.title) : column.title);
}

const classes = column => [column.number && "number", column.class].filter(Boolean).join(" ");

function drawRows(body, more, columns, state, page, none, onrow, draw) {
  const shownRows = state.rows.slice(0, state.shown);
  fill(body, shownRows.length ? shownRows.map(row => line(row, columns, onrow)) : h("tr", {}, h("td", { colspan: columns.length, class: "nothing" }, none)));
  const rest = state.rows.length - shownRows.length;
  const further = () => { state.shown += page; draw(); };
  fill(more, rest > 0 && h("button", { type: "button", class: "button quiet", onclick: further }, `Show ${Math.min(rest, page)} more of ${count(rest)}`));
}

function line(row, columns, onrow) {
  const cells = columns.map(column => h("td", { class: classes(column) }, column.cell(row)));
  if (!onrow) return h("tr", {}, cells);
  const act = event => { if (!event.target.closest("a, button, input, select")) onrow(row); };
  const press = event => { if (event.key === "Enter" && event.target === event.currentTarget) onrow(row); };
  return h("tr", { class: "clickable", tabindex: "0", onclick: act, onkeydown: press }, cells);
}

export function compare(a, b) {
  if (a === b) return 0;
  if (a === null || a === undefined) return 1;
  if (b === null || b === undefined) return -1;
  return a < b ? -1 : 1;
}

// ---- text

const COUNT = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

export const count = number => number === null || number === undefined ? "–" : COUNT.format(number);

/** A price with as many digits as it needs: 63120.5, 1.08512, 0.00001234. */
export function price(number) {
  if (number === null || number === undefined || !Number.isFinite(number)) return "–";
  const digits = number === 0 ? 2 : Math.max(2, Math.min(8, 6 - Math.ceil(Math.log10(Math.abs(number)))));
  return number.toLocaleString("en", { minimumFractionDigits: Math.min(digits, 2), maximumFractionDigits: digits });
}

export function percent(share, digits = 1) {
  if (share === null || share === undefined) return "–";
  // A series that lacks one candle of thousands is not complete.
  const rounded = share < 1 ? Math.min(share * 100, 100 - 10 ** -digits) : 100;
  return `${rounded.toFixed(share === 1 ? 0 : digits)} %`;
}

export function bytes(number) {
  if (number === null || number === undefined) return "–";
  const units = ["B", "kB", "MB", "GB", "TB"];
  const power = Math.min(units.length - 1, number > 0 ? Math.floor(Math.log10(number) / 3) : 0);
  return `${(number / 1000 ** power).toLocaleString("en", { maximumFractionDigits: power ? 1 : 0 })} ${units[power]}`;
}

/** Act again after a while, and then again until it succeeds, as long as the element is on the page. */
export function retryLater(element, act, milliseconds = 4000) {
  setTimeout(() => { if (element.isConnected) act().catch(() => retryLater(element, act, milliseconds)); }, milliseconds);
}

/** Text with its `commands` as code. */
export const coded = text => String(text ?? "").split("`").map((part, number) => number % 2 ? h("code", {}, part) : part);

/** A duration in two units at most: 3.2 s, 4 min 10 s, 2 h 5 min, 3 d 4 h. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "–";
  const all = Math.max(0, seconds);
  if (all < 10) return `${all.toFixed(1)} s`;
  const parts = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]], first = parts.findIndex(([size]) => all >= size);
  const [size, unit] = parts[first], next = parts[first + 1];
  const rest = next ? Math.floor(all % size / next[0]) : 0;
  return `${Math.floor(all / size)} ${unit}${rest ? ` ${rest} ${next[1]}` : ""}`;
}

/** A countdown: 4:05, 1:02:09, 2 d 3 h. */
export function countdown(seconds) {
  if (!Number.isFinite(seconds)) return "–";
  const all = Math.max(0, Math.floor(seconds));
  if (all >= 86400) return duration(all);
  const two = number => String(number).padStart(2, "0");
  const [hours, minutes, rest] = [Math.floor(all / 3600), Math.floor(all % 3600 / 60), all % 60];
  return hours ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`;
}

export const seconds = text => Date.parse(text) / 1000;

/** An instant in UTC: 2026-01-07 12:05, with seconds where they matter. */
export function instant(text, withSeconds = false) {
  if (!text) return "–";
  const date = new Date(text);
  return Number.isNaN(date.getTime()) ? String(text) : date.toISOString().slice(0, withSeconds ? 19 : 16).replace("T", " ");
}

/** How long ago, as an element that names the instant and is brought forward by the clock of the page. */
export function ago(text) {
  if (!text) return h("span", { class: "faint" }, "never");
  const element = h("time", { datetime: text, title: `${instant(text, true)} UTC`, data: { ago: String(Date.parse(text)) } });
  element.textContent = since(Date.parse(text));
  return element;
}

export function since(milliseconds) {
  const passed = (Date.now() - milliseconds) / 1000;
  if (passed < 0) return `in ${duration(-passed)}`;
  return passed < 5 ? "just now" : `${duration(passed)} ago`;
}

/** Bring every relative time of the page forward. */
export function tickTimes(root = document) {
  for (const element of root.querySelectorAll("[data-ago]")) element.textContent = since(Number(element.dataset.ago));
  for (const element of root.querySelectorAll("[data-until]")) element.textContent = countdown((Number(element.dataset.until) - Date.now()) / 1000);
}

/** A countdown to an instant that runs by itself. */
export function until(text) {
  if (!text) return h("span", { class: "faint" }, "–");
  return h("time", { datetime: text, title: `${instant(text, true)} UTC`, data: { until: String(Date.parse(text)) } }, countdown((Date.parse(text) - Date.now()) / 1000));
}

// ---- messages and questions

/** A message in the corner, read out by screen readers; an error stays until it is closed. */
export function toast(text, kind = "info", link) {
  const area = document.getElementById("toasts");
  const element = h("div", { class: `toast ${kind}`, role: kind === "error" ? "alert" : "status" },
    h("div", { class: "toast-text" }, text, link && h("a", { href: link.href }, link.text)),
    h("button", { type: "button", class: "button icon-only quiet", "aria-label": "Close", onclick: () => element.remove() }, icon("close")));
  area.append(element);
  while (area.children.length > 4) area.firstChild.remove();
  if (kind !== "error") setTimeout(() => element.remove(), 6000);
}

/** A dialog with a form. Resolves to the values by name, or null where it was closed. */
export function ask(title, text, fields = [], { confirm = "Start", danger = false } = {}) {
  return new Promise(resolve => {
    const inputs = fields.map(field => input(field));
    const form = h("form", { method: "dialog" }, h("h2", {}, title), text && h("p", {}, text), inputs.map(one => one.row),
      h("div", { class: "row end" },
        h("button", { type: "button", class: "button quiet", onclick: () => dialog.close() }, "Cancel"),
        h("button", { type: "submit", class: `button ${danger ? "danger" : "primary"}`, value: "yes" }, confirm)));
    const dialog = h("dialog", { "aria-label": title }, form);
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes" ? Object.fromEntries(inputs.map(one => [one.name, one.value()])) : null);
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

function input(field) {
  const { name, label, type = "text", value = "", options, hint, ...rest } = field;
  const id = `field-${name}`;
  const control = options
    ? h("select", { id, name }, options.map(option => h("option", { value: option, selected: option === value }, option)))
    : type === "textarea" ? h("textarea", { id, name, rows: 8, ...rest }, value)
      : h("input", { id, name, type, value: type === "checkbox" ? undefined : value, checked: type === "checkbox" && value, ...rest });
  const row = h("div", { class: type === "checkbox" ? "field check" : "field" }, h("label", { for: id }, label), control, hint && h("small", {}, hint));
  return { name, row, value: () => type === "checkbox" ? control.checked : control.value };
}

/** A list of actions below a button. */
export function menu(label, iconName, items) {
  const list = h("div", { class: "menu-list", role: "menu", hidden: true });
  const opener = h("button", { type: "button", class: "button", "aria-haspopup": "menu", "aria-expanded": "false" }, icon(iconName), h("span", {}, label));
  const element = h("div", { class: "menu" }, opener, list);
  const show = open => { list.hidden = !open; opener.setAttribute("aria-expanded", String(open)); if (open) list.querySelector("[role=menuitem]")?.focus(); };
  fill(list, items.map(item => menuItem(item, () => { show(false); opener.focus(); })));
  opener.addEventListener("click", () => show(list.hidden));
  element.addEventListener("keydown", event => menuKey(event, list, () => { show(false); opener.focus(); }));
  element.addEventListener("focusout", event => { if (!element.contains(event.relatedTarget)) show(false); });
  return element;
}

function menuItem(item, close) {
  if (item.href) return h("a", { role: "menuitem", href: item.href, download: item.download ?? false, onclick: close }, item.label);
  return h("button", { type: "button", role: "menuitem", onclick: () => { close(); item.act(); } }, item.label);
}

function menuKey(event, list, close) {
  if (event.key === "Escape" && !list.hidden) { event.stopPropagation(); close(); }
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step || list.hidden) return;
  event.preventDefault();
  const items = [...list.querySelectorAll("[role=menuitem]")];
  items[(items.indexOf(document.activeElement) + step + items.length) % items.length].focus();
}

/** Buttons of which one is pressed. */
export function choice(label, options, value, choose) {
  const buttons = options.map(option => {
    const [key, text] = Array.isArray(option) ? option : [option, option];
    return h("button", { type: "button", "aria-pressed": String(key === value), data: { key }, onclick: () => press(key) }, text);
  });
  function press(key) {
    for (const element of buttons) element.setAttribute("aria-pressed", String(element.dataset.key === String(key)));
    choose(key);
  }
  return h("div", { class: "choice", role: "group", "aria-label": label }, buttons);
}

/** Tabs over panels that are drawn when they are first shown. */
export function tabs(label, panels, selected = 0) {
  const body = h("div", { class: "tab-body", role: "tabpanel" });
  const heads = panels.map((panel, number) => h("button", { type: "button", role: "tab", onclick: () => show(number) }, panel.title));
  function show(number) {
    heads.forEach((element, index) => { element.setAttribute("aria-selected", String(index === number)); element.tabIndex = index === number ? 0 : -1; });
    fill(body, panels[number].draw());
  }
  const list = h("div", { class: "tabs", role: "tablist", "aria-label": label, onkeydown: event => tabKey(event, heads) }, heads);
  show(selected);
  const element = h("div", { class: "tabbed" }, list, body);
  element.show = show;
  return element;
}

function tabKey(event, heads) {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  const next = heads[(heads.indexOf(document.activeElement) + step + heads.length) % heads.length];
  next.focus();
  next.click();
}

/** Put text into the clipboard, and say so. */
export async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
    toast(`${what} copied.`);
  } catch {
    await ask(`Copy ${what}`, "The browser does not allow this page to write the clipboard.", [{ name: "text", label: "Text", type: "textarea", value: text }], { confirm: "Close" });
  }
}
