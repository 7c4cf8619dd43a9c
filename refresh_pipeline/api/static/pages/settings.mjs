// Settings: schedules and sensors, settings with secrets masked, keys in use, the look of this page.

import { command, get, getOr, Problem, send } from "/static/client.mjs";
import { ago, badge, button, card, copy, empty, fill, h, instant, retryLater, skeleton, table } from "/static/dom.mjs";

export async function open(root, { signal }) {
  const view = new Settings();
  await view.read(signal);
  fill(root, view.elements);
  return { update: kind => ["schedule_update", "poll", "reset"].includes(kind) ? view.read() : null };
}

class Settings {
  constructor() {
    this.schedules = h("div", {}, skeleton(4));
    this.session = h("div", { class: "row" });
    this.settings = h("div", {}, skeleton(6));
    this.system = h("div", { class: "card-body" }, skeleton(3));
    this.elements = [h("header", { class: "page-head" }, h("div", {}, h("h1", {}, "Settings"), h("p", { class: "lead" }, "What runs by itself, and what this server was started with.")), this.session), h("div", { class: "split" }, h("div", { class: "stack" }, card("Schedules and sensors", null, this.schedules), card("Settings", h("span", { class: "faint" }, "They change in .env or the environment; a market changes in its YAML."), this.settings)), h("div", { class: "stack" }, card("Server", null, this.system)))];
  }

  async read(signal) {
    const [schedules, config, status, health] = await Promise.all([readSchedules(signal), getOr("/api/v1/config", {}, { signal }), getOr("/api/v1/status", {}, { signal }), getOr("/api/v1/health", {}, { signal })]);
    fill(this.schedules, schedules instanceof Problem ? empty("runs", "Schedules are not known", `${schedules.message.replace(/\.$/, "")}. \`refresh up\` starts Dagster's web server beside the API.`) : scheduleTable(schedules, () => this.read()));
    if (schedules instanceof Problem) retryLater(this.schedules, () => this.read());
    fill(this.settings, settingTable(config.settings ?? config));
    // Without a key there is no session to end.
    const { REFRESH_API_KEY: key, REFRESH_API_READ_KEY: readKey } = config.settings ?? {};
    fill(this.session, (key?.set || readKey?.set) && button("Log out", null, () => logOut()));
    fill(this.system, server(status, health));
  }
}

async function readSchedules(signal) {
  try {
    return (await get("/api/v1/schedules", { signal })).schedules ?? [];
  } catch (error) {
    if (error instanceof Problem && error.status !== 401) return error;
    throw error;
  }
}

function scheduleTable(schedules, after) {
  if (!schedules.length) return empty("runs", "No schedule", "No market is loaded.");
  const flip = one => command(`${one.name} is ${one.running ? "off" : "on"}.`, "PUT", `/api/v1/schedules/${encodeURIComponent(one.name)}`, { running: !one.running }).then(after);
  return table([
    { title: "On", class: "fit", cell: one => h("button", { type: "button", class: "switch", role: "switch", "aria-checked": String(Boolean(one.running)), "aria-label": `${one.name} runs`, onclick: () => flip(one) }) },
    { title: "Name", cell: one => h("b", {}, one.name), sort: one => one.name },
    { title: "Kind", cell: one => one.kind, sort: one => one.kind },
    { title: "When", cell: one => one.cron ? h("span", {}, h("code", {}, one.cron), h("small", {}, ` ${one.zone ?? ""}`)) : h("span", { class: "faint" }, "–") },
    { title: "Next (UTC)", cell: one => one.running ? instant(one.next_tick) : "–", sort: one => one.next_tick },
    { title: "Last", cell: one => ago(one.last_tick), sort: one => one.last_tick },
  ], schedules);
}

function settingTable(settings) {
  const rows = Object.entries(settings).map(([name, value]) => ({ name, value }));
  if (!rows.length) return empty("settings", "No settings", "The server shows none.");
  return table([{ title: "Setting", cell: row => h("code", {}, row.name), sort: row => row.name }, { title: "Value", class: "wrap", cell: row => shownValue(row.value) }], rows, { page: 200 });
}

function shownValue(value) {
  if (value === null || value === undefined || value === "") return h("span", { class: "faint" }, "not set");
  if (typeof value === "object" && "value" in value) return shownValue(value.value);
  if (typeof value === "object" && "set" in value) return value.set ? badge("on", "set, not shown") : h("span", { class: "faint" }, "not set");
  if (typeof value === "object") return h("code", {}, JSON.stringify(value));
  return h("code", {}, String(value));
}

function server(status, health) {
  const facts = [["Version", health.version ?? status.version ?? "–"], ["Address", location.origin], ["Keys", "A key is sent as X-API-Key or as Bearer. REFRESH_API_KEY may do everything, REFRESH_API_READ_KEY may read."], ["Epoch of the data", h("code", {}, status.epoch ?? "–")]];
  const example = `curl -s ${location.origin}/api/v1/status`;
  return h("div", { class: "stack" }, h("dl", { class: "facts one" }, facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))), h("pre", { class: "code", tabindex: "0" }, example), h("div", { class: "row" }, button("Copy", "copy", () => copy(example, "curl"), { class: "button small" }), h("a", { class: "button small quiet", href: "/openapi.json", target: "_blank" }, "openapi.json")));
}

async function logOut() {
  await send("DELETE", "/api/v1/session").catch(() => {});
  location.assign("/");
}
