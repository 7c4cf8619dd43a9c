// Alerts: what is wrong now, and who is told.

import { get, getOr, send } from "/static/client.mjs";
import { badge, button, card, count, empty, fill, h, SIGNS, skeleton, toast } from "/static/dom.mjs";

export async function open(root, { signal }) {
  const view = new Alerts();
  await view.read(signal);
  fill(root, view.elements);
  return { update: kind => kind === "candles" ? null : view.read() };
}

const SHOWN = 6;

class Alerts {
  constructor() {
    this.lead = h("p", { class: "lead" });
    this.problems = h("div", {}, skeleton(3));
    this.channels = h("div", {}, skeleton(2));
    this.checks = h("div", {}, skeleton(4));
    const test = button("Send a test message", "bell", () => this.#test(), { class: "button primary" });
    this.elements = [h("header", { class: "page-head" }, h("div", {}, h("h1", {}, "Alerts"), this.lead), test), h("div", { class: "split" }, h("div", { class: "stack" }, card("What is wrong", null, this.problems), card("Readiness", null, this.checks)), h("div", { class: "stack" }, card("Who is told", null, this.channels)))];
  }

  async #test() {
    try {
      const { channels } = await send("POST", "/api/v1/alerts/test");
      if (!channels.length) toast("No channel is set, so nobody was told.", "error");
      for (const one of channels) toast(one.sent ? `${one.channel}: the message was sent.` : `${one.channel}: ${one.error}`, one.sent ? "success" : "error");
    } catch (error) {
      toast(error.message, "error");
    }
  }

  async read(signal) {
    const [answer, ready] = await Promise.all([get("/api/v1/alerts", { signal }), getOr("/api/v1/readiness", {}, { signal })]);
    const alerts = answer.alerts ?? [], channels = answer.channels ?? [];
    fill(this.lead, alerts.length ? h("b", {}, `${count(alerts.length)} ${alerts.length === 1 ? "problem" : "problems"} now.`) : "Nothing is wrong.");
    fill(this.problems, alerts.length ? grouped(alerts).map(problem) : h("p", { class: "calm padded" }, h("span", { class: "tick" }, SIGNS.fresh), "Every run succeeded, every check holds, every series is fresh."));
    const missing = (answer.missing ?? []).map(text => h("p", { class: "calm" }, h("span", { class: "dot failed" }, "!"), capitalized(text)));
    fill(this.channels, channels.length || missing.length ? h("div", { class: "list" }, channels.map(channel), missing) : empty("bell", "No channel is set", "Set SLACK_WEBHOOK_URL, SMTP_HOST with ALERT_EMAIL_RECIPIENTS, or ALERT_URLS, so that somebody is told."));
    const checks = Object.entries(ready.checks ?? {});
    fill(this.checks, checks.length ? h("div", { class: "list" }, checks.map(([name, check]) => h("div", { class: "list-line" }, badge(check.ok ? "ok" : "failed"), h("span", {}, h("b", {}, capitalized(name)), h("small", {}, capitalized(check.detail)))))) : empty("check", "Not known", "The server says nothing of its readiness."));
  }
}

/** Alerts of one scope and kind are one problem, however many series it has. */
export function grouped(alerts) {
  const groups = new Map();
  for (const alert of alerts) {
    const key = `${alert.scope}|${alert.kind}`;
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push(alert);
  }
  return [...groups.values()];
}

function problem(alerts) {
  const [first] = alerts, kind = String(first.kind ?? "problem").replaceAll("_", " ");
  if (alerts.length === 1) return h("article", { class: "problem" }, dot(), h("div", {}, h("h3", {}, first.subject), h("p", {}, first.text)));
  const lines = alerts.map(one => h("div", { class: "problem-line" }, h("b", {}, one.item ?? one.subject), h("span", { class: "muted" }, one.text)));
  const rest = lines.length > SHOWN && h("details", {}, h("summary", {}, `${count(lines.length - SHOWN)} more`), lines.slice(SHOWN));
  return h("article", { class: "problem" }, dot(), h("div", {}, h("h3", {}, `${first.scope}: ${kind}, ${count(alerts.length)} series`), lines.slice(0, SHOWN), rest));
}

const capitalized = text => text ? text[0].toUpperCase() + text.slice(1) : "";

const dot = () => h("span", { class: "dot failed", "aria-hidden": "true" }, "!");

function channel(one) {
  const name = typeof one === "string" ? one : one.name ?? one.kind, state = one.state ?? (one.error ? "failed" : "ok");
  return h("div", { class: "list-line" }, badge(state), h("span", {}, h("b", {}, name), one.error && h("small", {}, one.error)));
}

