"""Retry: asks again for the series that failed, and only for those, ever more rarely."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg

from refresh_pipeline.instance.orphans import going_runs
from refresh_pipeline.market.model import Market
from refresh_pipeline.partitions import range_tags
from refresh_pipeline.schedules import refresh_job_name
from refresh_pipeline.warehouse.reports import FailedSeries
from refresh_pipeline.warehouse.warehouse import Warehouse

FIRST_WAIT = timedelta(minutes=1)
LONGEST_WAIT = timedelta(hours=1)
SECONDS_BETWEEN_LOOKS = 30


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
        run_config={"resources": {"asked": {"config": {"series": [s.key for s in series]}}}},
    )


def wait_after(failures: int) -> timedelta:
    """How long to leave a series alone after so many failures in a row.

    >>> [wait_after(failures) for failures in (1, 2, 20)]
    [datetime.timedelta(seconds=60), datetime.timedelta(seconds=120), datetime.timedelta(seconds=3600)]
    """
    return min(FIRST_WAIT * 2 ** min(failures - 1, 10), LONGEST_WAIT)
