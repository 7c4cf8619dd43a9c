// The API's documentation, drawn from openapi.json, with a form to try each question.

import { get } from "/static/client.mjs";
import { badge, button, coded, copy, fill, h, icon } from "/static/dom.mjs";

const METHODS = ["get", "head", "post", "put", "delete", "patch"];

export async function open(root, { signal }) {
  const spec = await get("/openapi.json", { signal });
  const view = new Docs(spec);
  fill(root, view.elements);
  view.goTo(location.hash.slice(1));
  return null;
}

class Docs {
  constructor(spec) {
    this.spec = spec;
    this.groups = grouped(spec);
    const search = h("label", { class: "search" }, icon("search"), h("input", { type: "search", placeholder: "Filter routes", "aria-label": "Filter routes", oninput: event => this.#filter(event.target.value.toLowerCase()) }));
    const contents = h("nav", { class: "docs-contents", "aria-label": "Groups" }, [...this.groups.keys()].map(tag => h("a", { href: `#${anchor(tag)}`, onclick: event => { event.preventDefault(); this.goTo(anchor(tag)); } }, tag)));
    this.sections = [...this.groups].map(([tag, operations]) => h("section", { class: "card", id: anchor(tag) }, h("header", { class: "card-head" }, h("h2", {}, tag)), operations.map(operation => this.#operation(operation))));
    this.elements = [h("header", { class: "page-head" }, h("div", {}, h("h1", {}, "API docs"), h("p", { class: "lead" }, `${spec.info.title} ${spec.info.version}. ${spec.info.description ?? ""}`)), h("div", { class: "row" }, search, h("a", { class: "button", href: "/openapi.json", target: "_blank" }, "openapi.json"))), h("div", { class: "docs" }, contents, h("div", { class: "stack" }, this.sections))];
  }

  goTo(id) {
    const element = id && document.getElementById(id);
    if (!element) return;
    history.replaceState({}, "", `#${id}`);
    element.scrollIntoView();
    if (element.tagName === "DETAILS") element.open = true;
  }

  #filter(text) {
    for (const section of this.sections) {
      const details = [...section.querySelectorAll("details.operation")];
      for (const one of details) one.hidden = !one.dataset.text.includes(text);
      section.hidden = details.every(one => one.hidden);
    }
  }

  #operation({ method, path, operation, parameters }) {
    const details = h("details", { class: "operation", id: anchor(`${method} ${path}`), data: { text: `${method} ${path} ${operation.summary ?? ""}`.toLowerCase() } },
      h("summary", {}, h("b", { class: `method ${method}` }, method.toUpperCase()), h("code", {}, path), h("span", { class: "muted" }, coded(operation.summary))));
    details.addEventListener("toggle", () => { if (details.open && details.children.length === 1) details.append(this.#detail(method, path, operation, parameters)); });
    return details;
  }

  #detail(method, path, operation, parameters) {
    const body = operation.requestBody && this.#resolve(operation.requestBody);
    const schema = body && Object.entries(body.content ?? {})[0];
    const form = new Try(method, path, parameters.map(one => this.#resolve(one)), schema && { type: schema[0], example: this.#example(schema[1].schema) });
    return h("div", { class: "operation-body" }, operation.description && h("p", { class: "muted" }, coded(operation.description)), form.element,
      h("h3", {}, "Answers"), h("ul", { class: "answers" }, Object.entries(operation.responses ?? {}).map(([status, response]) => h("li", {}, badge(status.startsWith("2") ? "ok" : status.startsWith("3") ? "unchanged" : "late", status), h("span", {}, coded(this.#resolve(response).description))))));
  }

  #resolve(value) {
    if (!value?.$ref) return value;
    return value.$ref.slice(2).split("/").reduce((node, name) => node?.[name.replaceAll("~1", "/").replaceAll("~0", "~")], this.spec) ?? {};
  }

  /** A body that fits a schema, as a start for one's own. */
  #example(given, depth = 0) {
    const schema = this.#resolve(given) ?? {};
    if (schema.examples?.length) return schema.examples[0];
    if (schema.example !== undefined) return schema.example;
    if (schema.default !== undefined) return schema.default;
    const variants = schema.anyOf ?? schema.oneOf;
    if (variants) return this.#example(variants[0], depth + 1);
    if (schema.properties && depth < 4) return Object.fromEntries((schema.required ?? []).map(name => [name, this.#example(schema.properties[name], depth + 1)]));
    return { string: "", integer: 0, number: 0, boolean: false, array: [], object: {} }[schema.type] ?? null;
  }
}

const anchor = text => text.replace(/[^A-Za-z0-9]+/g, "-").replace(/^-|-$/g, "");

function grouped(spec) {
  const groups = new Map();
  for (const [path, item] of Object.entries(spec.paths ?? {})) {
    for (const method of METHODS) {
      if (!item[method]) continue;
      const operation = item[method], tag = operation.tags?.[0] ?? "Other";
      if (!groups.has(tag)) groups.set(tag, []);
      groups.get(tag).push({ method, path, operation, parameters: [...(item.parameters ?? []), ...(operation.parameters ?? [])] });
    }
  }
  return groups;
}

/** A form for one question: its parameters, the request as curl, and the answer. */
class Try {
  constructor(method, path, parameters, body) {
    Object.assign(this, { method, path, body });
    this.inputs = parameters.filter(parameter => parameter.in === "path" || parameter.in === "query").map(parameter => ({ parameter, control: control(parameter) }));
    this.text = body && h("textarea", { rows: 5, "aria-label": "Body", spellcheck: "false" }, JSON.stringify(body.example, null, 2));
    this.answer = h("div");
    const rows = this.inputs.map(({ parameter, control: element }) => h("tr", {}, h("th", { scope: "row" }, h("code", {}, parameter.name), parameter.required && h("small", {}, " required")), h("td", { class: "fit" }, element), h("td", { class: "muted wrap" }, coded(parameter.description))));
    this.element = h("form", { class: "try", onsubmit: event => { event.preventDefault(); return this.#send(); } }, rows.length > 0 && h("div", { class: "table-wrap" }, h("table", { class: "table" }, h("tbody", {}, rows))), this.text && h("div", { class: "field" }, h("label", {}, `Body (${body.type})`), this.text), h("div", { class: "row" }, h("button", { type: "submit", class: "button small primary" }, "Try it"), button("Copy as curl", "copy", () => copy(this.#curl(), "curl"), { class: "button small" })), this.answer);
  }

  #url() {
    let path = this.path;
    const query = new URLSearchParams();
    for (const { parameter, control: element } of this.inputs) {
      if (parameter.in === "path") path = path.replace(new RegExp(`\\{${parameter.name}(:[^}]*)?\\}`), element.value.split("/").map(encodeURIComponent).join("/"));
      else if (element.value !== "") query.set(parameter.name, element.value);
    }
    return query.size ? `${path}?${query}` : path;
  }

  #curl() {
    const head = `curl -s${this.method === "get" ? "" : ` -X ${this.method.toUpperCase()}`} '${location.origin}${this.#url()}'`;
    return this.text ? `${head} -H 'Content-Type: application/json' -d '${this.text.value.replaceAll("'", "'\\''")}'` : head;
  }

  async #send() {
    const options = { method: this.method.toUpperCase(), credentials: "same-origin" };
    if (this.text) Object.assign(options, { body: this.text.value, headers: { "content-type": "application/json" } });
    const began = performance.now();
    try {
      const response = await fetch(this.#url(), options), text = await textOf(response);
      fill(this.answer, h("div", { class: "row answer-head" }, badge(response.ok ? "ok" : "failed", `${response.status} ${response.statusText}`), h("span", { class: "faint" }, `${Math.round(performance.now() - began)} ms · ${response.headers.get("content-type") ?? ""}`)), h("pre", { class: "code", tabindex: "0" }, text));
    } catch (error) {
      fill(this.answer, h("p", { class: "down-text" }, `Not connected: ${error.message}`));
    }
  }
}

function control(parameter) {
  const schema = parameter.schema ?? {}, options = schema.enum ?? schema.anyOf?.find(one => one.enum)?.enum;
  const value = parameter.example ?? schema.examples?.[0] ?? Object.values(parameter.examples ?? {})[0]?.value ?? "";
  if (options) return h("select", { "aria-label": parameter.name, required: parameter.required }, [h("option", { value: "" }, "–"), ...options.map(option => h("option", { value: option, selected: option === value }, String(option)))]);
  return h("input", { "aria-label": parameter.name, required: parameter.required, value, placeholder: schema.default ?? "", spellcheck: "false" });
}

async function textOf(response) {
  const type = response.headers.get("content-type") ?? "";
  if (/arrow|parquet|octet/.test(type)) return `${(await response.arrayBuffer()).byteLength} bytes`;
  if (/event-stream/.test(type)) { response.body?.cancel(); return "The stream was opened and closed again."; }
  const text = await response.text();
  try { return JSON.stringify(JSON.parse(text), null, 2).slice(0, 20000); } catch { return text.slice(0, 20000); }
}
