"""A backfill: days of m1 candles of some symbols, from a venue on loopback to indicators, and how far it is from bare.

The market's own backfill job, in a process of its own, from an empty warehouse; pages of 1,000 klines, and limits that
bind nobody. Beside it a bare client loop with the same questions, DuckDB loading the same candles, the loops in C and
over TA-Lib on them, and DuckDB copying the computed rows from file to file. One round: it takes minutes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import dagster as dg
import duckdb
import numpy as np

from refresh_pipeline.analytics.bars import Bars
from refresh_pipeline.market.candles import CANDLE_COLUMNS, instant
from refresh_pipeline.market.model import Market
from refresh_pipeline.orchestration.build import build
from refresh_pipeline.pipeline.job_names import backfill_job_name
from refresh_pipeline.settings import load_settings, prepare_dagster
from refresh_pipeline.sources import Request
from refresh_pipeline.sources.binance import PAGE_ROWS
from refresh_pipeline.warehouse.schema import Table
from refresh_pipeline_tests.benchmarks import bare, cycle
from refresh_pipeline_tests.benchmarks.children import Apart, in_child
from refresh_pipeline_tests.benchmarks.measuring import Comparison, Findings, Size, seconds
from refresh_pipeline_tests.benchmarks.venue import BEGIN, market_at, venue

MINUTES_A_DAY = 24 * 60
KEPT = "for ever"
STAGES = (*cycle.STAGES, cycle.REST)


@dataclass(frozen=True, slots=True)
class Backfilled:
    """Seconds of each stage and in all, and how large the file has become.

    Stages overlap: rows are computed while others are written.
    """

    stages: Mapping[str, float]
    total: float
    megabytes: float


def measure(size: Size, folder: Path, apart: Apart = in_child) -> Findings:
    """Each stage beside its floor, with candles a second; and the peak of memory."""
    with venue() as there:
        market = _market(there.base_url, size)
        # Each symbol's candles are drawn when it is first asked for one.
        bare.fetch(_urls(there.base_url, market)[:: size.days * MINUTES_A_DAY // PAGE_ROWS + 1])
        ours, peak = apart(backfilled, folder, there.base_url, size, folder)
        taken = floors(there.base_url, market, folder)
    candles = size.symbols * size.days * MINUTES_A_DAY
    found = [_stage(stage, ours.stages.get(stage, 0.0), taken.get(stage), candles) for stage in STAGES]
    found[0] = replace(found[0], note=f"{found[0].note}; ours: what storing waits for, as fetching goes on beside it")
    remembering = sum(ours.stages.get(each, 0.0) for each in cycle.REMEMBERING)
    return {
        f"a backfill of {size.days} days of m1 for {size.symbols} symbols, {candles:,} candles": [
            *found,
            _stage("remembering", remembering, None, candles),
            _stage("from venue to indicators, Dagster included", ours.total, sum(taken.values()), candles),
            Comparison("peak memory", [peak], note="of the run's process", unit="MB"),
            Comparison("the warehouse's file", [ours.megabytes], unit="MB"),
        ]
    }


def _market(base_url: str, size: Size) -> Market:
    return market_at(base_url, size.symbols, size.days * MINUTES_A_DAY, keep=KEPT)


def _stage(stage: str, ours: float, floor: float | None, candles: int) -> Comparison:
    note = f"{candles / ours:,.0f} candles/s" if ours else ""
    note += f"; floor {candles / floor:,.0f}" if floor else ""
    return Comparison(stage, [ours], [floor] if floor else (), note)


def backfilled(base_url: str, size: Size, folder: Path) -> Backfilled:
    """The market's backfill job, from nothing."""
    settings = load_settings(data_dir=folder)
    prepare_dagster(settings)
    market, watch = _market(base_url, size), cycle.Watch(keeps=False)
    job = build(settings, [market]).resolve_job_def(backfill_job_name(market))
    with dg.DagsterInstance.get() as instance:
        run = cycle.run_job(instance, job, market, BEGIN, watch, missing_only=True)
    stages = dict(watch.stages.seconds)
    checks = stages.pop(cycle.CHECKS, 0.0)
    return Backfilled(stages, run.total - checks, settings.database.stat().st_size / 1e6)


def floors(base_url: str, market: Market, folder: Path) -> dict[str, float]:
    """What could not be done without, on a file of its own: seconds of each stage."""
    ours, database = folder / "refresh.duckdb", folder / "bare.duckdb"
    taken = {cycle.FETCH: seconds(bare.fetch, _urls(base_url, market))}
    table = partial("{}.{}".format, market.name)
    with duckdb.connect(str(ours), read_only=True) as connection:
        rows = connection.execute(
            f"select * from {table(Table.raw_candles)} order by open_time, instrument"
        ).fetchnumpy()
    taken[cycle.STORE] = seconds(bare.load, database, "raw_candles", rows)
    bars = _bars(ours, table(Table.raw_candles))
    for stage, compute in ((Table.enhanced_candles, bare.enhanced()[0]), (Table.indicators, bare.indicators)):
        taken[f"{stage}: compute"] = seconds(compute, bars)
        taken[f"{stage}: write"] = seconds(bare.copy, ours, table(stage), database, stage.value)
    return taken


def _urls(base_url: str, market: Market) -> list[str]:
    since, until = instant(BEGIN - market.history[market.timeframes[0]]), instant(BEGIN)
    return bare.urls_of(base_url, [Request(each, since, until) for each in market.series])


def _bars(database: Path, table: str) -> Bars:
    counted, candles = bare.window(database, table, instant(BEGIN - timedelta(days=10_000)))
    starts = np.cumsum([0, *(count for *_, count in counted)])
    return Bars(candles["open_time"], {name: candles[name] for name in CANDLE_COLUMNS}, starts)
