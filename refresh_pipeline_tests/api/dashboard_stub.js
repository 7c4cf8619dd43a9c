// Stands between the dashboard and its server in tests: commands are noted instead of sent, and what Dagster would answer
// is canned. Everything else goes to the real server.
(() => {
  const at = minutes => new Date(Date.now() - minutes * 60000).toISOString().replace(/\.\d+/, "");
  const run = (number, job, status, minutes, asked = "demo_refresh") => ({ run_id: `5f1c2a34-0000-4d8e-9c1f-${String(number).padStart(12, "0")}`, job, market: job.split("_")[0], status, queued_at: at(minutes), started_at: at(minutes), ended_at: status === "started" ? null : at(minutes - 0.06), seconds: status === "started" ? null : 3.4 + number % 4, asked_by: asked, url: `http://127.0.0.1:3000/runs/${number}` });
  const runs = [run(1, "demo_refresh", "started", 0.05, "api"), run(2, "demo_refresh", "success", 5), run(3, "demo_refresh", "failure", 10), run(4, "demo_backfill", "success", 12, "api"), run(5, "demo_publish", "success", 14), ...Array.from({ length: 9 }, (_, number) => run(number + 6, "demo_refresh", "success", 15 + 5 * number))];
  const outcomes = ["BTC/USD", "ETH/USD", "EUR/USD"].flatMap(instrument => ["m5", "H1"].map(timeframe => ({ market: "demo", asset: "raw_candles", instrument, timeframe, outcome: instrument === "EUR/USD" ? "failed" : "updated", reason: instrument === "EUR/USD" ? "HTTP 503 from the venue; a later run retries" : null, rows_added: 3, rows_revised: 0 })));
  const schedules = [["demo_refresh", "schedule", "*/5 * * * *", true], ["demo_publish", "schedule", "7 * * * *", true], ["demo_retry", "sensor", null, false], ["backup", "schedule", "40 3 * * *", true]].map(([name, kind, cron, running]) => ({ name, kind, market: name.startsWith("demo") ? "demo" : null, running, cron, zone: cron && "UTC", next_tick: running && cron ? at(-4) : null, last_tick: at(1) }));
  const api = (id, category, every) => ({ id, name: id.replaceAll("_", " "), category, base_url: `https://api.example/${id}`, auth: { type: "none", key: null }, enabled: true, update_type: "periodic", priority: 1, endpoints: {}, interval: every });
  const apis = { fear_greed: api("fear_greed", "sentiment", 3600), gas: api("gas", "chain", 60), news: api("news", "news", 900) };
  const task = one => ({ api_id: one.id, name: one.name, category: one.category, interval: one.interval, enabled: one.id !== "news", last_update: at(3), next_update: at(-7), last_status: one.id === "gas" ? "failed" : "success", success_count: 40, error_count: 1 });
  const payload = (minutes, value) => ({ api_id: "fear_greed", timestamp: at(minutes), data: { value, label: value > 50 ? "greed" : "fear", source: "example" }, metadata: { status: 200, bytes: 61 } });
  const by = (list, name) => Object.fromEntries(list.map(one => [one[name], one]));
  const canned = {
    "/api/v1/runs": () => ({ records: runs.length, runs, next: null }),
    "/api/v1/readiness": () => ({ status: "ready", checks: { warehouse: { ok: true, detail: "the warehouse can be read" }, daemon: { ok: true, detail: "heartbeat 3 s ago" }, freshness: { ok: false, detail: "1 of 40 series is stale" } } }),
    "/api/v1/schedules": () => ({ schedules }),
    "/api/v1/backups": () => ({ backups: [{ name: "20260107T034000Z", made_at: at(520), bytes: 8812345, rows: 91234, faults: [] }] }),
    "/api/v2/config/apis": () => ({ apis, total: 3 }),
    "/api/v2/config/apis/fear_greed": () => apis.fear_greed,
    "/api/v2/schedule/tasks": () => by(Object.values(apis).map(task), "api_id"),
    "/api/v2/data/statistics": () => ({ cached_apis: 3, api_statistics: Object.fromEntries(Object.keys(apis).map((id, number) => [id, { record_count: 12 * (number + 1), bytes: 740 * (number + 1), newest: at(30), oldest: at(9000) }])) }),
    "/api/v2/data/history/fear_greed": () => ({ api_id: "fear_greed", history: [payload(3, 61), payload(63, 44)], count: 2 }),
  };
  const patched = {
    "/openapi.json": body => { body.paths["/api/v2/config/apis"] = {}; delete body.paths["/api/v1/events"]; return body; },
    "/api/v1/status": body => { for (const market of body.markets) Object.assign(market, { schedule_running: true, next_tick: at(-3), tick_to_fresh_seconds: 3.9, last_refresh: { run_id: runs[1].run_id, status: "success", ended_at: at(5), seconds: 3.4 } }); return body; },
  };
  const answer = (body, status = 200) => new Response(JSON.stringify(body), { status, headers: { "content-type": "application/json" } });
  const real = window.fetch.bind(window);
  window.sent = [];
  window.fetch = async (url, options = {}) => {
    const { pathname } = new URL(url, location.href), method = options.method ?? "GET";
    if (method !== "GET" && pathname !== "/api/v1/session") {
      window.sent.push([method, pathname, JSON.parse(options.body || "{}")]);
      return answer({ status: "started", runs: [{ market: "demo", job: "demo_refresh", run_id: "5f1c2a34" }], channels: [{ channel: "slack", sent: true, error: null }] }, 202);
    }
    if (pathname.startsWith("/api/v1/runs/")) return answer({ ...runs[2], outcomes, tags: {} });
    if (canned[pathname]) return answer(canned[pathname]());
    const response = await real(url, options);
    return patched[pathname] && response.ok ? answer(patched[pathname](await response.json())) : response;
  };
})();
