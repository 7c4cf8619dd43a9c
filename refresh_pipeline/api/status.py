"""How the pipeline fares: ready, status, configuration, metrics, alerts, checks."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from starlette.responses import Response

from refresh_pipeline.api.addressing import chosen_markets
from refresh_pipeline.api.answers import json_response, tagged_json
from refresh_pipeline.api.catalog import sessions
from refresh_pipeline.api.control import iso_of
from refresh_pipeline.api.dagster_client import Instigator, Run
from refresh_pipeline.api.files import uploads_files
from refresh_pipeline.api.operation import VERSION
from refresh_pipeline.api.parameters import MarketParameter
from refresh_pipeline.api.problems import ProblemError
from refresh_pipeline.api.readiness import readiness
from refresh_pipeline.api.series_status import CLOSED, FAILED, FRESH, LATE, STALE, Standing, standing_of
from refresh_pipeline.api.service import Service, service_of
from refresh_pipeline.api_files import load_usable, overrides
from refresh_pipeline.market.candles import TIME_UNIT, instant, iso_utc
from refresh_pipeline.market.model import Market
from refresh_pipeline.monitoring import notify, problems
from refresh_pipeline.monitoring.notification_policy import MACHINE, Problem
from refresh_pipeline.pipeline.job_names import (
    BACKUP,
    MAINTENANCE,
    backfill_job_name,
    publish_job_name,
    refresh_job_name,
)
from refresh_pipeline.settings import Settings
from refresh_pipeline.warehouse.check_results import CheckResult, recorded_checks
from refresh_pipeline.warehouse.connection import place_of
from refresh_pipeline.warehouse.outcomes import Outcome

router = APIRouter(prefix="/api/v1", tags=["status"])
root = APIRouter(tags=["status"])

# Settings whose values may be shown; of every other one the answer says whether it is set.
SHOWN = (
    "enabled_markets",
    "backups_kept",
    "backups_kept_weekly",
    "backups_kept_monthly",
    "api_host",
    "api_port",
    "api_hosts",
    "api_origins",
    "api_rate",
    "api_tail",
    "dagster_url",
    "smtp_port",
    "smtp_security",
)
# Parts of the health score, out of a hundred.
RUNNING, HOURS, ERRORS, FRESHNESS, PERFORMANCE = 30, 20, 25, 15, 10
Row = dict[str, Any]
READY = "ready"


@router.get("/ready")
async def ready(request: Request) -> Response:
    """Whether all parts can do their work; 503 where one cannot."""
    body = await _ready_body(request)
    is_ready = body["status"] == READY
    return json_response(body, 200 if is_ready else 503, None if is_ready else {"Retry-After": "10"})


@root.get("/health")
async def root_health(request: Request) -> Response:
    """The same as `/api/v1/ready`, beside `/metrics`: for monitors and load balancers."""
    return await ready(request)


@router.get("/readiness")
async def readiness_report(request: Request) -> Response:
    """What `/ready` answers, always with 200: a browser logs a 503 as an error of the page."""
    return json_response(await _ready_body(request))


async def _ready_body(request: Request) -> Row:
    checks = await readiness(service_of(request))
    return {"status": READY if all(check["ok"] for check in checks.values()) else "not_ready", "checks": checks}


@router.get("/status")
async def status(request: Request) -> Response:
    """The markets, the daemon, the warehouse and the alerts at a glance."""
    return json_response(await status_body(service_of(request)))


@router.get("/config")
async def config(request: Request) -> Response:
    """The settings that may be shown, by name; of the others whether they are set."""
    settings = service_of(request).settings
    return json_response({"settings": config_rows(settings), **predecessors_config(service_of(request))})


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Figures of this process, the data and the files."""
    service = service_of(request)
    exports = service.settings.exports_dir
    files = await asyncio.to_thread(_files_below, exports)
    return json_response(
        {
            "service_uptime": round((service.now() - service.started_at).total_seconds(), 3),
            "timestamp": iso_utc(service.now()),
            "requests": service.requests.total,
            "instruments_count": len({name for market in service.markets for name in market.instruments}),
            "timeframes_count": len({one for market in service.markets for one in market.timeframes}),
            "data_files": {"files": len(files), "total_size_mb": round(sum(files) / 1e6, 3)},
            "warehouse_bytes": await _size(service.settings),
            "version": service.feed.version,
            "reader": {
                "openings": service.reader.holds.count,
                "hold_seconds": round(service.reader.holds.seconds, 3),
                "longest_hold_seconds": round(service.reader.holds.longest, 3),
                "wait_seconds": round(service.reader.waits.seconds, 3),
            },
        }
    )


@router.get("/alerts")
async def alerts(request: Request, market: MarketParameter = None) -> Response:
    """What is wrong now, as `refresh alerts` lists it, and the channels that are told."""
    service = service_of(request)
    channels, missing = notify.channels_of(service.settings)
    found = await problems_now(service)
    wanted = {one.name for one in chosen_markets(service.markets, market)}
    if market is None:
        wanted |= {MACHINE, *service.settings.collection_names}
    rows = [
        {"subject": one.subject, "scope": one.scope, "kind": one.kind, "item": one.item, "text": one.text}
        for one in found
        if one.scope in wanted
    ]
    return json_response(
        {"records": len(rows), "alerts": rows, "channels": [one.name for one in channels], "missing": missing}
    )


@router.post("/alerts/test")
async def test_alerts(request: Request) -> Response:
    """Send a test message to every channel."""
    channels, missing = notify.channels_of(service_of(request).settings)
    errors = await asyncio.to_thread(notify.send_test_message, channels)
    listed = [{"channel": name, "sent": error is None, "error": error} for name, error in errors.items()]
    return json_response({"channels": listed, "missing": missing})


@router.get("/checks")
async def checks(request: Request, market: MarketParameter = None) -> Response:
    """The newest result of every check that a run has made, of markets and of collections of APIs."""
    service = service_of(request)
    names = [one.name for one in chosen_markets(service.markets, market)]
    if market is None:
        names += service.settings.collection_names
    found = await service.reader.ask(lambda c: [(name, one) for name in names for one in recorded_checks(c, name)])
    rows = [_check(name, one) for name, one in found]
    return tagged_json(request, {"records": len(rows), "checks": rows})


def _check(name: str, one: CheckResult) -> Row:
    return {
        "market": name,
        "asset": one.asset,
        "check": one.check,
        "description": one.description,
        "passed": one.passed,
        "severity": one.severity,
        "detail": one.detail,
        "examined": one.examined,
        "faults": one.faults,
        "at": iso_utc(one.checked_at),
        "run_id": one.run_id,
    }


async def status_body(service: Service) -> Row:
    """The body of /status."""
    standings = [await standing_of(service, market) for market in service.markets]
    instigators = await _or_none(service.dagster.instigators())
    markets = [
        await _market_status(service, market, standing, instigators)
        for market, standing in zip(service.markets, standings, strict=True)
    ]
    daemons = await _or_none(service.dagster.daemons())
    reports = [report for standing in standings for report in standing.reports]
    return {
        "running": daemons is not None and all(one["healthy"] is not False for one in daemons if one["required"]),
        "timestamp": iso_utc(service.now()),
        "version": VERSION,
        "epoch": service.feed.epoch or None,
        "config": predecessors_config(service),
        "markets": markets,
        "daemon": None if daemons is None else [_daemon(one) for one in daemons if one["required"]],
        "warehouse": {
            "bytes": await _size(service.settings),
            "candles": sum(report.candle_count for report in reports),
            "series": len(reports),
        },
        "alerts": len(await problems_now(service)),
        "health_score": health_score(markets, standings, is_running=bool(daemons)),
    }


def health_score(markets: Sequence[Row], standings: Sequence[Standing], *, is_running: bool) -> int:
    """The NSE predecessor's score: running 30, market hours 20, error rate 25, freshness 15, performance 10."""
    attempted = [one for standing in standings for one in standing.reports if one.attempted_at is not None]
    failed = sum(one.outcome == Outcome.failed for one in attempted)
    error_share = failed / len(attempted) if attempted else 0.0
    pairs = [pair for one in standings for pair in zip(one.reports, one.freshness, strict=True)]
    stored = [word for report, word in pairs if report.last_open_time is not None]
    current = sum(word in (FRESH, CLOSED, LATE) for word in stored)
    fresh_share = current / len(stored) if stored else 0.0
    known = all(market["is_open"] is not None for market in markets)
    seconds = [market["tick_to_fresh_seconds"] for market in markets if market["tick_to_fresh_seconds"] is not None]
    is_fast = not seconds or max(seconds) < 60
    score = RUNNING * is_running + HOURS * known + ERRORS * (1 - error_share)
    return round(score + FRESHNESS * fresh_share + PERFORMANCE * is_fast)


def predecessors_config(service: Service) -> Row:
    """The keys that the broker service's /config and /status had, answered for all loaded markets.

    `max_workers` counts the refreshes that may go side by side: one a market. `use_fresh` says whether a market asks a
    venue and not a folder of files; `use_full`, whether an export has all history.
    """
    markets = service.markets
    instruments = list(dict.fromkeys(name for market in markets for name in market.instruments))
    timeframes = sorted({one for market in markets for one in market.timeframes})
    return {
        "instruments": instruments,
        "timeframes": [one.value for one in timeframes],
        "max_workers": len(markets),
        "enable_upload": uploads_files(service.settings, markets),
        "data_path": str(service.settings.exports_dir),
        "use_fresh": any(one.source.kind != "files" for one in markets),
        "use_full": any(str(export.window) == "full" for one in markets for export in one.exports.values()),
        "refresh_interval": min(timeframes).minutes * 60 if timeframes else None,
    }


def config_rows(settings: Settings) -> Row:
    """Every setting by its name: its value, or whether it is set."""
    rows: Row = {}
    for name, field in Settings.model_fields.items():
        value = getattr(settings, name)
        shown = {"value": value} if name in SHOWN else {"set": value not in (None, "")}
        rows[str(field.validation_alias)] = shown
    return rows


async def problems_now(service: Service) -> list[Problem]:
    """What is wrong now, without what only an opening of its own could say."""
    settings, now = service.settings, service.now()
    listed = [
        *await _failed_runs(service),
        *problems.full_disks(settings),
        *problems.missing_warehouse(settings),
        *problems.faulty_backups(settings, now),
        *problems.ending_calendars(service.markets, now),
        *problems.broken_markets(settings, service.markets),
        *await _of_collections(service, now),
    ]
    for market in service.markets:
        reports, _ = await service.reports.of(service.reader, market)
        listed += problems.series_problems(market, reports, now)
    return listed


async def _of_collections(service: Service, now: datetime) -> list[Problem]:
    collections, _ = await asyncio.to_thread(load_usable, service.settings)
    found = list(problems.broken_collections(service.settings)) if service.settings.collection_names else []
    for collection in collections:
        changed = overrides(service.settings, collection.name)
        found += await service.reader.ask(
            lambda c, one=collection, o=changed: problems.collection_problems(c, one, now, o)
        )
    return found


async def _failed_runs(service: Service) -> list[Problem]:
    jobs = {
        name(market): market.name
        for market in service.markets
        for name in (refresh_job_name, publish_job_name, backfill_job_name)
    }
    found = []
    scopes = {**jobs, BACKUP: MACHINE, MAINTENANCE: MACHINE}
    await _or_none(service.dagster.newest_finished(list(scopes)))
    for job, scope in scopes.items():
        run = await newest_run(service, job)
        if run is not None and run.status == "FAILURE":
            text = f"{iso_of(run.ended_at)}, run {run.id}; its page says why"
            found.append(Problem(scope=scope, kind="failed run", item=job, text=text))
    return found


async def newest_run(service: Service, job: str) -> Run | None:
    """The newest run of a job that succeeded or failed; None where there is none, or Dagster does not answer."""
    runs = await _or_none(service.dagster.newest_finished([job]))
    return runs[job] if runs else None


async def _market_status(
    service: Service, market: Market, standing: Standing, instigators: Sequence[Instigator] | None
) -> Row:
    now, states = instant(service.now()), Counter(standing.freshness)
    newest = [report.last_open_time for report in standing.reports if report.last_open_time is not None]
    schedule = next((one for one in instigators or () if one.name == refresh_job_name(market)), None)
    run = await newest_run(service, refresh_job_name(market))
    is_open = None
    if market.calendar.knows(now):
        is_open = bool(market.calendar.is_open(np.array([now], dtype=TIME_UNIT))[0])
    return {
        "name": market.name,
        "is_open": is_open,
        **sessions(market, now),
        "series": len(standing.reports),
        "fresh": states[FRESH] + states[CLOSED],
        "late": states[LATE],
        "stale": states[STALE],
        "failed": states[FAILED],
        "newest_candle": iso_utc(max(newest)) if newest else None,
        "schedule_running": None if schedule is None else schedule.is_running,
        "next_tick": iso_of(schedule.next_tick) if schedule and schedule.is_running else None,
        "last_refresh": None if run is None else _refreshed(run),
        "tick_to_fresh_seconds": None if run is None else tick_to_fresh(run),
    }


def tick_to_fresh(run: Run) -> float | None:
    """Seconds from the tick that a run is of to its end; None for a run that no tick asked for."""
    tick = run.tags.get("refresh/tick")
    if tick is None or run.ended_at is None:
        return None
    return round(run.ended_at - datetime.fromisoformat(tick).timestamp(), 3)


def _refreshed(run: Run) -> Row:
    seconds = None if run.started_at is None or run.ended_at is None else round(run.ended_at - run.started_at, 3)
    return {"run_id": run.id, "status": run.status.lower(), "ended_at": iso_of(run.ended_at), "seconds": seconds}


def _daemon(one: Row) -> Row:
    return {"type": one["daemonType"], "healthy": one["healthy"], "last_heartbeat": iso_of(one["lastHeartbeatTime"])}


async def _size(settings: Settings) -> int:
    return await asyncio.to_thread(lambda: place_of(settings.warehouse).bytes)


def _files_below(folder: Any) -> list[int]:
    return [path.stat().st_size for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else []


async def _or_none(question: Any) -> Any:
    try:
        return await question
    except ProblemError:
        return None
