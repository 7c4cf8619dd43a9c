"""Between a run of Dagster and the steps: which series a run means, and what it says of each of them afterwards."""

from collections.abc import Mapping, Sequence
from datetime import datetime

import dagster as dg
import numpy as np

from refresh_pipeline.instance.orphaned_runs import claim
from refresh_pipeline.instance.wide_run import describe_partitions, materialize_only
from refresh_pipeline.market.calendars.base import Calendar
from refresh_pipeline.market.candles import TIME_UNIT
from refresh_pipeline.market.freshness import completeness, data_age
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.orchestration.resources import Asked
from refresh_pipeline.warehouse.outcomes import Attempt, Outcome, SeriesStats
from refresh_pipeline.warehouse.schema import Table
from refresh_pipeline.warehouse.warehouse import Warehouse

# How many series a message names; all of them are in the table of outcomes.
SERIES_NAMED = 5
EVERY_SERIES_FAILED = "every series failed"


def series_of(context: dg.AssetExecutionContext, asked: Asked) -> list[Series]:
    """The series of the run's range that were asked for; the run is marked as this process's.

    Raises:
        dagster.Failure: a series was asked for that the run's range does not hold.
    """
    claim(context)
    chosen = set(asked.series) or set(context.partition_keys)
    if astray := sorted(chosen - set(context.partition_keys)):
        raise dg.Failure(
            f"the run was asked for {', '.join(astray)}, which its range of partitions does not hold: choose "
            "partitions that do, or leave out `series` in the run's config",
            allow_retries=False,
        )
    return [Series.from_key(key) for key in context.partition_keys if key in chosen]


def series_left(context: dg.AssetExecutionContext, asked: Asked, warehouse: Warehouse, market: Market) -> list[Series]:
    """The series of the run, without those whose candles could not be fetched in this very run."""
    with warehouse.session():
        warehouse.prepare(market)
        failed = warehouse.failed_series_of_run(market, Table.raw_candles, context.run.run_id)
    return [series for series in series_of(context, asked) if series not in failed]


def materialized(
    context: dg.AssetExecutionContext,
    warehouse: Warehouse,
    market: Market,
    done: Mapping[Series, Attempt],
    now: datetime,
) -> dg.MaterializeResult:
    """Record what became of each series, and let those that did not fail count as materialized.

    Raises:
        dagster.Failure: every single series failed.
    """
    asset = context.asset_key.path[-1]
    failed = {series: each for series, each in done.items() if each.outcome is Outcome.failed}
    succeeded = [series for series in done if series not in failed]
    with warehouse.session():
        warehouse.record(market, asset, done, context.run.run_id, now)
        held = warehouse.series_stats(market, succeeded)
    context.log.info("%s: %s", asset, summary(done))
    for line in failures(failed):
        context.log.warning("%s: %s", asset, line)
    if done and len(failed) == len(done):
        raise _failure(asset, failed)
    describe_partitions(context, _metadata(market, done, held, now))
    materialize_only(context, [series.key for series in succeeded])
    return dg.MaterializeResult()


def summary(done: Mapping[Series, Attempt]) -> str:
    """A step's work in one line.

    >>> summary({Series("A", Timeframe.m1): Attempt(Outcome.updated, rows_added=3)})
    '1 series: 1 updated; 3 rows added, 0 revised'
    """
    outcomes = [each.outcome for each in done.values()]
    counts = ", ".join(f"{outcomes.count(one)} {one.value}" for one in Outcome if one in outcomes)
    added, revised = (sum(getattr(each, name) for each in done.values()) for name in ("rows_added", "rows_revised"))
    return f"{len(done)} series: {counts or 'nothing to do'}; {added} rows added, {revised} revised"


def _metadata(
    market: Market, done: Mapping[Series, Attempt], held: Mapping[Series, SeriesStats], now: datetime
) -> dict[str, dict[str, object]]:
    """What each partition's materialization says, by partition key."""
    entries = {series: _basics(market, done[series], held[series]) for series in held}
    for (calendar, timeframe), stored in market.by_calendar(s for s in held if held[s].candle_count).items():
        for series, more in zip(stored, _standing(calendar, timeframe, [held[s] for s in stored], now), strict=True):
            entries[series] |= more
    return {series.key: entry for series, entry in entries.items()}


def _basics(market: Market, done: Attempt, held: SeriesStats) -> dict[str, object]:
    return {
        "outcome": done.outcome.value,
        "source": market.source.kind,
        "rows_added": done.rows_added,
        "rows_revised": done.rows_revised,
        "candle_count": held.candle_count,
        "seconds": round(done.seconds, 4),
        **done.metadata,
    }


def _standing(
    calendar: Calendar, timeframe: Timeframe, held: Sequence[SeriesStats], now: datetime
) -> list[dict[str, object]]:
    firsts = np.array([each.first_open_time for each in held], dtype=TIME_UNIT)
    lasts = np.array([each.last_open_time for each in held], dtype=TIME_UNIT)
    counts = np.array([each.candle_count for each in held])
    shares = completeness(calendar, timeframe, firsts, counts, now)
    ages = data_age(calendar, timeframe, lasts, now)
    return [
        {
            "first_open_time": _timestamp(first),
            "last_open_time": _timestamp(last),
            "completeness": round(share, 6),
            "data_age_seconds": round(age, 3),
        }
        for first, last, share, age in zip(firsts, lasts, shares.tolist(), ages.tolist(), strict=True)
    ]


def _timestamp(time: np.datetime64) -> dg.TimestampMetadataValue:
    return dg.MetadataValue.timestamp(float(time.astype("int64")) / 1e6)


def failures(failed: Mapping[Series, Attempt]) -> list[str]:
    """Why series failed, each reason once with the series that it befell.

    >>> failures({Series(name, Timeframe.m1): Attempt(Outcome.failed, "no answer") for name in "AB"})
    ['2 series failed (A m1, B m1): no answer']
    """
    by_reason: dict[str, list[Series]] = {}
    for series, attempt in failed.items():
        by_reason.setdefault(attempt.reason or "failed", []).append(series)
    return [f"{len(some)} series failed ({_named(some)}): {reason}" for reason, some in by_reason.items()]


def _named(series: Sequence[Series]) -> str:
    more = f" and {len(series) - SERIES_NAMED} more" if len(series) > SERIES_NAMED else ""
    return ", ".join(str(each) for each in series[:SERIES_NAMED]) + more


def _failure(asset: str, failed: Mapping[Series, Attempt]) -> dg.Failure:
    return dg.Failure(
        f"{asset}: {EVERY_SERIES_FAILED}.\n" + "\n".join(failures(failed)),
        allow_retries=any(each.transient for each in failed.values()),
    )
