// Sources: public APIs whose whole answers are kept as snapshots.

import { command, get, getOr, offers, send } from "/static/client.mjs";
import { ago, ask, badge, button, bytes, card, choice, count, duration, empty, fill, h, instant, skeleton, table, toast } from "/static/dom.mjs";

const BASE = "/api/v2";
const NONE = "API snapshots keep the whole answers of public APIs: fear and greed, gas prices, news. None is set up yet. Add one here, or name shipped collections in REFRESH_APIS, or put a YAML into the folder that REFRESH_APIS_DIR names.";

export async function open(root, { path, signal, go }) {
  const view = path ? new Source(decodeURIComponent(path), go) : new Sources(go);
  await view.read(signal);
  fill(root, view.elements);
  return { update: kind => ["api_update", "schedule_update", "poll", "reset"].includes(kind) ? view.read() : null };
}

class Sources {
  constructor(go) {
    this.go = go;
    this.category = "all";
    this.lead = h("p", { class: "lead" });
    this.filter = h("div");
    this.body = h("div", {}, skeleton());
    this.tools = h("div", { class: "row" });
    this.elements = [h("header", { class: "page-head" }, h("div", {}, h("h1", {}, "Sources"), this.lead), this.tools), card("API snapshots", this.filter, this.body)];
  }

  async read(signal) {
    const served = await offers(`${BASE}/config/apis`);
    const [apis, tasks, statistics] = served ? await this.#ask(signal) : [null, {}, {}];
    this.#show(apis, tasks, statistics);
  }

  #ask(signal) {
    return Promise.all([getOr(`${BASE}/config/apis`, null, { signal }), getOr(`${BASE}/schedule/tasks`, {}, { signal }), getOr(`${BASE}/data/statistics`, {}, { signal })]);
  }

  #show(apis, tasks, statistics) {
    this.available = apis !== null;
    this.rows = Object.values(apis?.apis ?? {}).map(api => ({ ...api, task: tasks[api.id] ?? {}, statistics: statistics.api_statistics?.[api.id] ?? {} }));
    fill(this.lead, this.rows.length ? `${count(this.rows.length)} ${this.rows.length === 1 ? "API" : "APIs"}, ${count(this.rows.filter(row => row.task.enabled ?? row.enabled).length)} of them enabled.` : "Answers of public APIs, kept as they change.");
    fill(this.tools, this.available && [button("Import", "download", () => importFile()), button("Add an API", "plus", () => this.#add(), { class: "button primary" })]);
    this.#draw();
  }

  #draw() {
    if (!this.rows.length) { fill(this.filter); fill(this.body, empty("sources", "No API snapshots", NONE)); return; }
    const categories = [...new Set(this.rows.map(row => row.category))].filter(Boolean).sort();
    fill(this.filter, categories.length > 1 && choice("Category", [["all", "All"], ...categories], this.category, key => { this.category = key; this.#draw(); }));
    fill(this.body, table(this.#columns(), this.rows.filter(row => this.category === "all" || row.category === this.category), { page: 100, onrow: row => this.go(`/sources/${encodeURIComponent(row.id)}`) }));
  }

  #columns() {
    return [
      { title: "On", class: "fit", cell: row => toggle(row, () => this.read()) },
      { title: "API", cell: row => h("a", { href: `/sources/${encodeURIComponent(row.id)}` }, row.name ?? row.id), sort: row => row.name ?? row.id },
      { title: "Category", cell: row => row.category ?? "–", sort: row => row.category },
      { title: "Status", cell: row => h("span", { title: row.task.last_error }, badge(stateOf(row))), sort: stateOf },
      { title: "Every", number: true, cell: row => h("button", { type: "button", class: "plain", title: "Change the interval", onclick: () => interval(row, () => this.read()) }, duration(row.task.interval)), sort: row => row.task.interval },
      { title: "Last", cell: row => ago(row.task.last_update), sort: row => row.task.last_update },
      { title: "Next", cell: row => row.task.enabled === false ? "–" : ago(row.task.next_update), sort: row => row.task.next_update },
      { title: "Payloads", number: true, cell: row => count(row.statistics.record_count), sort: row => row.statistics.record_count },
      { title: "Size", number: true, cell: row => bytes(row.statistics.bytes), sort: row => row.statistics.bytes },
      { title: "Changed", cell: row => ago(row.statistics.newest), sort: row => row.statistics.newest },
      { title: "", cell: row => button("Update", "refresh", () => command(`${row.id} is being asked.`, "POST", `${BASE}/schedule/tasks/${encodeURIComponent(row.id)}/force-update`, {}), { class: "button small" }) },
    ];
  }

  async #add() {
    const answer = await ask("Add an API", "The whole answer is kept each time it changes. A key is named by its variable: $NAME.", [{ name: "id", label: "Id", required: true, pattern: "[a-z0-9_.]{1,80}", hint: "Lower-case letters, digits, _ and ." }, { name: "name", label: "Name" }, { name: "category", label: "Category", value: "custom" }, { name: "base_url", label: "URL", type: "url", required: true, placeholder: "https://" }, { name: "interval", label: "Ask every, in seconds", type: "number", min: 10, max: 604800, value: 3600 }], { confirm: "Add" });
    if (!answer) return;
    const added = await command(`${answer.id} was added.`, "POST", `${BASE}/config/apis`, { ...answer, name: answer.name || answer.id, interval: Number(answer.interval) });
    if (added) await this.read();
  }
}

const stateOf = row => row.task.last_status === undefined || row.task.last_status === null ? "never" : row.task.last_status;

function toggle(row, after) {
  const on = row.task.enabled ?? row.enabled ?? false;
  return h("button", { type: "button", class: "switch", role: "switch", "aria-checked": String(on), "aria-label": `${row.id} is asked on schedule`, onclick: async () => { await command(`${row.id} is ${on ? "off" : "on"}.`, "PUT", `${BASE}/schedule/tasks/${encodeURIComponent(row.id)}`, { enabled: !on }); await after(); } });
}

async function interval(row, after) {
  const answer = await ask(`Interval of ${row.id}`, null, [{ name: "interval", label: "Ask every, in seconds", type: "number", min: 10, max: 604800, value: row.task.interval ?? 3600, required: true }], { confirm: "Set" });
  if (!answer) return;
  await command(`${row.id} is asked every ${duration(Number(answer.interval))}.`, "PUT", `${BASE}/schedule/tasks/${encodeURIComponent(row.id)}`, { interval: Number(answer.interval) });
  await after();
}

/** A catalogue of APIs in JSON: each is added, and how many were left out is said. */
async function importFile() {
  const answer = await ask("Import APIs", "A JSON list of APIs, or the file of the predecessor ({\"apis\": {...}}). Keys in it are refused: name variables instead.", [{ name: "text", label: "JSON", type: "textarea", required: true }], { confirm: "Import" });
  if (!answer) return;
  let apis;
  try { const body = JSON.parse(answer.text); apis = Array.isArray(body) ? body : Object.values(body.apis ?? body.registry ?? {}); } catch (error) { toast(`The text is not JSON: ${error.message}`, "error"); return; }
  const refused = [];
  for (const api of apis) await send("POST", `${BASE}/config/apis`, api).catch(error => refused.push(`${api.id}: ${error.message}`));
  toast(`${apis.length - refused.length} of ${apis.length} APIs were added. ${refused.slice(0, 3).join(" ")}`, refused.length ? "error" : "success");
}

class Source {
  constructor(id, go) {
    this.id = id;
    this.go = go;
    this.head = h("header", { class: "page-head" });
    this.list = h("div", {}, skeleton());
    this.payload = h("div");
    this.elements = [h("a", { class: "back", href: "/sources" }, "← Sources"), this.head, h("div", { class: "split even" }, card("History", null, this.list), card("Payload", null, this.payload))];
  }

  async read(signal) {
    const id = encodeURIComponent(this.id);
    const [api, tasks, history] = await Promise.all([get(`${BASE}/config/apis/${id}`, { signal }), getOr(`${BASE}/schedule/tasks`, {}, { signal }), getOr(`${BASE}/data/history/${id}?limit=100`, { history: [] }, { signal })]);
    this.history = [...history.history].sort((a, b) => a.timestamp < b.timestamp ? 1 : -1);
    const update = button("Update now", "refresh", () => command(`${this.id} is being asked.`, "POST", `${BASE}/schedule/tasks/${id}/force-update`, {}), { class: "button primary" });
    const remove = button("Remove", "trash", () => this.#remove());
    fill(this.head, h("div", {}, h("h1", {}, api.name ?? this.id), h("p", { class: "lead mono" }, api.base_url ?? api.url ?? ""), tasks[this.id]?.last_error && h("p", { class: "failed" }, badge("failed"), ` ${tasks[this.id].last_error}`)), h("div", { class: "row" }, remove, update));
    if (!this.history.length) { fill(this.list, empty("sources", "No payload yet", "The next tick asks for the first; Update now asks at once.")); fill(this.payload, empty("docs", "Nothing to show", "A payload is shown here.")); return; }
    fill(this.list, table([{ title: "Fetched", cell: one => instant(one.timestamp, true) }, { title: "Status", cell: one => String(one.metadata?.status ?? "–") }, { title: "Size", number: true, cell: one => bytes(one.metadata?.bytes ?? JSON.stringify(one.data).length) }], this.history, { page: 30, onrow: one => this.#show(this.history.indexOf(one)) }));
    this.#show(0);
  }

  #show(number) {
    const shown = this.history[number], before = this.history[number + 1];
    const lines = before ? difference(pretty(before.data), pretty(shown.data)) : pretty(shown.data).map(text => [" ", text]);
    fill(this.payload, h("div", { class: "card-tools muted" }, instant(shown.timestamp, true), before ? ` against ${instant(before.timestamp, true)}` : ", the first payload"), h("pre", { class: "code diff", tabindex: "0" }, lines.slice(0, 2000).map(([sign, text]) => h("div", { class: { "+": "plus", "-": "minus" }[sign] ?? "" }, `${sign} ${text}`))));
  }

  async #remove() {
    const answer = await ask(`Remove ${this.id}`, "It is asked no longer. Its stored payloads stay until retention deletes them.", [], { confirm: "Remove", danger: true });
    if (answer && await command(`${this.id} was removed.`, "DELETE", `${BASE}/config/apis/${encodeURIComponent(this.id)}`)) this.go("/sources");
  }
}

const pretty = data => (typeof data === "string" ? data : JSON.stringify(data, null, 2) ?? "").split("\n");

/** Lines that left (-), came (+), stayed ( ), by the longest common subsequence; long payloads by sets of lines. */
export function difference(before, after) {
  if (before.length * after.length > 1000000) {
    const old = new Set(before);
    return after.map(text => [old.has(text) ? " " : "+", text]);
  }
  const table = Array.from({ length: before.length + 1 }, () => new Uint16Array(after.length + 1));
  for (let i = before.length - 1; i >= 0; i--) for (let j = after.length - 1; j >= 0; j--) table[i][j] = before[i] === after[j] ? table[i + 1][j + 1] + 1 : Math.max(table[i + 1][j], table[i][j + 1]);
  const lines = [];
  let i = 0, j = 0;
  while (i < before.length || j < after.length) {
    if (i < before.length && j < after.length && before[i] === after[j]) { lines.push([" ", after[j]]); i++; j++; } else if (j < after.length && (i === before.length || table[i][j + 1] > table[i + 1][j])) lines.push(["+", after[j++]]); else lines.push(["-", before[i++]]);
  }
  return lines;
}

