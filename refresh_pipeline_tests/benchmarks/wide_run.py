"""A wide run: one tick of many series through Dagster, and the very same work called step by step without it.

Both start from the same stored history and go on minute by minute, in turn. What a step takes beyond its work is
Dagster's own: events, metadata, the step itself. The start of a process and the queue are not in it.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import dagster as dg

from refresh_pipeline import steps
from refresh_pipeline.checks import raw_verdicts
from refresh_pipeline.definitions import build
from refresh_pipeline.market.model import Market, parse_market
from refresh_pipeline.partitions import whole
from refresh_pipeline.schedules import refresh_job_name
from refresh_pipeline.settings import load_settings, prepare_dagster
from refresh_pipeline.sources.opening import open_source
from refresh_pipeline.warehouse.schema import Table
from refresh_pipeline.warehouse.warehouse import Warehouse
from refresh_pipeline_tests.benchmarks.measuring import Comparison, Size, seconds

BEGIN = datetime(2026, 1, 7, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
WHOLE_RUN = "the whole run"
CHECKS = "checks"
EVENTS = "design: events 0.25 to 0.5 s an asset"
NOTES = {
    "raw_candles": EVENTS,
    "enhanced_candles": EVENTS,
    "indicators": EVENTS,
    WHOLE_RUN: "design: a run that finds nothing new 8 s through the daemon, 1 s of it work",
}


def wide_market(size: Size) -> Market:
    """Simulated instruments on m1 candles."""
    instruments = ", ".join(f"S{number:03d}" for number in range(size.series))
    text = f"""{{name: wide, source: {{kind: demo}}, calendar: crypto, instruments: [{instruments}],
        timeframes: [m1], history: {size.history}}}"""
    return parse_market(text, file="wide.yaml")


def measure(size: Size, folder: Path) -> list[Comparison]:
    """Each step of a tick and the tick as a whole; leaves the database in the folder."""
    market, settings = wide_market(size), load_settings(data_dir=folder)
    prepare_dagster(settings)
    job = build(settings, [market]).resolve_job_def(refresh_job_name(market))
    with dg.DagsterInstance.get() as instance:
        run_job(instance, job, market, BEGIN)
        bare = Warehouse(database=str(shutil.copy(settings.database, folder / "bare.duckdb")))
        ticks = [BEGIN + MINUTE * number for number in range(1, size.rounds + 1)]
        rounds = [(run_job(instance, job, market, now), work_alone(bare, market, folder, now)) for now in ticks]
    return [
        Comparison(what, [each[0][what] for each in rounds], [each[1][what] for each in rounds], NOTES.get(what, ""))
        for what in rounds[0][1]
    ]


def run_job(instance: dg.DagsterInstance, job: dg.JobDefinition, market: Market, now: datetime) -> dict[str, float]:
    """One wide run at an instant: seconds of each step as the event log tells them, and of all of it."""
    config = {
        "resources": {"asked": {"config": {"now": now.isoformat()}}},
        "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
    }
    results: list[dg.ExecuteInProcessResult] = []
    total = seconds(
        lambda: results.append(job.execute_in_process(instance=instance, tags=dict(whole(market)), run_config=config))
    )
    stats = instance.get_run_step_stats(results[0].run_id)
    taken = {each.step_key: (each.end_time or 0.0) - (each.start_time or 0.0) for each in stats}
    return {_plain(key, market): value for key, value in taken.items()} | {WHOLE_RUN: total}


def _plain(step_key: str, market: Market) -> str:
    return CHECKS if step_key.endswith("_checks") else step_key.removeprefix(f"{market.name}__")


def work_alone(warehouse: Warehouse, market: Market, folder: Path, now: datetime) -> dict[str, float]:
    """The seconds that each step's work takes when nobody but this function calls it."""
    taken = {name: seconds(work) for name, work in _work(warehouse, market, folder, now).items()}
    return taken | {WHOLE_RUN: sum(taken.values())}


def _work(warehouse: Warehouse, market: Market, folder: Path, now: datetime) -> Mapping[str, Callable[[], object]]:
    run_ids = _run_ids(now)

    def raw_candles() -> None:
        warehouse.prepare(market)
        requests = steps.requests_for(market, warehouse.holdings(market, market.series), now)
        source = open_source(market, folder / "limits")
        done = steps.fetch_candles(warehouse, market, source, requests, now)
        warehouse.record(market, Table.raw_candles, done, next(run_ids), now)

    def computed(table: Table) -> Callable[[], None]:
        def compute() -> None:
            done = steps.compute(warehouse, market, table, market.series)
            warehouse.record(market, table, done, next(run_ids), now)

        return compute

    tables = (Table.enhanced_candles, Table.indicators)
    return {
        Table.raw_candles.value: raw_candles,
        **{table.value: computed(table) for table in tables},
        CHECKS: lambda: raw_verdicts(warehouse, market, now),
    }


def _run_ids(now: datetime) -> Iterator[str]:
    return (f"{now.isoformat()} {number}" for number in count())
