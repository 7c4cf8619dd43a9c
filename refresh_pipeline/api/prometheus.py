"""GET /metrics at the root: Prometheus' text. No label names an instrument: there may be thousands."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from refresh_pipeline.api.counters import BUCKETS, Requests
from refresh_pipeline.api.dagster_client import Run
from refresh_pipeline.api.files import failed_uploads
from refresh_pipeline.api.problems import ProblemError
from refresh_pipeline.api.readiness import readiness, workers_by_queue
from refresh_pipeline.api.series_status import status_of
from refresh_pipeline.api.service import Service, service_of
from refresh_pipeline.api.status import newest_run, problems_now, tick_to_fresh
from refresh_pipeline.instance.queues import FILES_QUEUE, REFRESH_QUEUE
from refresh_pipeline.instance.worker_heartbeat import BrokerAway
from refresh_pipeline.pipeline.job_names import (
    BACKUP,
    MAINTENANCE,
    backfill_job_name,
    publish_job_name,
    refresh_job_name,
)
from refresh_pipeline.warehouse.connection import WarehouseUnreadable, place_of

router = APIRouter(tags=["status"])

TEXT = "text/plain; version=0.0.4; charset=utf-8"
STATES = ("fresh", "late", "stale", "failed", "no_data", "closed", "never")
Labels = Mapping[str, object]


class Page:
    """Lines of metrics, each family with its help before its samples."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def family(self, name: str, kind: str, text: str, samples: Iterable[tuple[Labels, float]]) -> None:
        """Add the samples of one metric."""
        listed = [f"{name}{_labels(labels)} {_number(value)}" for labels, value in samples]
        self._lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}", *listed]

    def histogram(self, name: str, text: str, requests: Requests) -> None:
        """Add the histogram of the requests' seconds."""
        self._lines += [f"# HELP {name} {text}", f"# TYPE {name} histogram"]
        total = 0
        for bound, count in zip([*BUCKETS, float("inf")], requests.buckets, strict=True):
            total += count
            self._lines.append(f'{name}_bucket{{le="{"+Inf" if bound == float("inf") else f"{bound:g}"}"}} {total}')
        self._lines += [f"{name}_sum {_number(requests.seconds)}", f"{name}_count {total}"]

    @property
    def text(self) -> str:
        """The whole page."""
        return "\n".join([*self._lines, ""])


@router.get("/metrics", response_class=Response)
async def prometheus(request: Request) -> Response:
    """Figures for Prometheus."""
    service, page = service_of(request), Page()
    await _add_readiness(service, page)
    # What a server that is away would tell is left out: the page says which part is not ready.
    for add in (_add_series, _add_runs, _add_warehouse):
        with suppress(ProblemError, WarehouseUnreadable):
            await add(service, page)
    _add_requests(service, page)
    return Response(page.text, 200, None, TEXT)


async def _add_readiness(service: Service, page: Page) -> None:
    parts = await readiness(service)
    samples = [({"part": name}, int(part["ok"])) for name, part in parts.items()]
    page.family("refresh_ready", "gauge", "Whether each part can do its work.", samples)
    if "workers" in parts:
        with suppress(BrokerAway):
            workers = await workers_by_queue(service)
            counts = {queue: workers[queue] for queue in (REFRESH_QUEUE, FILES_QUEUE)}
            page.family("refresh_workers", "gauge", "Workers that take runs from a queue.", _by("queue", counts))


async def _add_series(service: Service, page: Page) -> None:
    rows = [row for market in service.markets for row in await status_of(service, market)]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["market"], row["timeframe"]].append(row)
    states = {key: Counter(row["freshness"] for row in listed) for key, listed in groups.items()}
    page.family(
        "refresh_series",
        "gauge",
        "Series by their freshness.",
        [
            ({"market": market, "timeframe": timeframe, "state": state}, count[state])
            for (market, timeframe), count in states.items()
            for state in STATES
        ],
    )
    for name, text, key in (
        ("refresh_bars_behind_max", "Closed candles that the worst series lacks.", "bars_behind"),
        ("refresh_data_age_seconds_max", "Seconds since the close of the oldest newest candle.", "age_seconds"),
    ):
        worst = {one: [row[key] for row in listed if row[key] is not None] for one, listed in groups.items()}
        samples = [({"market": m, "timeframe": t}, max(values)) for (m, t), values in worst.items() if values]
        page.family(name, "gauge", text, samples)
    candles: Counter[str] = Counter()
    missing: Counter[str] = Counter()
    for row in rows:
        candles[row["market"]] += row["candle_count"]
        if row["completeness"]:
            missing[row["market"]] += round(row["candle_count"] * (1 / row["completeness"] - 1))
    page.family("refresh_candles", "gauge", "Stored candles.", _by("market", candles))
    page.family("refresh_gap_candles", "gauge", "Missing candles.", [({"market": m}, missing[m]) for m in candles])


async def _add_runs(service: Service, page: Page) -> None:
    jobs = [name(market) for market in service.markets for name in _JOB_NAMES] + [BACKUP, MAINTENANCE]
    with suppress(ProblemError):
        # All side by side; where Dagster is away there is no run.
        await service.dagster.newest_finished(jobs)
    runs = {job: run for job in jobs if (run := await newest_run(service, job)) is not None}
    seconds = [({"job": job}, length) for job, run in runs.items() if (length := _seconds(run)) is not None]
    page.family("refresh_run_last_seconds", "gauge", "Seconds of each job's newest run.", seconds)
    ends = [({"job": job, "status": run.status.lower()}, run.ended_at or 0.0) for job, run in runs.items()]
    page.family("refresh_run_last_end_timestamp_seconds", "gauge", "End of each job's newest run.", ends)
    refreshes = {market.name: runs.get(refresh_job_name(market)) for market in service.markets}
    lengths = {name: tick_to_fresh(run) for name, run in refreshes.items() if run is not None}
    page.family(
        "refresh_tick_to_fresh_seconds",
        "gauge",
        "Seconds from the last tick to fresh candles.",
        [({"market": name}, length) for name, length in lengths.items() if length is not None],
    )


async def _add_warehouse(service: Service, page: Page) -> None:
    kinds = Counter(problem.kind for problem in await problems_now(service))
    page.family("refresh_alerts", "gauge", "What is wrong now.", _by("kind", kinds))
    failed: Counter[str] = Counter()
    for market in service.markets:
        rows = await service.reader.ask(lambda c, m=market: failed_uploads(c, m))
        failed.update(row["asset"] for row in rows)
    page.family("refresh_upload_files_failed", "gauge", "Series whose upload failed.", _by("destination", failed))
    size = await asyncio.to_thread(lambda: place_of(service.settings.warehouse).bytes)
    page.family("refresh_warehouse_bytes", "gauge", "Size of the warehouse.", [({}, size)])


def _add_requests(service: Service, page: Page) -> None:
    requests = [
        ({"route": route, "method": method, "status": status}, count)
        for (route, method, status), count in service.requests.by_route.items()
    ]
    page.family("refresh_api_requests_total", "counter", "Answered requests.", requests)
    page.histogram("refresh_api_request_seconds", "Seconds of a request.", service.requests)
    waits, holds = service.reader.waits.seconds, service.reader.holds.seconds
    page.family("refresh_api_reader_wait_seconds", "counter", "Seconds that questions waited.", [({}, waits)])
    page.family("refresh_api_reader_hold_seconds", "counter", "Seconds that the file was open.", [({}, holds)])
    listeners = [({"kind": kind}, count) for kind, count in service.listeners.items()]
    page.family("refresh_api_listeners", "gauge", "Open streams.", listeners)


_JOB_NAMES = (refresh_job_name, publish_job_name, backfill_job_name)


def _seconds(run: Run) -> float | None:
    return None if run.started_at is None or run.ended_at is None else run.ended_at - run.started_at


def _by(label: str, counted: Mapping[str, int]) -> list[tuple[Labels, float]]:
    return [({label: name}, count) for name, count in counted.items()]


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(str(value))}"' for name, value in labels.items()) + "}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return repr(value) if isinstance(value, int) else f"{value:.10g}"
