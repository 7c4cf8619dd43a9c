"""Sensors: retry refreshes failed and overdue series again, repair fetches missing candles within a budget.

A market in chunks has a third one: it runs the checks of candles once all chunks of a tick have finished.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg
import numpy as np

from refresh_pipeline.market.freshness import behind
from refresh_pipeline.market.gaps import Gap, Place, due, planned
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.partition_ranges import range_tags
from refresh_pipeline.market.series import Series
from refresh_pipeline.orchestration.resources import WarehouseParam
from refresh_pipeline.orchestration.run_options import KEY
from refresh_pipeline.orchestration.schedules import CHUNKS_TAG, TICK_TAG, tick_runs
from refresh_pipeline.orchestration.skips import Answer, still_running
from refresh_pipeline.pipeline.job_names import candle_check_job_name, refresh_job_name
from refresh_pipeline.warehouse.queries import FailedSeries, SeriesReport
from refresh_pipeline.warehouse.warehouse import Warehouse

FIRST_WAIT = timedelta(minutes=1)
LONGEST_WAIT = timedelta(hours=1)
SECONDS_BETWEEN_LOOKS = 30
SECONDS_BETWEEN_REPAIRS = 300
SECONDS_BETWEEN_CHECKS = 15


def retry_sensor(market: Market) -> dg.SensorDefinition:
    """Request a run of the failed and overdue series whose wait is over."""

    def evaluate(warehouse: Warehouse, now: datetime) -> Answer:
        return retry_request(
            market, warehouse.failed(market), now, overdue(market, warehouse.series_status(market), now)
        )

    description = f"Refreshes failed and overdue series of {market.name} again, with growing intervals."
    return _sensor(market, "retry", SECONDS_BETWEEN_LOOKS, description, evaluate)


def repair_sensor(market: Market) -> dg.SensorDefinition:
    """Request a run that fetches missing candles, a limited number at a time."""

    def evaluate(warehouse: Warehouse, now: datetime) -> Answer:
        # Failed series belong to the retry sensor, which waits between its attempts.
        failed = {failure.series for failure in warehouse.failed(market)}
        return repair_request(market, [gap for gap in warehouse.gaps(market, now) if gap.series not in failed], now)

    description = f"Fetches missing candles of {market.name}; with growing intervals where the source has none."
    return _sensor(market, "repair", SECONDS_BETWEEN_REPAIRS, description, evaluate)


def _sensor(
    market: Market, name: str, seconds: int, description: str, evaluate: Callable[[Warehouse, datetime], Answer]
) -> dg.SensorDefinition:
    """A sensor that starts refreshes of the market, none while another is in progress."""

    @dg.sensor(
        name=f"{market.name}_{name}",
        job_name=refresh_job_name(market),
        minimum_interval_seconds=seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=description,
    )
    def sensor(context: dg.SensorEvaluationContext, warehouse: WarehouseParam) -> dg.RunRequest | dg.SkipReason:
        return still_running(context.instance, refresh_job_name(market)) or evaluate(warehouse, datetime.now(UTC))

    return sensor


def checks_sensor(market: Market) -> dg.SensorDefinition:
    """Request one run of the checks of candles after each tick of a market in chunks."""

    @dg.sensor(
        name=candle_check_job_name(market),
        job_name=candle_check_job_name(market),
        minimum_interval_seconds=SECONDS_BETWEEN_CHECKS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Runs the checks of {market.name}'s candles once all chunks of a tick have finished.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        return still_running(context.instance, candle_check_job_name(market)) or checks_request(
            context.instance, market
        )

    return sensor


def checks_request(instance: dg.DagsterInstance, market: Market) -> dg.RunRequest | dg.SkipReason:
    """The run of checks after the newest tick, or the reason for none; Dagster starts one run for each run key."""
    runs = tick_runs(instance, market)
    if not runs:
        return dg.SkipReason(f"no tick has refreshed {market.name} yet")
    tick, chunks = runs[0].tags[TICK_TAG], int(runs[0].tags.get(CHUNKS_TAG, 1))
    finished = sum(run.is_finished for run in runs if run.tags[TICK_TAG] == tick)
    if finished < chunks:
        return dg.SkipReason(f"{finished} of {chunks} chunks of the tick {tick} have finished")
    return dg.RunRequest(run_key=tick)


def repair_request(market: Market, gaps: Sequence[Gap], now: datetime) -> dg.RunRequest | dg.SkipReason:
    """The run that fetches missing candles, or the reason for none."""
    known = [gap for gap in gaps if gap.series in set(market.series) and gap.place is not Place.end]
    plan = planned(market, due(known, now))
    if plan:
        return dg.RunRequest(
            tags=dict(range_tags(market, [s.instrument for s in plan], [s.timeframe for s in plan])),
            run_config=narrowed(list(plan), ranges=[f"{s.key} {a}Z {b}Z" for s, (a, b) in plan.items()]),
        )
    if not known:
        return dg.SkipReason(f"no candles of {market.name} are missing")
    soonest = min(gap.due_at for gap in known if gap.due_at)
    return dg.SkipReason(
        f"gaps without candles at the source: {len(known)}; the next attempt is at {soonest:%Y-%m-%d %H:%M} UTC"
    )


def narrowed(series: Sequence[Series], **options: object) -> dict[str, object]:
    """The run config that narrows a run to these series."""
    return {"resources": {KEY: {"config": {"series": [member.key for member in series], **options}}}}


def retry_request(
    market: Market, failed: Sequence[FailedSeries], now: datetime, late: Mapping[Series, datetime] | None = None
) -> dg.RunRequest | dg.SkipReason:
    """The run that refreshes series again, or the reason for none; `late` holds the next attempt of overdue series."""
    # An attempt of the future is from a clock that was ahead.
    waiting = {failure.series: failure.at + wait_after(failure.failures) for failure in failed if failure.at <= now}
    again = {**(late or {}), **{failure.series: waiting.get(failure.series, now) for failure in failed}}
    if not again:
        return dg.SkipReason(f"no series of {market.name} has failed or is overdue")
    series = [member for member, at in again.items() if at <= now]
    if not series:
        causes = [f"{len(failed)} series failed"] if failed else []
        causes += [f"{len(again) - len(failed)} overdue"] if len(again) > len(failed) else []
        soonest = min(again.values())
        return dg.SkipReason(f"{', '.join(causes)}; the next attempt is at {soonest:%H:%M:%S} UTC")
    return dg.RunRequest(
        tags=dict(range_tags(market, [s.instrument for s in series], [s.timeframe for s in series])),
        run_config=narrowed(series),
    )


def overdue(market: Market, reports: Sequence[SeriesReport], now: datetime) -> dict[Series, datetime]:
    """The series whose newest candle is older than it should be, and when to ask for each again.

    The longer its next candle has been due, the longer the wait: a venue that is late is asked soon, and a series that
    ended long ago once an hour. A series that is new in the YAML was never asked for: it is asked for at once.
    """
    late = behind(market, reports, now)
    again = {report.series: _again(market, report, now) for report in late}
    # An instant later than the longest wait is from a clock that was ahead.
    return {series: at if at <= now + LONGEST_WAIT else now for series, at in again.items()}


def _again(market: Market, report: SeriesReport, now: datetime) -> datetime:
    if report.attempted_at is None:
        return now
    attempted = report.attempted_at.astype(datetime).replace(tzinfo=UTC)
    if report.last_open_time is None:
        return attempted + LONGEST_WAIT
    calendar, timeframe = market.calendar_of(report.series.instrument), report.series.timeframe
    closed = calendar.closes(timeframe, np.array([report.last_open_time]))[0]
    late = attempted - calendar.next_close(timeframe, closed).astype(datetime).replace(tzinfo=UTC)
    return attempted + min(max(late, FIRST_WAIT), LONGEST_WAIT)


def wait_after(failures: int) -> timedelta:
    """How long to leave a series alone after so many failures in a row.

    >>> [wait_after(failures) for failures in (1, 2, 20)]
    [datetime.timedelta(seconds=60), datetime.timedelta(seconds=120), datetime.timedelta(seconds=3600)]
    """
    return min(FIRST_WAIT * 2 ** min(failures - 1, 10), LONGEST_WAIT)
