"""Retry asks again for series that failed, ever more rarely; repair for candles that are missing, so many a tick."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg

from refresh_pipeline.instance.orphans import going_runs
from refresh_pipeline.market.gaps import Gap, Place, due, planned
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.partitions import range_tags
from refresh_pipeline.schedules import refresh_job_name
from refresh_pipeline.warehouse.reports import FailedSeries
from refresh_pipeline.warehouse.warehouse import Warehouse

FIRST_WAIT = timedelta(minutes=1)
LONGEST_WAIT = timedelta(hours=1)
SECONDS_BETWEEN_LOOKS = 30
SECONDS_BETWEEN_REPAIRS = 300


def retry_sensor(market: Market) -> dg.SensorDefinition:
    """One run of the series whose last attempt failed and whose wait is over."""

    @dg.sensor(
        name=f"{market.name}_retry",
        job_name=refresh_job_name(market),
        minimum_interval_seconds=SECONDS_BETWEEN_LOOKS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Asks again for series of {market.name} that failed, waiting twice as long after each failure.",
    )
    def retry(context: dg.SensorEvaluationContext, warehouse: Warehouse) -> dg.RunRequest | dg.SkipReason:
        if going := going_runs(context.instance, refresh_job_name(market)):
            return dg.SkipReason(f"a run is going: {going[0].run_id}")
        return request_for(market, warehouse.failed(market), datetime.now(UTC))

    return retry


def repair_sensor(market: Market) -> dg.SensorDefinition:
    """One run that asks for missing candles just where they are missing, so many a tick."""

    @dg.sensor(
        name=f"{market.name}_repair",
        job_name=refresh_job_name(market),
        minimum_interval_seconds=SECONDS_BETWEEN_REPAIRS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Asks for missing candles of {market.name}; ever more rarely where its source has none.",
    )
    def repair(context: dg.SensorEvaluationContext, warehouse: Warehouse) -> dg.RunRequest | dg.SkipReason:
        if going := going_runs(context.instance, refresh_job_name(market)):
            return dg.SkipReason(f"a run is going: {going[0].run_id}")
        now = datetime.now(UTC)
        # Series that failed have a sensor of their own, which waits between its attempts.
        failed = {each.series for each in warehouse.failed(market)}
        return repair_request(market, [gap for gap in warehouse.gaps(market, now) if gap.series not in failed], now)

    return repair


def repair_request(market: Market, gaps: Sequence[Gap], now: datetime) -> dg.RunRequest | dg.SkipReason:
    """The run that asks for missing candles, or why there is none."""
    known = [gap for gap in gaps if gap.series in set(market.series) and gap.place is not Place.end]
    plan = planned(market, due(known, now))
    if plan:
        return dg.RunRequest(
            tags=dict(range_tags(market, [s.instrument for s in plan], [s.timeframe for s in plan])),
            run_config=asking(list(plan), stretches=[f"{s.key} {a}Z {b}Z" for s, (a, b) in plan.items()]),
        )
    if not known:
        return dg.SkipReason(f"no candles of {market.name} are missing")
    soonest = min(gap.due_at for gap in known if gap.due_at)
    return dg.SkipReason(
        f"{len(known)} gaps that the source has nothing for; asked again at {soonest:%Y-%m-%d %H:%M} UTC"
    )


def asking(series: Sequence[Series], **more: object) -> dict[str, object]:
    """A run's config that narrows it to these series."""
    return {"resources": {"asked": {"config": {"series": [each.key for each in series], **more}}}}


def request_for(market: Market, failed: Sequence[FailedSeries], now: datetime) -> dg.RunRequest | dg.SkipReason:
    """The run that asks again, or why there is none."""
    if not failed:
        return dg.SkipReason(f"no series of {market.name} has failed")
    due = [each for each in failed if each.at + wait_after(each.failures) <= now]
    if not due:
        soonest = min(each.at + wait_after(each.failures) for each in failed)
        return dg.SkipReason(f"{len(failed)} series failed; the next is asked for again at {soonest:%H:%M:%S} UTC")
    series = [each.series for each in due]
    return dg.RunRequest(
        tags=dict(range_tags(market, [s.instrument for s in series], [s.timeframe for s in series])),
        run_config=asking(series),
    )


def wait_after(failures: int) -> timedelta:
    """How long to leave a series alone after so many failures in a row.

    >>> [wait_after(failures) for failures in (1, 2, 20)]
    [datetime.timedelta(seconds=60), datetime.timedelta(seconds=120), datetime.timedelta(seconds=3600)]
    """
    return min(FIRST_WAIT * 2 ** min(failures - 1, 10), LONGEST_WAIT)
