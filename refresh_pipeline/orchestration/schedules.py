"""The schedules of a market: refresh requests one wide run of the timeframes that closed, publish its files.

With `chunks` in the market's YAML, a tick requests several runs, each of a range of instruments.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import dagster as dg
import numpy as np
from dagster import DagsterRunStatus, RunsFilter

from refresh_pipeline.instance.orphaned_runs import going_runs
from refresh_pipeline.market.calendars.base import Calendar
from refresh_pipeline.market.candles import instant
from refresh_pipeline.market.model import PUBLISH_CRONS, Market
from refresh_pipeline.market.partition_ranges import range_tags
from refresh_pipeline.market.polling import Pace, pace
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.orchestration.partitions import whole
from refresh_pipeline.orchestration.resources import WarehouseParam
from refresh_pipeline.orchestration.skips import Answer, still_running
from refresh_pipeline.pipeline.job_names import live_job_name, publish_job_name, refresh_job_name
from refresh_pipeline.warehouse.connection import WarehouseBusy, WarehouseUnreadable
from refresh_pipeline.warehouse.outcomes import Outcome
from refresh_pipeline.warehouse.queries import SeriesReport
from refresh_pipeline.warehouse.warehouse import Warehouse

# The due time of a tick's run: once it has succeeded, the next tick requests everything that has closed since.
# Dagster's pages hide tags that begin with .dagster/.
TICK_TAG = ".dagster/refresh_tick"
# How many runs a tick asked for; it has succeeded once all of them have.
CHUNKS_TAG = ".dagster/refresh_chunks"
# How often a refresh compares a live market with the venue.
RECONCILED_EVERY = timedelta(hours=1)
# Seconds that a tick waits for the warehouse's lock.
PATIENCE = 5.0
# Among so many of the newest runs one is looked for whose tick does not lie in the future.
RUNS_LOOKED_AT = 20


def market_schedules(market: Market) -> list[dg.ScheduleDefinition]:
    """The refresh at the cadence of the shortest timeframe, and the publishing at the interval of the market's YAML."""
    return [refresh_schedule(market), publish_schedule(market)]


def refresh_schedule(market: Market) -> dg.ScheduleDefinition:
    """Request one wide run, or one a chunk, of the timeframes that closed since the last successful tick."""

    @dg.schedule(
        name=refresh_job_name(market),
        job_name=refresh_job_name(market),
        cron_schedule=cron(market.calendar, min(market.timeframes)),
        execution_timezone=market.calendar.zone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"Refreshes the timeframes of {market.name} that have closed, in one run.",
    )
    def tick(
        context: dg.ScheduleEvaluationContext, warehouse: WarehouseParam
    ) -> list[dg.RunRequest] | dg.RunRequest | dg.SkipReason:
        now = context.scheduled_execution_time
        if skip := still_running(context.instance, refresh_job_name(market)):
            return skip
        previous = previous_tick(context.instance, market, now)
        if skip := left_to_live_run(context.instance, market, previous, now):
            return skip
        request = tick_request(market, previous, now)
        if isinstance(request, dg.SkipReason):
            return request
        waiting = current_pace(market, warehouse, now).wait(last_tick(context.instance, market, now=now), now)
        if waiting:
            return dg.SkipReason(f"{market.name} is refreshed {waiting}")
        return in_chunks(market, request, due_timeframes(market, previous, now)) if market.chunks else request

    return tick


def left_to_live_run(
    instance: dg.DagsterInstance, market: Market, previous: datetime | None, now: datetime
) -> dg.SkipReason | None:
    """Why a tick of a live market refreshes nothing: its live run does, and a refresh reconciles it once an hour."""
    if market.live is None or previous is None or now - previous >= RECONCILED_EVERY:
        return None
    runs = going_runs(instance, live_job_name(market))
    if not runs:
        return None
    at = f"{previous + RECONCILED_EVERY:%H:%M} UTC"
    return dg.SkipReason(f"{market.name} is live in run {runs[0].run_id}; the next reconciliation is at {at}")


def publish_schedule(market: Market) -> dg.ScheduleDefinition:
    """Export and upload every series that changed, as often as the market's YAML says."""

    @dg.schedule(
        name=publish_job_name(market),
        job_name=publish_job_name(market),
        cron_schedule=PUBLISH_CRONS[market.publish],
        execution_timezone=market.calendar.zone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"Writes and uploads the files of {market.name}'s series that changed.",
    )
    def tick(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        if skip := still_running(context.instance, publish_job_name(market)):
            return skip
        return dg.RunRequest(tags=dict(whole(market)))

    return tick


def utc_schedule(
    job: dg.JobDefinition, cron_schedule: str, description: str, evaluate: Callable[[datetime], Answer]
) -> dg.ScheduleDefinition:
    """A schedule named as its job, that starts no run while another is in progress; `evaluate` gets the tick's time.

    A reason of `evaluate` to skip comes first: it says what is missing, and needs no look at the runs.
    """

    @dg.schedule(
        name=job.name,
        job=job,
        cron_schedule=cron_schedule,
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=description,
    )
    def tick(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        answer = evaluate(context.scheduled_execution_time)
        return answer if isinstance(answer, dg.SkipReason) else still_running(context.instance, job.name) or answer

    return tick


def tick_request(market: Market, previous: datetime | None, now: datetime) -> dg.RunRequest | dg.SkipReason:
    """The run that a tick requests, given the last tick whose run succeeded."""
    due = due_timeframes(market, previous, now)
    if not due:
        return dg.SkipReason(f"no candle of {market.name} has closed since {previous:%Y-%m-%d %H:%M} UTC")
    tags = {**range_tags(market, list(market.instruments), due), TICK_TAG: now.astimezone(UTC).isoformat()}
    return dg.RunRequest(tags=tags)


def in_chunks(market: Market, request: dg.RunRequest, due: Sequence[Timeframe]) -> list[dg.RunRequest]:
    """The runs of a tick, each of a range of instruments; the run key keeps a tick from asking for one twice."""
    chunks = chunks_of(market, len(due))
    tick = request.tags[TICK_TAG]
    return [
        dg.RunRequest(
            run_key=f"{tick} {number}",
            tags={**request.tags, **range_tags(market, instruments, due), CHUNKS_TAG: str(len(chunks))},
        )
        for number, instruments in enumerate(chunks, start=1)
    ]


def chunks_of(market: Market, timeframes: int) -> list[list[str]]:
    """The instruments of each run of a tick: of equal size, and at most `chunks` series on so many timeframes.

    >>> from refresh_pipeline.market.model import parse_market
    >>> market = parse_market("{name: x, source: {kind: demo}, calendar: crypto, instruments: [A, B, C, D, E],"
    ...                       " timeframes: [m1, m5], history: 1d, chunks: 4}", file="x.yaml")
    >>> chunks_of(market, timeframes=1), chunks_of(market, timeframes=2)
    ([['A', 'B', 'C'], ['D', 'E']], [['A', 'B'], ['C', 'D'], ['E']])
    """
    instruments = list(market.instruments)
    most = max((market.chunks or len(market.series)) // timeframes, 1)
    size = math.ceil(len(instruments) / math.ceil(len(instruments) / most))
    return [instruments[start : start + size] for start in range(0, len(instruments), size)]


def tick_runs(
    instance: dg.DagsterInstance, market: Market, statuses: Sequence[DagsterRunStatus] = ()
) -> list[dg.DagsterRun]:
    """The newest runs that ticks have asked for, newest first."""
    name = refresh_job_name(market)
    filters = RunsFilter(job_name=name, tags={"dagster/schedule_name": name}, statuses=statuses)
    limit = RUNS_LOOKED_AT * len(chunks_of(market, len(market.timeframes)))
    return [run for run in instance.get_runs(filters, limit=limit) if TICK_TAG in run.tags]


def current_pace(market: Market, warehouse: Warehouse, now: datetime) -> Pace:
    """The pace of refreshes now: slower while many series fail, and off-peak where the YAML says so."""
    reports: list[SeriesReport] = []
    # A tick must be answered soon: while another process holds the warehouse, the usual pace applies.
    with suppress(WarehouseBusy, WarehouseUnreadable):
        reports = Warehouse(database=warehouse.database, patience=PATIENCE).series_status(market)
    outcomes = [report.outcome for report in reports if report.outcome is not None]
    return pace(market, outcomes.count(Outcome.failed), len(outcomes), now)


def due_timeframes(market: Market, previous: datetime | None, now: datetime) -> Sequence[Timeframe]:
    """The timeframes of which a candle closed after `previous`, up to `now`; all of them on the first tick."""
    if previous is None:
        return market.timeframes
    return [timeframe for timeframe in market.timeframes if _newest_close(market, timeframe, now) > instant(previous)]


def _newest_close(market: Market, timeframe: Timeframe, now: datetime) -> np.datetime64:
    newest = market.calendar.last_closed(timeframe, instant(now))
    return market.calendar.closes(timeframe, np.array([newest]))[0]


def previous_tick(instance: dg.DagsterInstance, market: Market, now: datetime | None = None) -> datetime | None:
    """When the newest run was due that a tick asked for and that succeeded; missed ticks so need no catching up."""
    # What a run that failed was asked for is asked for again, or a day's candles would wait for the next day.
    return last_tick(instance, market, [DagsterRunStatus.SUCCESS], now)


def last_tick(
    instance: dg.DagsterInstance,
    market: Market,
    statuses: Sequence[DagsterRunStatus] = (),
    now: datetime | None = None,
) -> datetime | None:
    """When the newest run was due that a tick asked for, whatever became of it, or one of these statuses.

    A tick later than `now` is from a clock that was ahead, and does not count. Nor does one with statuses of which only
    some chunks have one.
    """
    runs = tick_runs(instance, market, statuses)
    counts = Counter(run.tags[TICK_TAG] for run in runs)
    complete = [run for run in runs if not statuses or counts[run.tags[TICK_TAG]] >= int(run.tags.get(CHUNKS_TAG, 1))]
    ticks = [datetime.fromisoformat(run.tags[TICK_TAG]) for run in complete]
    return next((tick for tick in ticks if now is None or tick <= now), None)


def cron(calendar: Calendar, shortest: Timeframe) -> str:
    """Every time at which a bar of this timeframe may close: each hour for bars of an hour and longer.

    >>> from refresh_pipeline.market.calendars.registry import CALENDARS
    >>> cron(CALENDARS["crypto"], Timeframe.m5), cron(CALENDARS["nse"], Timeframe.H4)
    ('*/5 * * * *', '15,30 * * * *')
    """
    return f"{calendar.close_minutes(shortest)} * * * *"
