// The API as the pages see it: questions, commands, and news of what changed.

import { toast } from "/static/dom.mjs";

/** An answer that is not a success: what the server wanted, found and advises. */
export class Problem extends Error {
  constructor(status, body) {
    super(body.detail ?? body.title ?? body.message ?? `The server answered ${status}.`);
    this.status = status;
    this.name = String(body.type ?? "").split("/").pop() || "problem";
    this.body = body;
  }
}

/** The server did not answer at all. */
export class NotConnected extends Error {
  constructor() {
    super("Not connected: the API does not answer.");
  }
}

const listeners = { unauthorized: new Set(), connection: new Set(), news: new Set() };
export const on = (kind, act) => { listeners[kind].add(act); return () => listeners[kind].delete(act); };
const tell = (kind, ...values) => { for (const act of listeners[kind]) act(...values); };

async function request(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { credentials: "same-origin", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    connection.lost();
    throw new NotConnected();
  }
  connection.answered();
  if (!response.ok) throw await problem(response);
  return response;
}

async function problem(response) {
  const text = await response.text();
  let body = {};
  try { body = JSON.parse(text) ?? {}; } catch { body = { detail: text.slice(0, 300) }; }
  if (response.status === 401) tell("unauthorized", body.detail);
  return new Problem(response.status, body);
}

/** A question, answered as JSON. A busy server is asked again twice. */
export async function get(path, { signal, attempts = 3 } = {}) {
  for (let attempt = 1; ; attempt++) {
    try {
      const response = await request(path, { signal, headers: { accept: "application/json" } });
      return await response.json();
    } catch (error) {
      if (!(error instanceof Problem) || error.name !== "busy" || attempt >= attempts) throw error;
      await new Promise(resolve => setTimeout(resolve, 1000));
    }
  }
}

/** The same, or a value where the server does not know the route or cannot answer now. */
export async function getOr(path, otherwise, options) {
  try {
    return await get(path, options);
  } catch (error) {
    if (error instanceof Problem && error.status !== 401) return otherwise;
    throw error;
  }
}

/** The raw answer, for files. */
export const getResponse = (path, options) => request(path, options);

/** A command. It is sent once: the same key makes the server answer a repetition with the same run. */
export async function send(method, path, body = {}) {
  const headers = { "content-type": "application/json", accept: "application/json" };
  if (method === "POST") headers["idempotency-key"] = key();
  const response = await request(path, { method, headers, body: JSON.stringify(body) });
  return response.status === 204 ? {} : response.json();
}

const key = () => Array.from(crypto.getRandomValues(new Uint8Array(12)), byte => byte.toString(16).padStart(2, "0")).join("");

/** A command whose end is shown as a message: the answer, or null where it was refused. */
export async function command(text, method, path, body) {
  try {
    const answer = await send(method, path, body);
    const run = answer.runs?.[0];
    toast(`${text} `, "success", run?.run_id && { href: `/runs/${run.run_id}`, text: "Show the run" });
    return answer;
  } catch (error) {
    toast(error.message, "error");
    return null;
  }
}

let allowed = null;

/** Whether the server asks for a key, and what this browser's may do: `{key_needed, role}`. Asked again after a login. */
export function session(again = false) {
  if (again) allowed = null;
  allowed ??= get("/api/v1/session/role").catch(() => { allowed = null; return { key_needed: false, role: "full" }; });
  return allowed;
}

let routes = null;

/** Whether this server has a route: a server of another version, or one that runs alone, may lack it. */
export async function offers(path) {
  routes ??= get("/openapi.json").then(spec => new Set(Object.keys(spec.paths ?? {})), () => { routes = null; return null; });
  const known = await routes;
  return known === null || known.has(path);
}

/** An instrument as it stands in a path. */
export const instrumentPath = instrument => instrument.split("/").map(encodeURIComponent).join("/");

export const dataPath = (series, query = {}) => {
  const parameters = new URLSearchParams({ market: series.market, ...query });
  return `/api/v1/data/${instrumentPath(series.instrument)}/${series.timeframe}?${parameters}`;
};

export const seriesPage = series => `/series/${encodeURIComponent(series.market)}/${instrumentPath(series.instrument)}/${series.timeframe}`;

// ---- whether the server is there, and its news

const TOPICS = "candles,runs,alerts,schedules,apis";
const KINDS = ["candles", "run_update", "alert_update", "schedule_update", "status_update", "api_update", "reset", "lagging"];
const FIRST_WAIT = 1000, LONGEST_WAIT = 8000, POLL = 15000, STABLE = 5000;

class Connection {
  state = "connecting";
  #source = null;
  #wait = FIRST_WAIT;
  #timer = null;
  #poll = null;

  /** Listen for news; where the server has none to push, ask for them. */
  start() {
    this.stop();
    this.#listen();
  }

  stop() {
    this.#source?.close();
    this.#source = null;
    clearTimeout(this.#timer);
    clearTimeout(this.#poll);
    this.#timer = this.#poll = null;
  }

  async #listen() {
    if (!await offers("/api/v1/events")) { if (this.state !== "lost") this.#set("polling"); this.#ask(); this.#later(() => this.#check(), POLL); return; }
    const source = this.#source = new EventSource(`/api/v1/events?topics=${TOPICS}`);
    source.onopen = () => { this.#wait = FIRST_WAIT; this.#set("live"); };
    source.onerror = () => { source.close(); if (this.#source === source) { this.#source = null; this.#look(); } };
    for (const kind of KINDS) source.addEventListener(kind, event => tell("news", kind, parsed(event.data)));
  }

  /** Is it the server that is gone, or the stream alone? */
  async #look() {
    try {
      const response = await fetch("/api/v1/health", { cache: "no-store" });
      if (!response.ok) throw new Error(String(response.status));
      const probe = await fetch(`/api/v1/changes?limit=1`, { cache: "no-store" }).catch(() => null);
      if (probe?.status === 401) { tell("unauthorized"); return; }
      this.#set("polling");
      this.#later(() => this.#listen(), STABLE);
      this.#ask();
    } catch {
      this.lost();
    }
  }

  /** Without a stream, a look now and then says whether the server is still there. */
  async #check() {
    try {
      await fetch("/api/v1/health", { cache: "no-store" });
      this.#later(() => this.#check(), POLL);
    } catch {
      this.lost();
    }
  }

  #ask() {
    clearTimeout(this.#poll);
    this.#poll = setTimeout(() => { if (this.state === "polling") { tell("news", "poll", {}); this.#ask(); } }, POLL);
  }

  #later(act, wait) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(act, wait);
  }

  /** A request got no answer: say so, and try again by itself. */
  lost() {
    this.#source?.close();
    this.#source = null;
    this.#set("lost");
    this.#later(() => this.#again(), this.#wait);
    this.#wait = Math.min(LONGEST_WAIT, this.#wait * 2);
  }

  async #again() {
    try {
      await fetch("/api/v1/health", { cache: "no-store" });
      routes = null;
      this.#set("polling");
      this.#listen();
    } catch {
      this.lost();
    }
  }

  answered() {
    if (this.state === "connecting") this.#set("polling");
  }

  #set(state) {
    if (state === this.state) return;
    const before = this.state;
    this.state = state;
    tell("connection", state, before);
  }
}

const parsed = text => { try { return JSON.parse(text); } catch { return {}; } };

export const connection = new Connection();

// ---- what several pages ask for

let shared = new Map();

/** An answer that pages share for some seconds. */
export function recent(path, milliseconds = 2000) {
  const hit = shared.get(path);
  if (hit && Date.now() - hit.at < milliseconds) return hit.answer;
  const answer = get(path);
  shared.set(path, { at: Date.now(), answer });
  answer.catch(() => shared.delete(path));
  return answer;
}

/** All that is known of one series; the row itself where it is not loaded any more. */
export async function seriesRow(row, milliseconds) {
  const parameters = new URLSearchParams({ market: row.market, instrument: row.instrument, timeframe: row.timeframe });
  return (await recent(`/api/v1/series?${parameters}`, milliseconds)).series[0] ?? row;
}

export const forget = () => { shared = new Map(); };
