"""Whether each part can do its work now: the warehouse, the daemon, workers, schedules, the candles, the disk.

What stops a refresh is seen within a minute: a store that does not answer, a daemon or workers that are gone. Candles
count as stale only after two ticks, as everywhere.
"""

import asyncio
import logging
import shutil
from collections import Counter
from collections.abc import Sequence
from typing import Any

import duckdb

from refresh_pipeline.api.problems import ProblemError
from refresh_pipeline.api.series_status import FAILED, STALE, standing_of
from refresh_pipeline.api.service import Service
from refresh_pipeline.instance import worker_heartbeat
from refresh_pipeline.instance.queues import REFRESH_QUEUE
from refresh_pipeline.market.model import Market
from refresh_pipeline.monitoring import problems
from refresh_pipeline.pipeline.job_names import refresh_job_name
from refresh_pipeline.settings import Settings
from refresh_pipeline.warehouse.connection import Place, WarehouseUnreadable, place_of
from refresh_pipeline.warehouse.lake import LakePlace
from refresh_pipeline.warehouse.queries import has_tables
from refresh_pipeline.warehouse.schema import Table, qualified

# Daemons write a heartbeat every 30 s. Dagster calls one healthy for half an hour after its last.
LONGEST_SILENCE = 60.0
# The launcher that gives runs to workers.
ON_WORKERS = "ClusterRunLauncher"
Row = dict[str, Any]

log = logging.getLogger("refresh_pipeline.api")


async def readiness(service: Service) -> dict[str, Row]:
    """Whether each part can do its work, and a sentence on it; workers where runs start on some."""
    # Side by side: a server that is away takes its time to say nothing.
    warehouse, of_dagster, fresh = await asyncio.gather(
        _warehouse_check(service), _dagster_checks(service), _freshness_check(service)
    )
    return {
        "warehouse": warehouse,
        **of_dagster,
        "freshness": fresh,
        "disk": _disk_check(service.settings),
    }


async def workers_by_queue(service: Service) -> Counter[str]:
    """How many workers take runs from each queue; none without REFRESH_REDIS_URL.

    Raises:
        BrokerAway: their Redis does not answer.
    """
    url = service.settings.redis_url
    return await asyncio.to_thread(worker_heartbeat.living, url.get_secret_value()) if url else Counter()


async def _warehouse_check(service: Service) -> Row:
    place = place_of(service.settings.warehouse)
    try:
        if not await asyncio.to_thread(lambda: place.exists):
            return _row(False, "there is no warehouse yet; refresh once")
        await service.reader.ask(lambda connection: _read(connection, place, service.markets))
    except WarehouseUnreadable as error:
        log.warning("the API could not read the warehouse: %s", error)
        return _row(False, "the warehouse cannot be read; the log says why")
    except ProblemError as error:
        return _row(False, str(error.detail))
    return _row(True, "the warehouse can be read")


def _read(connection: duckdb.DuckDBPyConnection, place: Place, markets: Sequence[Market]) -> None:
    """Read one candle, and of a lake ask the store of objects."""
    if isinstance(place, LakePlace):
        place.ask_store(connection)
    known = [market.name for market in markets if has_tables(connection, market.name)]
    for name in known[:1]:
        connection.execute(f"select close from {qualified(name, Table.raw_candles)} limit 1").fetchall()


async def _dagster_checks(service: Service) -> dict[str, Row]:
    try:
        daemons, launcher = await service.dagster.machinery()
    except ProblemError:
        away = _row(False, f"Dagster does not answer at {service.dagster.url}")
        return {"daemon": away, "schedules": away}
    checks = {"daemon": _daemon_check(daemons, service.now().timestamp())}
    if launcher == ON_WORKERS and service.settings.redis_url:
        checks["workers"] = await _worker_check(service)
    return {**checks, "schedules": await _schedule_check(service)}


def _daemon_check(daemons: Sequence[Row], now: float) -> Row:
    required = [one for one in daemons if one["required"]]
    # One that is at work is late on a busy machine; where all are silent, the process is gone.
    silence = now - max((one["lastHeartbeatTime"] or 0.0 for one in required), default=0.0)
    if silence > LONGEST_SILENCE:
        return _row(False, f"no daemon has written a heartbeat for {LONGEST_SILENCE:.0f} s; start refresh up")
    dead = [one["daemonType"] for one in required if not one["healthy"]]
    return _row(not dead, f"without a heartbeat: {', '.join(dead)}" if dead else "every daemon is alive")


async def _worker_check(service: Service) -> Row:
    try:
        count = (await workers_by_queue(service))[REFRESH_QUEUE]
    except worker_heartbeat.BrokerAway as error:
        return _row(False, str(error))
    none = f"no worker takes the queue {REFRESH_QUEUE}; start refresh worker"
    return _row(count > 0, f"workers for refreshes: {count}" if count else none)


async def _schedule_check(service: Service) -> Row:
    try:
        instigators = await service.dagster.instigators()
    except ProblemError:
        return _row(False, f"Dagster does not answer at {service.dagster.url}")
    running = {one.name for one in instigators if one.is_running}
    stopped = [market.name for market in service.markets if refresh_job_name(market) not in running]
    return _row(not stopped, f"stopped for {', '.join(stopped)}" if stopped else "every market is scheduled")


async def _freshness_check(service: Service) -> Row:
    stale = []
    try:
        for market in service.markets:
            states = Counter((await standing_of(service, market)).freshness)
            if states[STALE] + states[FAILED] == states.total():
                stale.append(market.name)
    except WarehouseUnreadable:
        return _row(False, "not known: the warehouse cannot be read")
    except ProblemError as error:
        return _row(False, str(error.detail))
    return _row(not stale, f"no series is current: {', '.join(stale)}" if stale else "markets are current")


def _disk_check(settings: Settings) -> Row:
    faults = list(problems.full_disks(settings))
    folder = next(path for path in (settings.data, *settings.data.parents) if path.exists())
    return _row(not faults, f"{shutil.disk_usage(folder).free / 1e9:,.1f} GB are free")


def _row(ok: bool, detail: str) -> Row:
    return {"ok": ok, "detail": detail}
