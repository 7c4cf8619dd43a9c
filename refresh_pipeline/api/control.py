"""Commands: each is a run of Dagster's, asked for over GraphQL and answered by 202 with its id."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Header, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from refresh_pipeline.api.addressing import find_market, instruments_called, parse_timeframe
from refresh_pipeline.api.answers import json_response
from refresh_pipeline.api.dagster_client import GOING, Run
from refresh_pipeline.api.encoding import digest
from refresh_pipeline.api.news import News, Topic
from refresh_pipeline.api.parameters import parsed_instant
from refresh_pipeline.api.problems import Problem, ProblemError
from refresh_pipeline.api.service import Service, service_of
from refresh_pipeline.market.candles import instant, iso_utc
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.partition_ranges import range_tags
from refresh_pipeline.market.series import Series
from refresh_pipeline.operations.backup import list_backups
from refresh_pipeline.pipeline.job_names import BACKUP, backfill_job_name, publish_job_name, refresh_job_name

router = APIRouter(prefix="/api/v1", tags=["control"])

RUN_OPTIONS = "run_options"
# Tags of runs that were asked for here.
ASKED_BY, KEY_TAG = "refresh/asked_by", "refresh/idempotency_key"
KEY_LASTS = timedelta(days=1)
LONGEST_WAIT = 600
# Seconds that publishing waits for the refresh before it.
LONGEST_REFRESH = 3600.0

Wait = Annotated[float, Query(ge=0, le=LONGEST_WAIT, description="Seconds to wait for the end of the runs.")]
IdempotencyKey = Annotated[
    str | None, Header(min_length=1, max_length=255, description="The same key gives the same runs within a day.")
]
Names = Annotated[list[Annotated[str, Field(max_length=100)]], Field(max_length=10_000)]


class Selection(BaseModel):
    """The series that a command is about; all of every market where nothing is named."""

    model_config = ConfigDict(extra="forbid")

    markets: Names | None = None
    instruments: Names | None = None
    timeframes: Names | None = None


class RefreshBody(Selection):
    """The body of POST /refresh."""

    since: str | None = Field(default=None, max_length=40)
    until: str | None = Field(default=None, max_length=40)
    publish: bool = False


class BackfillBody(Selection):
    """The body of POST /backfill."""

    since: str = Field(max_length=40)
    until: str | None = Field(default=None, max_length=40)


class GapBody(BaseModel):
    """The body of POST /gaps/fill: a series by its key, and the first and the last missing candle."""

    model_config = ConfigDict(extra="forbid")

    series: str = Field(max_length=120, description="instrument|timeframe, for instance EUR/USD|H1")
    first: str = Field(max_length=40)
    last: str = Field(max_length=40)
    market: str | None = Field(default=None, max_length=100)


class Switch(BaseModel):
    """The body of PUT /schedules/{name}."""

    model_config = ConfigDict(extra="forbid")

    running: bool


class MarketBody(BaseModel):
    """The body of POST /pause and /resume."""

    model_config = ConfigDict(extra="forbid")

    market: str | None = Field(default=None, max_length=100)


@dataclass(frozen=True, slots=True)
class Launch:
    """A run to start: its job, its tags and its config; None for a job of all markets."""

    market: str | None
    job: str
    tags: Mapping[str, str]
    options: Mapping[str, Any]


@router.post("/refresh", status_code=202)
async def refresh(
    request: Request, body: RefreshBody | None = None, wait: Wait = 0, idempotency_key: IdempotencyKey = None
) -> Response:
    """Fetch what has closed, and compute what follows."""
    wanted = body or RefreshBody()
    service = service_of(request)
    chosen = chosen_series(service, wanted)
    _require_calendar(service, [market for market, _ in chosen])
    limits = _limits(wanted.since, wanted.until)
    launches = [launch_of(market, refresh_job_name(market), series, **limits) for market, series in chosen]
    runs = await started(service, "refresh", launches, idempotency_key, wait)
    if wanted.publish:
        after = [launch_of(market, publish_job_name(market), series) for market, series in chosen]
        service.in_background(_publish_after(service, runs, after))
    names = {
        "instruments": list(dict.fromkeys(one.instrument for _, series in chosen for one in series)),
        "timeframes": [one.value for one in sorted({one.timeframe for _, series in chosen for one in series})],
    }
    return accepted(service, "refresh_started", launches, runs, **names)


@router.post("/backfill", status_code=202)
async def backfill(
    request: Request, body: BackfillBody, wait: Wait = 0, idempotency_key: IdempotencyKey = None
) -> Response:
    """Fetch what the calendar expects since an instant and the warehouse lacks."""
    service = service_of(request)
    limits = _limits(body.since, body.until)
    launches = [
        launch_of(market, backfill_job_name(market), series, missing_only=True, **limits)
        for market, series in chosen_series(service, body)
    ]
    runs = await started(service, "backfill", launches, idempotency_key, wait)
    return accepted(service, "backfill_started", launches, runs)


@router.post("/publish", status_code=202)
async def publish(
    request: Request, body: Selection | None = None, wait: Wait = 0, idempotency_key: IdempotencyKey = None
) -> Response:
    """Write and upload the files of the series that changed."""
    service = service_of(request)
    launches = [
        launch_of(market, publish_job_name(market), series)
        for market, series in chosen_series(service, body or Selection())
    ]
    runs = await started(service, "publish", launches, idempotency_key, wait)
    return accepted(service, "publish_started", launches, runs)


@router.post("/gaps/fill", status_code=202)
async def fill_gap(request: Request, body: GapBody, wait: Wait = 0, idempotency_key: IdempotencyKey = None) -> Response:
    """Fetch the candles of one gap."""
    service = service_of(request)
    name, _, timeframe = body.series.rpartition("|")
    chosen = Selection(markets=[body.market] if body.market else None, instruments=[name], timeframes=[timeframe])
    [(market, [series])] = _only_one(chosen_series(service, chosen))
    first, last = parsed_instant("first", body.first), parsed_instant("last", body.last)
    assert first is not None
    assert last is not None
    if last < first:
        raise ProblemError(Problem.invalid_body, f"last: found {body.last}; allowed: {body.first} or later", errors=[])
    closes = market.calendar_of(series.instrument).closes(series.timeframe, np.array([instant(last)]))[0]
    line = f"{series.key} {iso_utc(first)} {iso_utc(closes)}"
    launches = [launch_of(market, refresh_job_name(market), [series], ranges=[line])]
    runs = await started(service, "gaps/fill", launches, idempotency_key, wait)
    return accepted(service, "fill_started", launches, runs)


@router.post("/backup", status_code=202)
async def backup(request: Request, wait: Wait = 0, idempotency_key: IdempotencyKey = None) -> Response:
    """Copy the warehouse and Dagster's files."""
    service = service_of(request)
    if not idempotency_key and (going := await service.dagster.runs(jobs=[BACKUP], statuses=GOING, limit=1)):
        raise ProblemError(Problem.already_running, f"backup: run {going[0].id} is under way", run_id=going[0].id)
    launches = [Launch(None, BACKUP, {}, {})]
    runs = await started(service, "backup", launches, idempotency_key, wait)
    return accepted(service, "backup_started", launches, runs)


@router.get("/backups")
async def backups(request: Request) -> Response:
    """The backups, newest first."""
    service = service_of(request)
    listed = await asyncio.to_thread(list_backups, service.settings.backups, service.now())
    return json_response(
        {
            "backups": [
                {
                    "name": one.folder.name,
                    "made_at": iso_utc(one.instant),
                    "bytes": one.bytes,
                    "rows": sum(one.rows.values()),
                    "faults": list(one.faults),
                }
                for one in sorted(listed, key=lambda one: one.instant, reverse=True)
            ]
        }
    )


@router.post("/restore")
async def restore() -> Response:
    """A restore needs everything stopped, so it is a command of the machine itself."""
    detail = "a restore replaces the warehouse while nothing else uses it; stop refresh up, then run the command"
    raise ProblemError(Problem.not_over_http, detail, command="refresh restore")


@router.get("/schedules")
async def schedules(request: Request) -> Response:
    """Every schedule and sensor."""
    service = service_of(request)
    return json_response({"schedules": [schedule_row(service, one) for one in await service.dagster.instigators()]})


@router.put("/schedules/{name}")
async def switch_schedule(request: Request, name: str, body: Switch) -> Response:
    """Start or stop one schedule or sensor."""
    service = service_of(request)
    found = {one.name: one for one in await service.dagster.instigators()}
    if name not in found:
        raise ProblemError(
            Problem.unknown_schedule, f"name: found {name!r}; allowed: {', '.join(found)}", allowed=list(found)
        )
    await service.dagster.switch(found[name], body.running)
    [now] = [one for one in await service.dagster.instigators() if one.name == name]
    row = schedule_row(service, now)
    service.hub.publish(schedule_news(row))
    return json_response(row)


@router.post("/pause")
async def pause(request: Request, body: MarketBody | None = None) -> Response:
    """Stop the schedules and sensors of a market, or of all."""
    return await _switched(service_of(request), body or MarketBody(), on=False)


@router.post("/resume")
async def resume(request: Request, body: MarketBody | None = None) -> Response:
    """Start the schedules and sensors of a market, or of all."""
    return await _switched(service_of(request), body or MarketBody(), on=True)


async def switch_markets(service: Service, markets: Sequence[Market], *, on: bool) -> list[str]:
    """Start or stop the schedules and sensors of markets; gives the names of those that were the other way."""
    prefixes = tuple(f"{market.name}_" for market in markets)
    changed = []
    for one in await service.dagster.instigators():
        if one.name.startswith(prefixes) and one.is_running is not on:
            await service.dagster.switch(one, on)
            changed.append(one.name)
    return changed


async def _switched(service: Service, body: MarketBody, *, on: bool) -> Response:
    markets = [find_market(service.markets, body.market)] if body.market else list(service.markets)
    changed = await switch_markets(service, markets, on=on)
    rows = [schedule_row(service, one) for one in await service.dagster.instigators()]
    for row in rows:
        if row["name"] in changed:
            service.hub.publish(schedule_news(row))
    names = {market.name for market in markets}
    status = {"status": "resumed" if on else "paused", "changed": changed, "timestamp": iso_utc(service.now())}
    return json_response({**status, "schedules": [row for row in rows if row["market"] in names]})


def schedule_row(service: Service, one: Any) -> dict[str, Any]:
    """A schedule or sensor as JSON has it."""
    market = next((m.name for m in service.markets if one.name.startswith(f"{m.name}_")), None)
    return {
        "name": one.name,
        "kind": one.kind.value,
        "market": market,
        "running": one.is_running,
        "cron": one.cron,
        "zone": one.zone,
        "next_tick": iso_of(one.next_tick) if one.is_running else None,
        "last_tick": iso_of(one.last_tick),
    }


def schedule_news(row: Mapping[str, Any]) -> News:
    """The message that a schedule was switched, whoever did it."""
    return News(Topic.schedules, ("schedule", row["name"]), {"type": "schedule_update", "schedule": row})


def iso_of(seconds: float | None) -> str | None:
    """Seconds since 1970 as ISO 8601."""
    return None if seconds is None else iso_utc(datetime.fromtimestamp(seconds, UTC))


# ---- what a command asks for, and the runs that come of it


def chosen_series(service: Service, wanted: Selection) -> list[tuple[Market, list[Series]]]:
    """The series of each market that a selection leaves.

    Raises:
        ProblemError: a market, an instrument or a timeframe is unknown, or no market has such a series.
    """
    markets = [find_market(service.markets, name) for name in wanted.markets or ()] or list(service.markets)
    timeframes = {parse_timeframe(name) for name in wanted.timeframes or ()}
    names = {
        (market.name, name) for text in wanted.instruments or () for market, name in instruments_called(markets, text)
    }
    chosen = []
    for market in markets:
        series = [
            one
            for one in market.series
            if (not timeframes or one.timeframe in timeframes)
            and (wanted.instruments is None or (market.name, one.instrument) in names)
        ]
        chosen += [(market, series)] if series else []
    if not chosen:
        allowed = sorted({one for market in markets for one in market.timeframes})
        detail = f"no market has such a series; these markets have {', '.join(one.value for one in allowed)}"
        raise ProblemError(Problem.unknown_timeframe, detail, allowed=[one.value for one in allowed])
    return chosen


def _require_calendar(service: Service, markets: Sequence[Market]) -> None:
    """Refuse a refresh where nobody knows which candles have closed.

    Raises:
        ProblemError: calendar-ended, where that is so of every market.
    """
    now = instant(service.now())
    if markets and not any(market.calendar.knows(now) for market in markets):
        names = ", ".join(market.name for market in markets)
        detail = f"{names}: the calendar is not known up to now, so no candle can be called closed; update the project"
        raise ProblemError(Problem.calendar_ended, detail, headers={"Retry-After": "86400"})


def launch_of(market: Market, job: str, series: Sequence[Series], **options: Any) -> Launch:
    """A run of a market's job for these series."""
    tags = range_tags(market, [one.instrument for one in series], [one.timeframe for one in series])
    narrowing = {} if len(series) == len(market.series) else {"series": [one.key for one in series]}
    return Launch(market.name, job, tags, {**options, **narrowing})


async def started(
    service: Service, command: str, launches: Sequence[Launch], key: str | None, wait: float
) -> list[Run]:
    """The runs of a command: those that its key gave within a day, else new ones."""
    tag = {} if key is None else {KEY_TAG: digest(command, key)}
    async with service.launching:
        runs = await _given_before(service, tag) if tag else []
        if not runs:
            runs = [await _launched(service, launch, tag) for launch in launches]
    if wait:
        deadline = asyncio.get_running_loop().time() + wait
        for number, run in enumerate(runs):
            left = deadline - asyncio.get_running_loop().time()
            runs[number] = await service.dagster.finished(run.id, max(left, 0.0)) or run
    return runs


async def _given_before(service: Service, tag: Mapping[str, str]) -> list[Run]:
    since = service.now() - KEY_LASTS
    runs = await service.dagster.runs(tags=tag, created_after=since.timestamp())
    return list(reversed(runs))


async def _launched(service: Service, launch: Launch, tag: Mapping[str, str]) -> Run:
    tags = {**launch.tags, **tag, ASKED_BY: "api"}
    config = {"resources": {RUN_OPTIONS: {"config": dict(launch.options)}}} if launch.options else {}
    return await service.dagster.launch(launch.job, tags, config)


async def _publish_after(service: Service, runs: Sequence[Run], launches: Sequence[Launch]) -> None:
    for run in runs:
        await service.dagster.finished(run.id, LONGEST_REFRESH)
    for launch in launches:
        await _launched(service, launch, {})


def accepted(service: Service, status: str, launches: Sequence[Launch], runs: Sequence[Run], **fields: Any) -> Response:
    """The answer of a command: 202 with the ids of its runs."""
    markets = {launch.job: launch.market for launch in launches}
    listed = [
        {
            "market": markets.get(run.job),
            "job": run.job,
            "run_id": run.id,
            "status": run.status.lower(),
            "url": service.dagster.run_url(run.id),
        }
        for run in runs
    ]
    body = {"status": status, "runs": listed, **fields, "timestamp": iso_utc(service.now())}
    return json_response(body, 202, {"Location": f"/api/v1/runs/{runs[0].id}"} if runs else {})


def _limits(since: str | None, until: str | None) -> dict[str, str]:
    moments = {"since": parsed_instant("since", since), "until": parsed_instant("until", until)}
    if moments["since"] and moments["until"] and moments["since"] >= moments["until"]:
        raise ProblemError(Problem.invalid_body, f"until: found {until}; allowed: later than {since}", errors=[])
    return {name: moment.isoformat() for name, moment in moments.items() if moment is not None}


def _only_one(chosen: list[tuple[Market, list[Series]]]) -> list[tuple[Market, list[Series]]]:
    if len(chosen) > 1:
        names = [market.name for market, _ in chosen]
        raise ProblemError(
            Problem.ambiguous_instrument, f"found in {', '.join(names)}; add market to the body", markets=names
        )
    return chosen
