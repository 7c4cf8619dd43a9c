"""Runs of Dagster's: listed, one with the outcomes of its series, canceled."""

from collections.abc import Sequence
from typing import Annotated, Any

import duckdb
from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from refresh_pipeline.api.addressing import find_market
from refresh_pipeline.api.answers import json_response
from refresh_pipeline.api.control import ASKED_BY, iso_of
from refresh_pipeline.api.dagster_client import ENDED, GOING, Run
from refresh_pipeline.api.parameters import MarketParameter
from refresh_pipeline.api.problems import Problem, ProblemError, invalid_parameter
from refresh_pipeline.api.service import Service, service_of
from refresh_pipeline.market.model import Market
from refresh_pipeline.pipeline.job_names import backfill_job_name, publish_job_name, refresh_job_name
from refresh_pipeline.warehouse.outcomes import Outcome
from refresh_pipeline.warehouse.queries import has_tables, outcome_counts, outcomes_of

router = APIRouter(prefix="/api/v1", tags=["runs"])

RunId = Annotated[str, Path(max_length=100, description="The id of the run.")]


@router.get("/runs")
async def runs(
    request: Request,
    market: MarketParameter = None,
    status: Annotated[str | None, Query(description="success, failure, canceled, queued, started.")] = None,
    limit: Annotated[int, Query(ge=1, le=500, description="The number of runs at most.")] = 50,
    after: Annotated[
        str | None, Query(max_length=100, description="The id of the last run of the page before.")
    ] = None,
) -> Response:
    """Runs, newest first."""
    service = service_of(request)
    jobs = jobs_of(find_market(service.markets, market)) if market else []
    found = await service.dagster.runs(jobs=jobs, statuses=_statuses(status), after=after, limit=limit)
    counts = await _counts(service, found)
    rows = [run_row(service, run) | {"counts": counts.get(run.id)} for run in found]
    following = f"/api/v1/runs?limit={limit}&after={found[-1].id}" if len(found) == limit else None
    return json_response({"records": len(rows), "runs": rows, "next": following})


@router.get("/runs/{run_id}")
async def run_details(request: Request, run_id: RunId) -> Response:
    """One run, with the outcomes of its series that no later run has replaced."""
    service = service_of(request)
    run = await _known(service, run_id)
    outcomes: list[dict[str, Any]] = []
    for market in service.markets:
        outcomes += await service.reader.ask(lambda c, m=market: _outcomes(c, m, run_id))
    return json_response({**run_row(service, run), "tags": dict(run.tags), "outcomes": outcomes})


@router.post("/runs/{run_id}/cancel", status_code=202)
async def cancel(request: Request, run_id: RunId) -> Response:
    """End a run in order; one that has ended stays as it is."""
    service = service_of(request)
    run = await _known(service, run_id)
    if not run.has_ended:
        await service.dagster.cancel(run_id)
        run = await _known(service, run_id)
    return json_response(run_row(service, run), 202, {"Location": f"/api/v1/runs/{run_id}"})


async def _counts(service: Service, found: Sequence[Run]) -> dict[str, dict[str, int]]:
    """Series by outcome of each run, as far as the warehouse still has them and can be read now."""
    counted: dict[str, dict[str, int]] = {}
    for market in service.markets:
        ids = [run.id for run in found if run.job in jobs_of(market)]
        if ids:
            try:
                counted |= await service.reader.ask(lambda c, m=market.name, i=ids: _counted(c, m, i))
            except ProblemError:
                # The list of runs is Dagster's and needs no warehouse.
                return counted
    return counted


def _counted(connection: duckdb.DuckDBPyConnection, market: str, ids: Sequence[str]) -> dict[str, dict[str, int]]:
    if not has_tables(connection, market):
        return {}
    none = {outcome.value.replace(" ", "_"): 0 for outcome in Outcome}
    found = outcome_counts(connection, market, ids)
    return {
        run: none | {name.replace(" ", "_"): count for name, count in counts.items()} for run, counts in found.items()
    }


def run_row(service: Service, run: Run) -> dict[str, Any]:
    """A run as JSON has it."""
    seconds = None if run.started_at is None or run.ended_at is None else round(run.ended_at - run.started_at, 3)
    return {
        "run_id": run.id,
        "job": run.job,
        "market": next((m.name for m in service.markets if run.job in jobs_of(m)), None),
        "status": run.status.lower(),
        "queued_at": iso_of(run.queued_at),
        "started_at": iso_of(run.started_at),
        "ended_at": iso_of(run.ended_at),
        "seconds": seconds,
        "asked_by": run.tags.get(ASKED_BY)
        or run.tags.get("dagster/schedule_name")
        or run.tags.get("dagster/sensor_name"),
        "url": service.dagster.run_url(run.id),
    }


def jobs_of(market: Market) -> list[str]:
    """The names of a market's jobs."""
    return [refresh_job_name(market), publish_job_name(market), backfill_job_name(market)]


async def _known(service: Service, run_id: str) -> Run:
    run = await service.dagster.run(run_id)
    if run is None:
        raise ProblemError(Problem.unknown_run, f"run_id: found {run_id!r}; /api/v1/runs lists runs")
    return run


def _statuses(status: str | None) -> list[str]:
    allowed = [*ENDED, *GOING]
    if status is None:
        return []
    if status.upper() not in allowed:
        raise invalid_parameter("status", f"allowed: {', '.join(name.lower() for name in allowed)}", status)
    return [status.upper()]


def _outcomes(connection: duckdb.DuckDBPyConnection, market: Market, run_id: str) -> list[dict[str, Any]]:
    if not has_tables(connection, market.name):
        return []
    return [
        {
            "market": market.name,
            "asset": one.asset,
            "instrument": one.series.instrument,
            "timeframe": one.series.timeframe.value,
            "outcome": one.outcome,
            "reason": one.reason,
            "rows_added": one.rows_added,
            "rows_revised": one.rows_revised,
        }
        for one in outcomes_of(connection, market.name, [run_id])
    ]
