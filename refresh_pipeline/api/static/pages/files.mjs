// Files: the manifest of export files, uploads by destination, backups.

import { command, get, getOr, getResponse, recent, seriesPage } from "/static/client.mjs";
import { ago, ask, badge, button, bytes, card, count, empty, fill, h, icon, instant, skeleton, table, tabs, toast } from "/static/dom.mjs";

export async function open(root, { signal }) {
  const view = new Files();
  await view.read(signal);
  fill(root, view.elements);
  return { update: kind => ["run_update", "poll", "reset"].includes(kind) ? view.read() : null };
}

class Files {
  constructor() {
    this.text = "";
    this.panel = 0;
    this.summary = h("div", { class: "tiles" });
    this.body = h("div", {}, skeleton());
    const publish = button("Publish", "files", () => this.#publish(), { class: "button primary" });
    const backup = button("Back up", "history", () => command("A backup has started.", "POST", "/api/v1/backup", {}));
    this.elements = [h("header", { class: "page-head" }, h("div", {}, h("h1", {}, "Files"), h("p", { class: "lead" }, "What was exported, where it was uploaded to, and the backups of the warehouse.")), h("div", { class: "row" }, backup, publish)), this.summary, card(null, null, this.body)];
  }

  async #publish() {
    const { markets } = await recent("/api/v1/status"), names = markets.map(market => market.name);
    const answer = await ask("Publish", "Export files are written anew where candles changed, and uploaded.", [{ name: "market", label: "Market", options: ["all", ...names] }], { confirm: "Publish" });
    if (answer) await command("Publishing has started.", "POST", "/api/v1/publish", answer.market === "all" ? {} : { markets: [answer.market] });
  }

  async read(signal) {
    const options = { signal };
    const [exports, uploads, status, backups] = await Promise.all([get("/api/v1/exports", options), getOr("/api/v1/uploads", { uploads: [] }, options), getOr("/api/v1/upload/status", {}, options), getOr("/api/v1/backups", { backups: [] }, options)]);
    Object.assign(this, { exports: exports.exports ?? exports.files ?? [], uploads: uploads.uploads ?? [], faults: Array.isArray(status.upload_errors) ? status.upload_errors : [], status, backups: backups.backups ?? [] });
    this.#tiles();
    const panels = [{ title: `Exports ${count(this.exports.length)}`, draw: () => this.#exports() }, { title: `Uploads ${count(this.uploads.length)}`, draw: () => this.#uploads() }, { title: `Backups ${count(this.backups.length)}`, draw: () => this.#backups() }];
    const tabbed = tabs("Files", panels, this.panel);
    tabbed.addEventListener("click", event => { const index = [...tabbed.querySelectorAll("[role=tab]")].indexOf(event.target); if (index >= 0) this.panel = index; });
    fill(this.body, tabbed);
  }

  #tiles() {
    const size = this.exports.reduce((sum, file) => sum + (file.bytes ?? 0), 0);
    const destinations = (this.status.destinations ?? []).map(one => tile(one.destination, one.enabled === false ? "off" : one.failed ? badge("failed", `${count(one.failed)} failed`) : badge("ok", "up to date"), h("span", {}, `${one.market} · ${count(one.files)} files · `, ago(one.last_upload))));
    fill(this.summary, tile("Exports", bytes(size), `${count(this.exports.length)} files`), destinations, tile("Last backup", this.backups[0] ? ago(this.backups[0].made_at) : "none", this.backups[0] ? bytes(this.backups[0].bytes) : "Back up makes the first one."));
  }

  #exports() {
    if (!this.exports.length) return empty("files", "No export files", "A market's YAML names them in exports; Publish writes them.", h("a", { class: "button", href: "/docs" }, "API docs"));
    const filtered = () => this.exports.filter(file => file.path.toLowerCase().includes(this.text));
    const list = table(exportColumns(), filtered(), { page: 50, none: "No file fits the filter." });
    const search = h("label", { class: "search" }, icon("search"), h("input", { type: "search", placeholder: "Filter paths", "aria-label": "Filter paths", value: this.text, oninput: event => { this.text = event.target.value.toLowerCase(); list.show(filtered()); } }));
    return h("div", {}, h("div", { class: "card-tools" }, search), list);
  }

  #uploads() {
    if (!this.uploads.length && !this.faults.length) return this.status.upload_off ? empty("files", "Uploads are off", `${this.status.upload_off.replace("off, no", "No")}.`) : empty("files", "Nothing was uploaded", "A market's YAML names destinations; each upload is listed here with its checksum.");
    const faults = this.faults.length > 0 && h("div", { class: "list" }, this.faults.map(text => h("div", { class: "list-line" }, badge("failed"), h("span", {}, text))));
    return h("div", {}, faults, table([
      { title: "Destination", cell: one => one.destination, sort: one => one.destination },
      { title: "Path", class: "wrap", cell: one => one.url?.startsWith("https://") ? h("a", { href: one.url, target: "_blank", rel: "noreferrer" }, one.path) : one.path, sort: one => one.path },
      { title: "Size", number: true, cell: one => bytes(one.bytes), sort: one => one.bytes },
      { title: "Uploaded", cell: one => ago(one.uploaded_at), sort: one => one.uploaded_at },
      { title: "Checksum", cell: one => h("code", { title: one.sha256 ?? one.content_hash }, String(one.sha256 ?? one.content_hash ?? "–").slice(0, 12)) },
    ], this.uploads, { page: 50 }));
  }

  #backups() {
    if (!this.backups.length) return empty("history", "No backup yet", "Back up copies the warehouse while no refresh writes. The schedule of backups makes one a night.");
    return h("div", {}, table([
      { title: "State", class: "fit", cell: one => one.faults?.length ? badge("failed", "damaged") : badge("ok", "readable") },
      { title: "Backup", cell: one => one.name, sort: one => one.name },
      { title: "Rows", number: true, cell: one => count(one.rows), sort: one => one.rows },
      { title: "Size", number: true, cell: one => bytes(one.bytes), sort: one => one.bytes },
      { title: "Made", cell: one => instant(one.made_at), sort: one => one.made_at },
      { title: "", cell: one => button("How to restore", null, () => restore(one), { class: "button small" }) },
    ], this.backups), null);
  }
}

const tile = (name, value, text) => h("div", { class: "card tile" }, h("span", { class: "tile-name" }, name), h("b", {}, value), h("small", {}, text));

const filePath = file => `/api/v1/files/${file.path.split("/").map(encodeURIComponent).join("/")}`;

function exportColumns() {
  return [
    { title: "Path", class: "wrap", cell: file => h("a", { href: filePath(file), download: file.path.split("/").pop() }, file.path), sort: file => file.path },
    { title: "Series", cell: file => file.instrument ? h("a", { href: seriesPage(file) }, `${file.instrument} ${file.timeframe}`) : "–", sort: file => file.instrument },
    { title: "Layer", cell: file => file.layer ?? "–", sort: file => file.layer },
    { title: "Rows", number: true, cell: file => count(file.rows), sort: file => file.rows },
    { title: "Size", number: true, cell: file => bytes(file.bytes), sort: file => file.bytes },
    { title: "Exported", cell: file => ago(file.exported_at), sort: file => file.exported_at },
    { title: "", cell: file => h("span", { class: "row end nowrap" }, button("Verify", "check", () => verify(file), { class: "button small" }), h("a", { class: "button small icon-only", href: filePath(file), download: file.path.split("/").pop(), "aria-label": `Download ${file.path}`, title: "Download" }, icon("download"))) },
  ];
}

/** Read the file and hold its checksum against the manifest's. */
async function verify(file) {
  try {
    if (!crypto.subtle) { toast("The browser computes checksums only over https or on this machine. Run: refresh exports verify", "error"); return; }
    const response = await getResponse(filePath(file), { cache: "no-store" });
    const content = await response.arrayBuffer(), sha256 = hex(await digest(content));
    if (sha256 === file.sha256 || await blockDigest(content) === file.sha256) toast(`${file.path} is as the manifest says: sha256 ${sha256.slice(0, 12)}…`, "success");
    else toast(`${file.path} differs from the manifest: sha256 ${sha256.slice(0, 12)}…, expected ${String(file.sha256).slice(0, 12)}…. Publish writes it anew.`, "error");
  } catch (error) {
    toast(error.message, "error");
  }
}

const BLOCK = 4 * 1024 * 1024;

const digest = async content => new Uint8Array(await crypto.subtle.digest("SHA-256", content));
const hex = values => Array.from(values, byte => byte.toString(16).padStart(2, "0")).join("");

/** What the manifest has of a CSV file that has grown beyond one block: the hash of its blocks' hashes. */
export async function blockDigest(content) {
  const hashes = [];
  for (let begin = 0; begin < content.byteLength; begin += BLOCK) hashes.push(await digest(content.slice(begin, begin + BLOCK)));
  return hex(await digest(await new Blob(hashes).arrayBuffer()));
}

function restore(backup) {
  return ask("Restore a backup", "A restore replaces the warehouse, so it runs on the machine itself and not over HTTP. Stop the services, then run:", [{ name: "command", label: "Command", type: "textarea", value: `refresh restore ${backup.name}`, rows: 2, readonly: true }], { confirm: "Close" });
}
