"""Between a run of Dagster and the work: the series that a run refreshes, and the materialization of each series."""

from collections.abc import Mapping, Sequence
from datetime import datetime

import dagster as dg
import numpy as np

from refresh_pipeline.instance.orphaned_runs import claim
from refresh_pipeline.instance.wide_run import describe_partitions, materialize_only
from refresh_pipeline.market.calendars.base import Calendar
from refresh_pipeline.market.candles import TIME_UNIT
from refresh_pipeline.market.freshness import data_age, short_duration
from refresh_pipeline.market.gaps import Coverage
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series, listing
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.orchestration.asset_specs import series_address
from refresh_pipeline.orchestration.reported_partitions import reported
from refresh_pipeline.orchestration.run_options import RunOptions
from refresh_pipeline.warehouse.outcomes import Attempt, Outcome, SeriesStats
from refresh_pipeline.warehouse.schema import Table
from refresh_pipeline.warehouse.warehouse import Warehouse

EVERY_SERIES_FAILED = "every series failed"
# Failed partitions of one step that get an observation with the reason. Dagster writes observations one by one, 10 ms
# each; the check lists all failed series.
MOST_OBSERVED = 20
# What only a partition of raw candles says: the other assets' events do not repeat it.
OF_CANDLES = frozenset({"source", "candle_count", "first_open_time", "completeness", "complete"})


def series_of(context: dg.AssetExecutionContext, options: RunOptions) -> list[Series]:
    """The series that a run refreshes; the run is marked as this process's.

    Raises:
        dagster.Failure: the options name a series that the run's range does not hold.
    """
    claim(context)
    return options.chosen(context.partition_keys)


def remaining_series(
    context: dg.AssetExecutionContext, options: RunOptions, warehouse: Warehouse, market: Market
) -> list[Series]:
    """The series that a run refreshes, without those whose candles could not be fetched in this run."""
    with warehouse.session(market.name):
        warehouse.prepare(market)
        failed = warehouse.failed_series_of_run(market, Table.raw_candles, context.run.run_id)
    return [series for series in series_of(context, options) if series not in failed]


def materialized(
    context: dg.AssetExecutionContext,
    warehouse: Warehouse,
    market: Market,
    attempts: Mapping[Series, Attempt],
    *,
    options: RunOptions,
    now: datetime,
) -> dg.MaterializeResult:
    """Record the outcome of each series, and materialize the partitions of those that did not fail.

    A scheduled tick of many series materializes a share of them in turn. A failed partition keeps its last
    materialization and gets an observation with the reason.

    Raises:
        dagster.Failure: every series of the run's whole range failed, for a reason that asking again may mend.
    """
    asset = context.asset_key.path[-1]
    failed = {series: attempt for series, attempt in attempts.items() if attempt.outcome is Outcome.failed}
    succeeded = [series for series in attempts if series not in failed]
    due = reported(context, market, succeeded)
    with warehouse.session(market.name):
        due |= warehouse.failed_series(market, asset) | _corrected(asset, attempts)
        warehouse.record(market, asset, attempts, context.run.run_id, now)
        chosen = [series for series in succeeded if series in due]
        stats = warehouse.series_stats(market, chosen)
        stored = [series for series in chosen if stats[series].candle_count] if asset == Table.raw_candles else []
        coverage = warehouse.coverage(market, stored, now) if stored else {}
    context.log.info("%s: %s", asset, summary(attempts))
    for line in failures(failed):
        context.log.warning("%s: %s", asset, line)
    for series, attempt in list(failed.items())[:MOST_OBSERVED]:
        context.log_event(_observation(context.asset_key, series, attempt))
    if must_fail(attempts, options):
        raise _failure(asset, failed)
    entries = _metadata(market, attempts, stats, coverage, now)
    describe_partitions(context, entries if asset == Table.raw_candles else _without_candles(entries))
    is_narrowed = materialize_only(context, [series.key for series in chosen])
    if failed and not succeeded and not is_narrowed:
        raise _failure(asset, failed)
    return dg.MaterializeResult()


def must_fail(attempts: Mapping[Series, Attempt], options: RunOptions) -> bool:
    """Whether a step fails: every series of the run's whole range failed, and asking again may mend each failure.

    A retry of series that fail, and a failure for good, end as success: where a step fails, no check is executed, and
    "Execution failed" says less than a check that lists the series.
    """
    all_may_mend = all(each.outcome is Outcome.failed and each.transient for each in attempts.values())
    return bool(attempts) and not options.series and all_may_mend


def _corrected(asset: str, attempts: Mapping[Series, Attempt]) -> set[Series]:
    """The series of which candles were corrected; computed rows are written again at most ticks."""
    is_fetched = asset == Table.raw_candles
    return {series for series, attempt in attempts.items() if is_fetched and attempt.rows_revised}


def _observation(asset: dg.AssetKey, series: Series, attempt: Attempt) -> dg.AssetObservation:
    metadata = {"outcome": attempt.outcome.value, "reason": attempt.reason or "failed", "transient": attempt.transient}
    return dg.AssetObservation(asset, description=attempt.reason, partition=series.key, metadata=metadata)


def summary(attempts: Mapping[Series, Attempt]) -> str:
    """A step's work in one line.

    >>> summary({Series("A", Timeframe.m1): Attempt(Outcome.updated, rows_added=3)})
    '1 series: 1 updated; 3 rows added, 0 revised'
    """
    outcomes = [attempt.outcome for attempt in attempts.values()]
    counts = ", ".join(f"{outcomes.count(outcome)} {outcome.value}" for outcome in Outcome if outcome in outcomes)
    added, revised = (sum(getattr(a, name) for a in attempts.values()) for name in ("rows_added", "rows_revised"))
    return f"{len(attempts)} series: {counts or 'nothing to do'}; {added} rows added, {revised} revised"


def _metadata(
    market: Market,
    attempts: Mapping[Series, Attempt],
    stats: Mapping[Series, SeriesStats],
    coverage: Mapping[Series, Coverage],
    now: datetime,
) -> dict[str, dict[str, object]]:
    """The metadata of each partition's materialization, by partition key."""
    entries = {series: _basics(market, attempts[series], stats[series]) for series in stats}
    address = series_address(market)
    for series, entry in entries.items():
        entry["dashboard"] = dg.MetadataValue.url(address(series))
    for (calendar, timeframe), stored in market.by_calendar(s for s in stats if stats[s].candle_count).items():
        standing = _standing(calendar, timeframe, [stats[series] for series in stored], now)
        for series, measures in zip(stored, standing, strict=True):
            entries[series] |= measures
    for series in coverage.keys() & entries.keys():
        share = coverage[series].completeness
        entries[series] |= {"completeness": round(share, 6), "complete": f"{share:.2%}".replace("%", " %")}
    return {series.key: entry for series, entry in entries.items()}


def _without_candles(entries: Mapping[str, Mapping[str, object]]) -> dict[str, dict[str, object]]:
    """The metadata of partitions without the entries that those of raw candles hold."""
    return {
        key: {name: value for name, value in entry.items() if name not in OF_CANDLES} for key, entry in entries.items()
    }


def _basics(market: Market, attempt: Attempt, stats: SeriesStats) -> dict[str, object]:
    return {
        "outcome": attempt.outcome.value,
        "source": market.source.kind,
        "rows_added": attempt.rows_added,
        "rows_revised": attempt.rows_revised,
        "candle_count": stats.candle_count,
        "seconds": round(attempt.seconds, 4),
        **attempt.metadata,
    }


def _standing(
    calendar: Calendar, timeframe: Timeframe, stats: Sequence[SeriesStats], now: datetime
) -> list[dict[str, object]]:
    firsts = np.array([extent.first_open_time for extent in stats], dtype=TIME_UNIT)
    lasts = np.array([extent.last_open_time for extent in stats], dtype=TIME_UNIT)
    ages = data_age(calendar, timeframe, lasts, now)
    return [
        {
            "first_open_time": _timestamp(first),
            "last_open_time": _timestamp(last),
            "data_age_seconds": round(age, 3),
            "data_age": short_duration(age),
        }
        for first, last, age in zip(firsts, lasts, ages.tolist(), strict=True)
    ]


def _timestamp(time: np.datetime64) -> dg.TimestampMetadataValue:
    return dg.MetadataValue.timestamp(float(time.astype("int64")) / 1e6)


def failures(failed: Mapping[Series, Attempt]) -> list[str]:
    """The reasons of failed series, each reason once with its series.

    >>> failures({Series(name, Timeframe.m1): Attempt(Outcome.failed, "no answer") for name in "AB"})
    ['2 series failed (A m1, B m1): no answer']
    """
    by_reason: dict[str, list[Series]] = {}
    for series, attempt in failed.items():
        by_reason.setdefault(attempt.reason or "failed", []).append(series)
    return [f"{len(series)} series failed ({listing(series)}): {reason}" for reason, series in by_reason.items()]


def _failure(asset: str, failed: Mapping[Series, Attempt]) -> dg.Failure:
    return dg.Failure(
        f"{asset}: {EVERY_SERIES_FAILED}.\n" + "\n".join(failures(failed)),
        allow_retries=True,
    )
