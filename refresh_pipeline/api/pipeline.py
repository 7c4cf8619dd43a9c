"""The NSE predecessor's control and data API below /pipeline: its paths and keys, answered by this pipeline."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from refresh_pipeline.api import encoding
from refresh_pipeline.api.addressing import find_series
from refresh_pipeline.api.answers import json_response
from refresh_pipeline.api.control import launch_of, started, switch_markets
from refresh_pipeline.api.dagster_client import GOING
from refresh_pipeline.api.data import LimitParameter
from refresh_pipeline.api.encoding import Format, TimeStyle
from refresh_pipeline.api.frames import Names, Window, columns_of
from refresh_pipeline.api.operation import VERSION
from refresh_pipeline.api.parameters import MarketParameter, parsed_time
from refresh_pipeline.api.problems import Problem, ProblemError
from refresh_pipeline.api.rows import Question, read
from refresh_pipeline.api.runs import jobs_of
from refresh_pipeline.api.service import Service, service_of
from refresh_pipeline.api.status import config_rows, predecessors_config, status_body
from refresh_pipeline.market.candles import iso_utc
from refresh_pipeline.market.export_spec import Layer
from refresh_pipeline.pipeline.job_names import refresh_job_name

router = APIRouter(prefix="/pipeline", tags=["pipeline"])

# Below it the predecessor called a pipeline unwell.
HEALTHY_FROM = 70
MOST_ERRORS = 0.2
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _State:
    """What the predecessor's answers are made of."""

    body: Mapping[str, Any]
    is_running: bool

    @property
    def markets(self) -> Sequence[Row]:
        return self.body["markets"]

    @property
    def is_open(self) -> bool:
        return any(market["is_open"] for market in self.markets)

    @property
    def error_rate(self) -> float:
        series = sum(market["series"] for market in self.markets)
        return round(sum(market["failed"] for market in self.markets) / series, 6) if series else 0.0

    @property
    def health(self) -> str:
        """The predecessor's word."""
        if self.body["daemon"] is None:
            return "no_pipeline"
        if not self.is_running:
            return "pipeline_stopped"
        if self.error_rate > MOST_ERRORS:
            return "high_error_rate"
        stale = [market for market in self.markets if market["series"] and market["stale"] == market["series"]]
        return "stale_data" if stale or self.body["health_score"] < HEALTHY_FROM else "healthy"


@router.get("/")
async def about(request: Request) -> Response:
    """The service's name, version and uptime."""
    service = service_of(request)
    uptime = (service.now() - service.started_at).total_seconds()
    return json_response(
        {"service": "Refresh Pipeline", "version": VERSION, "status": "running", "uptime": round(uptime, 3)}
    )


@router.get("/status")
async def status(request: Request) -> Response:
    """Scheduler, pipeline and market at a glance."""
    service = service_of(request)
    state = await _state(service)
    markets = [market for market in state.markets if market["next_close"]]
    return json_response(
        {
            "scheduler": {
                "running": state.body["running"],
                "health_status": state.health,
                "last_health_check": iso_utc(service.now()),
                "restart_attempts": service.requests.by_path("/pipeline/restart"),
                "last_restart_time": None,
                "stats": _scheduler_stats(service),
            },
            "pipeline": {
                "running": state.is_running,
                "stats": _pipeline_stats(state),
                "config": predecessors_config(service),
            },
            "market": {
                "is_open": state.is_open,
                "next_open": min((one["next_open"] for one in markets if one["next_open"]), default=None),
                "next_close": min((one["next_close"] for one in markets), default=None),
            },
        }
    )


@router.get("/health")
async def health(request: Request) -> Response:
    """200 where the pipeline is healthy, 503 elsewhere, with the predecessor's word on it."""
    service = service_of(request)
    state = await _state(service)
    body = {
        "status": state.health,
        "timestamp": iso_utc(service.now()),
        "pipeline_running": state.is_running,
        "market_open": state.is_open,
    }
    is_healthy = state.health == "healthy"
    return json_response(body, 200 if is_healthy else 503, None if is_healthy else {"Retry-After": "10"})


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """The predecessor's figures, with health score and error rate beside them."""
    service = service_of(request)
    state = await _state(service)
    uptime = (service.now() - service.started_at).total_seconds()
    return json_response(
        {
            "scheduler_stats": _scheduler_stats(service),
            "uptime_seconds": round(uptime, 3),
            "pipeline_stats": _pipeline_stats(state),
        }
    )


@router.get("/config")
async def config(request: Request) -> Response:
    """What the settings say; secrets are left out."""
    service = service_of(request)
    return json_response({"scheduler": config_rows(service.settings), "pipeline": predecessors_config(service)})


@router.post("/start")
async def start(request: Request) -> Response:
    """Start the schedules and sensors of every market."""
    changed = await switch_markets(service_of(request), service_of(request).markets, on=True)
    if not changed:
        raise ProblemError(Problem.already_running, "the pipeline is running already", status=400)
    return json_response({"message": "Pipeline started successfully", "changed": changed})


@router.post("/stop")
async def stop(request: Request) -> Response:
    """Stop the schedules and sensors of every market."""
    changed = await switch_markets(service_of(request), service_of(request).markets, on=False)
    if not changed:
        raise ProblemError(Problem.already_stopped, "the pipeline is stopped already", status=400)
    return json_response({"message": "Pipeline stopped successfully", "changed": changed})


@router.post("/restart")
async def restart(request: Request) -> Response:
    """Cancel what is under way, start the schedules, and refresh once."""
    service = service_of(request)
    jobs = [job for market in service.markets for job in jobs_of(market)]
    going = await service.dagster.runs(jobs=jobs, statuses=GOING)
    for run in going:
        await service.dagster.cancel(run.id)
    await switch_markets(service, service.markets, on=True)
    launches = [launch_of(market, refresh_job_name(market), market.series) for market in service.markets]
    runs = await started(service, "restart", launches, None, 0)
    return json_response(
        {
            "message": "Pipeline restarted successfully",
            "canceled": [run.id for run in going],
            "runs": [run.id for run in runs],
        }
    )


@router.get("/data/{instrument:path}")
async def data(
    request: Request,
    *,
    instrument: str,
    timeframe: Annotated[str, Query(max_length=40, description="The timeframe, by any name.")] = "1T",
    start_date: Annotated[str | None, Query(description="From this instant on.")] = None,
    end_date: Annotated[str | None, Query(description="Before this instant.")] = None,
    limit: LimitParameter = 10_000,
    market: MarketParameter = None,
) -> Response:
    """The candles of a series, oldest first."""
    service = service_of(request)
    address = find_series(service.markets, instrument, timeframe, market)
    window = Window(limit, parsed_time("start_date", start_date), parsed_time("end_date", end_date))
    names = ("open_time", "open", "high", "low", "close", "volume")
    columns = [one for one in columns_of(address.market, Layer.candles, Names.own) if one.name in names]
    question = Question(address, Layer.candles, columns, window, None, Format.json, TimeStyle.iso, Names.own)
    frame = await read(service, question)
    lists = {
        name: list(encoding.json_values(encoding.shown_times(array, TimeStyle.iso), frame.types[name]))
        for name, array in frame.arrays.items()
    }
    rows = [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]
    return json_response({"data": rows, "count": len(rows), "columns": list(lists)})


async def _state(service: Service) -> _State:
    body = await status_body(service)
    is_running = bool(body["markets"]) and all(market["schedule_running"] for market in body["markets"])
    return _State(body, is_running)


def _scheduler_stats(service: Service) -> Row:
    return {
        "start_time": iso_utc(service.started_at),
        "pipeline_starts": service.requests.answered("/pipeline/start"),
        "pipeline_stops": service.requests.answered("/pipeline/stop"),
        "pipeline_restarts": service.requests.answered("/pipeline/restart"),
        "health_checks": service.requests.by_path("/pipeline/health"),
        "api_requests": service.requests.total,
    }


def _pipeline_stats(state: _State) -> Row:
    newest = [market["newest_candle"] for market in state.markets if market["newest_candle"]]
    return {
        "health_score": state.body["health_score"],
        "symbols_processed": sum(market["series"] for market in state.markets),
        "error_rate": state.error_rate,
        "last_data_update": max(newest, default=None),
        "candles": state.body["warehouse"]["candles"],
    }
