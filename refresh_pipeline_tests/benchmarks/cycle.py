"""A cycle: one tick of many series from the venue to indicators, stage by stage beside the sum of its floors.

In turn, from the same history and at the same minute: the market's refresh through Dagster; the floors of its stages
one after the other, on a file of their own; and a job of empty assets on the same grid. What a step of the first takes
beyond its work is Dagster's share; the last says how much of it nobody could save. The start of a process and the queue
are not in it.
"""

import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np

from refresh_pipeline.analytics.bars import Bars, Computation, Values
from refresh_pipeline.market.candles import CANDLE_COLUMNS, Candles
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.orchestration import checks
from refresh_pipeline.orchestration.build import build
from refresh_pipeline.orchestration.partitions import grid, whole
from refresh_pipeline.orchestration.schedules import TICK_TAG
from refresh_pipeline.pipeline import backfill, compute, fetch
from refresh_pipeline.pipeline.job_names import refresh_job_name
from refresh_pipeline.pipeline.quality import candle_checks
from refresh_pipeline.settings import load_settings, prepare_dagster
from refresh_pipeline.sources import Fetched, Request
from refresh_pipeline.sources.binance import BinanceSource
from refresh_pipeline.warehouse import warehouse
from refresh_pipeline.warehouse.incremental import TailRefresh
from refresh_pipeline.warehouse.schema import Table
from refresh_pipeline.warehouse.stored_values import stored_values
from refresh_pipeline.warehouse.warehouse import Warehouse
from refresh_pipeline_tests.benchmarks import bare
from refresh_pipeline_tests.benchmarks.measuring import Comparison, Findings, Size, Stopwatch, replaced, seconds
from refresh_pipeline_tests.benchmarks.venue import BEGIN, MINUTE, candles_of, market_at, venue

FETCH, STORE, REST, CHECKS = "fetch", "store", "between them", "checks"
COMPUTED = (Table.enhanced_candles, Table.indicators)
STAGES = (FETCH, STORE, *(f"{table}: {what}" for table in COMPUTED for what in ("read", "compute", "write")))
# What the bare way does not do at all, as it remembers nothing: methods of the warehouse, and opening it for several.
OPENING = "open and close"
REMEMBERING = (
    OPENING,
    "prepare",
    "record_empty_ranges",
    "write_gaps",
    "series_stats",
    "failed_series_of_run",
    "pending_recompute",
    "record",
)
CYCLE = "the cycle"
TARGET = "target: below 2"
NOTES = {
    FETCH: "bare: the same questions by the same client, JSON read",
    STORE: "bare: delete and insert of the same candles",
    OPENING: "of the file, for several of these at once",
    "prepare": "are tables and views as they should be?",
    "record_empty_ranges": "what the source does not have",
    "write_gaps": "which candles are missing",
    "series_stats": "what is stored of each series",
    "failed_series_of_run": "which series are left out",
    "pending_recompute": "which series changed since when",
    "record": "what became of each series",
    REST: "requests made, answers bundled and counted",
    "indicators: compute": "bare: every function of TA-Lib on the same rows",
}
# Series whose history is stored at once, so that filling fits in memory.
FILLED_AT_ONCE = 500


# ---- what is watched


@dataclass
class Watch:
    """What a run did: seconds of each stage, and where it is kept, what was asked, answered, read and computed."""

    # Of a long run it would not fit in memory.
    keeps: bool = True
    stages: Stopwatch = field(default_factory=lambda: Stopwatch(undivided=(CHECKS,)))
    requests: list[Request] = field(default_factory=list)
    fetched: list[Fetched] = field(default_factory=list)
    computed: list[tuple[Computation, Bars, Mapping[str, Values]]] = field(default_factory=list)
    # How many rows of each table became other ones; the floors find out.
    written: dict[str, int] = field(default_factory=dict)

    @property
    def tables(self) -> dict[Table, tuple[Computation, Bars, Mapping[str, Values]]]:
        """What was computed of each table, which the pipeline does some series at a time."""
        found: dict[Table, list[tuple[Computation, Bars, Mapping[str, Values]]]] = {}
        for each in self.computed:
            found.setdefault(Table(each[0].name), []).append(each)
        return {table: _as_one(some) for table, some in found.items()}

    @property
    def notes(self) -> dict[str, str]:
        """How much each stage had to do."""
        found = {
            FETCH: f"{len(self.requests):,} requests",
            STORE: f"{sum(len(e.candles) for e in self.fetched):,} rows",
        }
        for table, (computation, bars, _) in self.tables.items():
            rows = f"{self.written[table]:,} rows x {len(computation.columns)} columns are new or others"
            found |= {f"{table}: read": f"{len(bars):,} rows", f"{table}: write": rows}
        return found

    @contextmanager
    def on(self) -> Iterator[None]:
        """Whatever the pipeline does while the block runs is watched."""
        watch = self.stages
        with ExitStack() as block:
            block.enter_context(replaced(BinanceSource, "fetch", self._fetch(BinanceSource.fetch)))
            block.enter_context(watch.during(Warehouse, "store_candles", lambda _: STORE))
            block.enter_context(replaced(warehouse, "connect", self._connect(warehouse.connect)))
            for method in set(REMEMBERING) - {OPENING}:
                block.enter_context(watch.during(Warehouse, method, partial(_said, method)))
            for module, function in ((fetch, "refresh_candles"), (compute, "compute"), (backfill, "backfill")):
                block.enter_context(watch.during(module, function, lambda _: REST))
            block.enter_context(watch.during(checks, "candle_verdicts", lambda _: CHECKS))
            block.enter_context(watch.during(Warehouse, "record_checks", lambda _: CHECKS))
            # Beside computing and writing a refresh of a tail does nothing but find out what to read, and read it.
            block.enter_context(watch.during(TailRefresh, "run", lambda work: f"{work.table}: read"))
            block.enter_context(watch.during(TailRefresh, "_write", lambda work: f"{work.table}: write"))
            block.enter_context(replaced(Computation, "compute_with_states", self._compute()))
            yield

    def _fetch(self, fetch: Callable[..., Iterator[Fetched]]) -> Callable[..., Iterator[Fetched]]:
        def watched(source: BinanceSource, requests: Sequence[Request], now: datetime) -> Iterator[Fetched]:
            self.requests += requests if self.keeps else []
            answers = fetch(source, requests, now)
            while True:
                with self.stages.on(FETCH):
                    answer = next(answers, None)
                if answer is None:
                    return
                if self.keeps:
                    self.fetched.append(answer)
                yield answer

        return watched

    def _connect(self, connect: Callable[..., AbstractContextManager[Any]]) -> Callable[..., object]:
        @contextmanager
        def watched(*args: Any, **kwargs: Any) -> Iterator[object]:
            with ExitStack() as block:
                with self.stages.on_at_least(OPENING):
                    connection = block.enter_context(connect(*args, **kwargs))
                yield connection
                with self.stages.on_at_least(OPENING):
                    block.close()

        return watched

    def _compute(self) -> Callable[..., object]:
        compute = Computation.compute_with_states

        def watched(computation: Computation, bars: Bars) -> tuple[Mapping[str, Values], Mapping[str, Values]]:
            with self.stages.on(f"{computation.name}: compute"):
                results, states = compute(computation, bars)
            if self.keeps:
                self.computed.append((computation, bars, results))
            return results, states

        return watched


def _as_one(
    some: Sequence[tuple[Computation, Bars, Mapping[str, Values]]],
) -> tuple[Computation, Bars, Mapping[str, Values]]:
    """The same computation of several batches of series as one of all of them."""
    computation, bars = some[0][0], [each for _, each, _ in some]
    before = np.cumsum([0, *map(len, bars)])
    starts = [each.starts[:-1] + shift for each, shift in zip(bars, before, strict=False)]
    firsts = [each.first_rows + shift for each, shift in zip(bars, before, strict=False)]
    stacked = Bars(
        np.concatenate([each.open_time for each in bars]),
        {name: np.concatenate([each[name] for each in bars]) for name in CANDLE_COLUMNS},
        np.concatenate([*starts, before[-1:]]),
        first=np.concatenate(firsts),
    )
    results: dict[str, Any] = {name: np.concatenate([found[name] for *_, found in some]) for name in some[0][2]}
    return computation, stacked, results


def _said(stage: str, _: object) -> str:
    return stage


# ---- a history


def fill(store: Warehouse, market: Market, stored: int, now: datetime = BEGIN) -> None:
    """Store so many candles of each series, as of an instant, and compute what follows from them."""
    store.prepare(market)
    for batch in _batches(market.series):
        arrivals = {series: candles_of(series, now, stored) for series in batch}
        store.store_candles(market, arrivals, market.source.kind, now)
        for table in COMPUTED:
            compute.compute(store, market, table, batch)
    with store.get_connection() as connection:
        connection.execute("checkpoint")


def _batches(series: Sequence[Series]) -> Iterator[Sequence[Series]]:
    return (series[first : first + FILLED_AT_ONCE] for first in range(0, len(series), FILLED_AT_ONCE))


# ---- the floors of what was watched


def floors(watch: Watch, base_url: str, database: Path, market: Market) -> dict[str, float]:
    """The same tick bare, on a file of its own: seconds of each stage."""
    urls, raw = bare.urls_of(base_url, watch.requests), _arrived(watch.fetched)
    taken = {FETCH: seconds(bare.fetch, urls)}
    taken[STORE] = seconds(bare.put, database, _table(market, Table.raw_candles), raw)
    compute = {Table.enhanced_candles: bare.enhanced()[0], Table.indicators: bare.indicators}
    for table, (computation, bars, results) in watch.tables.items():
        rows, kinds = _rows(market, computation, bars, results)
        other = bare.differing(database, _table(market, table), rows)
        rows, watch.written[table] = {name: values[other] for name, values in rows.items()}, len(other)
        read = seconds(bare.window, database, _table(market, Table.raw_candles), bars.open_time.min())
        taken |= {f"{table}: read": read, f"{table}: compute": seconds(compute[table], bars)}
        taken[f"{table}: write"] = seconds(bare.put, database, _table(market, table), rows, kinds)
    return taken


def _table(market: Market, table: Table) -> str:
    return f"{market.name}.{table}"


def _arrived(fetched: Sequence[Fetched]) -> bare.Arrays:
    """Every candle that arrived, of all series, as one table."""
    some = [each for each in fetched if len(each.candles)]
    candles = Candles.concatenated([each.candles for each in some])
    counts = [len(each.candles) for each in some]
    return {
        "instrument": np.repeat(_texts(each.series.instrument for each in some), counts),
        "timeframe": np.repeat(_texts(each.series.timeframe.value for each in some), counts),
        "open_time": candles.open_time,
        **candles.columns,
    }


def _rows(
    market: Market, computation: Computation, bars: Bars, results: Mapping[str, Values]
) -> tuple[bare.Arrays, Mapping[str, str]]:
    """What was computed as a table, and which of its columns hold whole numbers."""
    assert len(bars.lengths) == len(market.series), "not every series was computed at once"
    at = bars.wanted_rows
    series = np.repeat(np.arange(len(market.series)), bars.lengths)[at]
    carried = {name: bars[name][at] for name in CANDLE_COLUMNS} if computation.carries_candles else {}
    kinds = {each.name: each.sql_type for each in computation.columns if each.sql_type not in ("double", "varchar")}
    rows = {
        "instrument": _texts(each.instrument for each in market.series)[series],
        "timeframe": _texts(each.timeframe.value for each in market.series)[series],
        "open_time": bars.open_time[at],
    }
    computed = {each.name: results[each.name] for each in computation.columns}
    return {**rows, **carried, **stored_values(Table(computation.name), computed)}, kinds


def _texts(values: Iterator[str]) -> np.ndarray:
    return np.array(list(values), dtype=object)


# ---- a tick through Dagster


@dataclass(frozen=True, slots=True)
class Run:
    """Seconds of one wide run: of all of it, of each step as the event log tells them, and of the work in each."""

    total: float
    steps: Mapping[str, float]
    work: Mapping[str, float]

    @property
    def around(self) -> float:
        """What is in no step."""
        return self.total - sum(self.steps.values())


def run_job(
    instance: dg.DagsterInstance,
    job: dg.JobDefinition,
    market: Market,
    now: datetime,
    watch: Watch | None = None,
    **more: object,
) -> Run:
    """One wide run of a job at an instant; `more` is what it is asked for besides."""
    asked = {"run_options": {"config": {"now": now.isoformat(), **more}}} if "run_options" in job.resource_defs else {}
    config = {"resources": asked, "loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    results: list[dg.ExecuteInProcessResult] = []
    # As a tick tags its run: of many series it reports a share to Dagster.
    tags = {**whole(market), TICK_TAG: now.isoformat(), "dagster/schedule_name": job.name}
    with (watch or Watch()).on():
        total = seconds(lambda: results.append(job.execute_in_process(instance=instance, tags=tags, run_config=config)))
    stats = {_plain(each.step_key, market): each for each in instance.get_run_step_stats(results[0].run_id)}
    spans = {name: (each.start_time or 0.0, each.end_time or 0.0) for name, each in stats.items()}
    work = {name: watch.stages.between(*span) if watch else 0.0 for name, span in spans.items()}
    return Run(total, {name: ended - began for name, (began, ended) in spans.items()}, work)


def _plain(step_key: str, market: Market) -> str:
    return CHECKS if step_key.endswith("checks") else step_key.removeprefix(f"{market.name}__").removeprefix("empty__")


def empty_job(market: Market) -> dg.JobDefinition:
    """The same graph with nothing in it: assets on the market's grid, in a row, and a step of as many checks."""
    with warnings.catch_warnings():
        # BackfillPolicy is beta; that is a choice, not news.
        warnings.simplefilter("ignore", dg.BetaWarning)
        return _empty_job(market)


def _empty_job(market: Market) -> dg.JobDefinition:
    assets: list[dg.AssetsDefinition] = []
    for table in (Table.raw_candles, *COMPUTED):

        @dg.asset(
            name=table.value,
            key_prefix=[market.name, "empty"],
            deps=assets[-1:],
            partitions_def=grid(market),
            backfill_policy=dg.BackfillPolicy.single_run(),
        )
        def empty() -> None:
            pass

        assets.append(empty)

    names = [check.name for check in candle_checks(market)]

    @dg.multi_asset_check(name="empty_checks", specs=[dg.AssetCheckSpec(name, asset=assets[0]) for name in names])
    def empty_checks() -> Iterator[dg.AssetCheckResult]:
        for name in names:
            yield dg.AssetCheckResult(passed=True, check_name=name, asset_key=assets[0].key)

    definitions = dg.Definitions(
        assets=assets,
        asset_checks=[empty_checks],
        jobs=[dg.define_asset_job("empty", selection=dg.AssetSelection.assets(*assets))],
        executor=dg.in_process_executor,
    )
    return definitions.resolve_job_def("empty")


# ---- all of it in turn


@dataclass(frozen=True, slots=True)
class Round:
    """Seconds of one minute, each way."""

    run: Run
    empty: Run
    stages: Mapping[str, float]
    floors: Mapping[str, float]
    notes: Mapping[str, str]

    @property
    def cycle(self) -> float:
        """From fetching to indicators written, without Dagster and without checks."""
        return sum(self.run.work.values()) - self.run.work[CHECKS]

    @property
    def bare_cycle(self) -> float:
        """The sum of floors."""
        return sum(self.floors.values())


def measure(size: Size, folder: Path) -> Findings:
    """The cycle against its floors, and Dagster's share against empty assets; leaves the databases in the folder."""
    rounds = list(_rounds(size, folder))
    return {
        f"a cycle of {size.series} series x m1, fetch to indicators written, against its floors": _stages(rounds),
        "the same through Dagster, checks included, against a job of empty assets": _shares(rounds),
    }


def _rounds(size: Size, folder: Path) -> Iterator[Round]:
    settings = load_settings(data_dir=folder)
    prepare_dagster(settings)
    with venue() as there, dg.DagsterInstance.get() as instance:
        market = market_at(there.base_url, size.series, size.stored)
        fill(Warehouse(database=str(settings.database)), market, size.stored)
        bare_file = Path(shutil.copy(settings.database, folder / "bare.duckdb"))
        job, empty = build(settings, [market]).resolve_job_def(refresh_job_name(market)), empty_job(market)
        # The first round warms everything up and is thrown away.
        for number in range(size.rounds + 1):
            now = BEGIN + MINUTE * (number + 1)
            there.at(now)
            watch = Watch()
            run = run_job(instance, job, market, now, watch)
            taken = floors(watch, there.base_url, bare_file, market)
            nothing = run_job(instance, empty, market, now)
            if number:
                yield Round(run, nothing, watch.stages.seconds, taken, watch.notes)


def _stages(rounds: Sequence[Round]) -> list[Comparison]:
    notes = NOTES | {"enhanced_candles: compute": bare.enhanced()[1]}
    found = []
    for stage in STAGES:
        note = "; ".join(filter(None, (rounds[-1].notes.get(stage), notes.get(stage))))
        ours, bare_ = ([getattr(each, way)[stage] for each in rounds] for way in ("stages", "floors"))
        found.append(Comparison(stage, ours, bare_, note))
    for stage in (*REMEMBERING, REST):
        found.append(Comparison(stage, [each.stages[stage] for each in rounds], note=NOTES.get(stage, "")))
    whole_cycle = [each.cycle for each in rounds], [each.bare_cycle for each in rounds]
    return [*found, Comparison(CYCLE, *whole_cycle, TARGET)]


def _shares(rounds: Sequence[Round]) -> list[Comparison]:
    found = [
        Comparison(
            f"Dagster's share of {name}",
            [each.run.steps[name] - each.run.work[name] for each in rounds],
            [each.empty.steps[name] for each in rounds],
        )
        for name in rounds[0].empty.steps
    ]
    around = [each.run.around for each in rounds], [each.empty.around for each in rounds]
    share = [each.run.total - sum(each.run.work.values()) for each in rounds], [each.empty.total for each in rounds]
    run = [each.run.total for each in rounds], [each.empty.total + each.bare_cycle for each in rounds]
    return [
        *found,
        Comparison("around the steps", *around),
        Comparison("Dagster's share of the run", *share),
        Comparison("the work of the checks", [each.run.work[CHECKS] for each in rounds]),
        Comparison("the whole run", *run, "floor: the empty run and the sum of floors; nothing for the work of checks"),
    ]
