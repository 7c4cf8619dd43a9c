// The frame around the pages: navigation, theme, connection, login. Each page is a module that is loaded when it is opened.

import { connection, forget, get, NotConnected, on, Problem, recent, session } from "/static/client.mjs";
import { button, empty, fill, h, icon, iconButton, skeleton, tickTimes } from "/static/dom.mjs";
import { loginForm } from "/static/login.mjs";

const PAGES = [
  { path: "/", name: "overview", title: "Overview", group: "Data", asks: ["/api/v1/matrix", "/api/v1/status"] },
  { path: "/series", name: "series", title: "Charts", icon: "chart", group: "Data" },
  { path: "/signals", name: "signals", title: "Signals", group: "Data" },
  { path: "/gaps", name: "gaps", title: "Gaps", group: "Data" },
  { path: "/runs", name: "runs", title: "Runs", group: "Operation" },
  { path: "/files", name: "files", title: "Files", group: "Operation" },
  { path: "/sources", name: "sources", title: "Sources", group: "Operation" },
  { path: "/alerts", name: "alerts", title: "Alerts", group: "Operation" },
  { path: "/settings", name: "settings", title: "Settings", group: "System" },
  { path: "/docs", name: "docs", title: "API docs", group: "System" },
];
const THEMES = ["auto", "light", "dark"];
const THEME_ICONS = { auto: "auto", light: "sun", dark: "moon" };
const CONNECTION = {
  connecting: ["Connecting", "The page is asking the server."],
  live: ["Live", "Changes arrive as they are stored."],
  polling: ["Polling", "The page asks for changes every 15 s: the server pushes none."],
  lost: ["Not connected", "The server does not answer. The page tries again by itself."],
};

let current = null;
let controller = null;

function shell() {
  const frame = h("div", { class: "frame" },
    h("nav", { class: "side", id: "side", "aria-label": "Pages" }, h("a", { class: "brand", href: "/" }, h("img", { src: "/static/icon.svg", alt: "", width: 26, height: 26 }), h("span", {}, "Refresh Pipeline")), navigation()),
    h("div", { class: "scrim", onclick: () => openSide(false) }),
    h("div", { class: "body" }, topBar(), h("div", { class: "banner", id: "banner", role: "alert", hidden: true }), h("main", { id: "main", tabindex: "-1" })));
  document.getElementById("shell").replaceChildren(frame, h("div", { id: "toasts", "aria-live": "polite" }), h("div", { id: "tooltip", role: "tooltip", hidden: true }));
}

function navigation() {
  const groups = [...new Set(PAGES.map(page => page.group))];
  return groups.map(group => h("div", { class: "nav-group" }, h("h2", {}, group), PAGES.filter(page => page.group === group).map(navigationLink)));
}

const navigationLink = page => h("a", { href: page.path, data: { page: page.name } }, icon(page.icon ?? page.name), h("span", {}, page.title), page.name === "alerts" && h("b", { class: "nav-count", id: "alert-count", hidden: true }));

function topBar() {
  return h("header", { class: "top" },
    iconButton("Pages", "menu", () => openSide(!document.body.classList.contains("side-open")), { class: "button icon-only quiet only-narrow", "aria-label": "Pages", title: "Pages" }),
    h("form", { class: "find", role: "search", onsubmit: find }, icon("search"), h("input", { id: "find", type: "search", placeholder: "Open a series: BTC/USD H1", "aria-label": "Open a series", list: "find-list", autocomplete: "off", spellcheck: "false" }), h("kbd", {}, "/"), h("datalist", { id: "find-list" })),
    h("div", { class: "top-end" }, h("span", { class: "badge", id: "read-only", title: "The key of this browser only reads: commands are refused.", hidden: true }, "Read only"), h("span", { class: "clock", id: "clock", title: "Now, in UTC" }), h("span", { class: "connection", id: "connection", role: "status" }), h("span", { id: "theme" })));
}

function openSide(open) {
  document.body.classList.toggle("side-open", open);
}

// ---- finding a series

let known = null;

async function knownInstruments() {
  known ??= (await get("/api/v1/instruments")).details;
  return known;
}

async function find(event) {
  event.preventDefault();
  const field = document.getElementById("find"), [text, timeframe] = field.value.trim().split(/\s+/);
  if (!text) return;
  const wanted = simple(text), instruments = await knownInstruments();
  const match = instruments.find(one => simple(one.instrument) === wanted) ?? instruments.find(one => simple(one.instrument).includes(wanted));
  if (!match) { field.setCustomValidity(`No loaded market has ${text}.`); field.reportValidity(); field.addEventListener("input", () => field.setCustomValidity(""), { once: true }); return; }
  const frame = match.timeframes.find(one => one.toLowerCase() === timeframe?.toLowerCase()) ?? match.timeframes[0];
  field.value = "";
  field.blur();
  go(`/series/${encodeURIComponent(match.market)}/${match.instrument.split("/").map(encodeURIComponent).join("/")}/${frame}`);
}

const simple = text => text.toLowerCase().replace(/[^a-z0-9]/g, "");

async function suggest() {
  const list = document.getElementById("find-list");
  if (list.children.length) return;
  const instruments = await knownInstruments().catch(() => []);
  fill(list, instruments.slice(0, 1000).map(one => h("option", { value: one.instrument }, one.market)));
}

// ---- theme

function theme() {
  const chosen = localStorage.getItem("theme") ?? "auto";
  const dark = chosen === "dark" || (chosen === "auto" && matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  const next = THEMES[(THEMES.indexOf(chosen) + 1) % THEMES.length], place = document.getElementById("theme");
  const press = () => { localStorage.setItem("theme", next); theme(); place.firstChild.focus(); };
  if (place) fill(place, iconButton(`Theme: ${chosen}`, THEME_ICONS[chosen], press, { class: "button icon-only quiet", "aria-label": `Theme: ${chosen}`, title: `Theme: ${chosen}` }));
  dispatchEvent(new Event("themechange"));
}

// ---- connection

function showConnection(state, before) {
  const [word, why] = CONNECTION[state], place = document.getElementById("connection");
  place.className = `connection ${state}`;
  place.title = why;
  fill(place, h("i", { "aria-hidden": "true" }), word);
  const banner = document.getElementById("banner");
  banner.hidden = state !== "lost";
  banner.textContent = "Not connected. What you see is as of the last answer; the page tries again by itself.";
  if (before === "lost") { forget(); reload(); countAlerts(); }
}

// ---- pages

function pageOf(path) {
  return PAGES.find(page => page.path === path) ?? PAGES.find(page => page.path !== "/" && path.startsWith(`${page.path}/`));
}

/** Open a path of this dashboard without loading the document anew. */
export function go(path, { replace = false } = {}) {
  history[replace ? "replaceState" : "pushState"]({}, "", path);
  open();
}

async function open() {
  controller?.abort();
  controller = new AbortController();
  current?.close?.();
  current = null;
  const mine = controller, page = pageOf(location.pathname), main = document.getElementById("main");
  openSide(false);
  document.title = page ? `${page.title} · Refresh Pipeline` : "Refresh Pipeline";
  for (const link of document.querySelectorAll("[data-page]")) if (link.dataset.page === page?.name) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
  if (!page) { fill(main, notHere()); return; }
  fill(main, h("div", { class: "page" }, skeleton(6)));
  await draw(page, main, mine);
  if (!mine.signal.aborted) window.scrollTo(0, 0);
}

const notHere = () => h("div", { class: "page" }, empty("search", "No such page", `Nothing is at ${location.pathname}.`, h("a", { class: "button primary", href: "/" }, "Overview")));

async function draw(page, main, mine) {
  try {
    const module = await loaded(page);
    const root = h("div", { class: `page page-${page.name}` });
    const opened = await module.open(root, { signal: mine.signal, go, path: location.pathname.slice(page.path.length).replace(/^\//, ""), query: new URLSearchParams(location.search) });
    if (mine.signal.aborted) { opened?.close?.(); return; }
    current = opened ?? null;
    fill(main, root);
    current?.shown?.();
  } catch (error) {
    if (mine.signal.aborted || error.name === "AbortError") return;
    fill(main, failure(error));
  }
}

// Browsers remember a module that did not come: the next attempt has another address.
const failures = new Map();

/** The module of a page. Where it does not come, the server is gone: the page is opened again once it is back. */
async function loaded(page) {
  // The answers come while the module does.
  for (const path of page.asks ?? []) recent(path).catch(() => {});
  const failed = failures.get(page.name) ?? 0;
  try {
    return await import(`/static/pages/${page.name}.mjs${failed ? `?again=${failed}` : ""}`);
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    failures.set(page.name, failed + 1);
    connection.lost();
    throw new NotConnected();
  }
}

/** Fetch the other pages' modules ahead, so that they open at once, also while the server is away. */
function fetchAhead() {
  for (const page of PAGES) import(`/static/pages/${page.name}.mjs`).catch(() => failures.set(page.name, 1));
}

function failure(error) {
  const again = button("Try again", "refresh", () => open(), { class: "button primary" });
  if (error instanceof NotConnected) return h("div", { class: "page" }, empty("sources", "Not connected", "The API does not answer. The page comes back by itself.", again));
  if (error instanceof Problem && error.status === 401) return h("div", { class: "page" });
  if (error instanceof Problem) return h("div", { class: "page" }, empty("alerts", error.body.title ?? "The question was refused", nearest(error), again));
  return h("div", { class: "page" }, empty("alerts", "The page failed", `${error.message}. Reload the page; a server of another version may answer.`, again));
}

const nearest = error => error.body.nearest?.length ? `${error.message} Nearest: ${[error.body.nearest].flat().join(", ")}.` : error.message;

/** Read the page's answers again, in place where the page knows how. */
function reload() {
  if (current?.update) Promise.resolve(current.update("poll", {})).catch(() => {});
  else open();
}

function news(kind, message) {
  forget();
  if (current?.update) Promise.resolve(current.update(kind, message)).catch(() => {});
  if (kind === "alert_update" || kind === "poll") countAlerts();
}

async function showRole(again) {
  const { role } = await session(again);
  document.getElementById("read-only").hidden = role !== "read";
}

async function countAlerts() {
  const element = document.getElementById("alert-count");
  try {
    const { alerts = [] } = await get("/api/v1/alerts");
    element.textContent = String(alerts.length);
    element.hidden = alerts.length === 0;
  } catch { element.hidden = true; }
}

// ---- login

function unauthorized(message) {
  connection.stop();
  document.body.classList.add("locked");
  const main = document.getElementById("main");
  current?.close?.();
  current = null;
  if (main.querySelector(".login")) return;
  fill(main, loginForm(message, () => { document.body.classList.remove("locked"); forget(); connection.start(); open(); countAlerts(); showRole(true); }));
  main.querySelector("input").focus();
}

// ---- keys and links

function followed(event) {
  const link = event.target.closest?.("a[href]");
  if (!link || event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey || link.target || link.hasAttribute("download")) return;
  if (link.origin !== location.origin || !pageOf(link.pathname)) return;
  event.preventDefault();
  go(link.pathname + link.search);
}

const SHORTCUTS = { o: "/", c: "/series", s: "/signals", g: "/gaps", r: "/runs", f: "/files", a: "/alerts" };
let leader = 0;

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape") openSide(false);
  if (event.target.closest("input, select, textarea, dialog")) return;
  if (event.key === "/") { event.preventDefault(); document.getElementById("find").focus(); }
  if (event.key === "g" && Date.now() - leader > 1000) { leader = Date.now(); return; }
  if (Date.now() - leader <= 1000 && SHORTCUTS[event.key]) { leader = 0; go(SHORTCUTS[event.key]); }
}

function clock() {
  document.getElementById("clock").textContent = `${new Date().toISOString().slice(11, 19)} UTC`;
  tickTimes();
}

shell();
theme();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", theme);
on("connection", showConnection);
on("unauthorized", unauthorized);
on("news", news);
showConnection("connecting");
document.addEventListener("click", followed);
document.addEventListener("keydown", pressed);
document.getElementById("find").addEventListener("focus", suggest, { once: true });
addEventListener("popstate", () => open());
setInterval(clock, 1000);
clock();
open().then(() => { if (!document.body.classList.contains("locked")) { connection.start(); countAlerts(); showRole(); setTimeout(fetchAhead, 1000); } });
