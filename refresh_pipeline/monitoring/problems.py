"""What is wrong now, in the warehouse, in Dagster's runs and on the disk; and what was done lately, for reports.

Nothing is sent from here, and nothing remembered: see `alerts` and `market.alerts`.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
from dagster import DagsterEventType, DagsterRunStatus, RunsFilter

from refresh_pipeline.market.calendars.base import CalendarEnds
from refresh_pipeline.market.candles import instant
from refresh_pipeline.market.freshness import latest_due
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.polling import base_interval
from refresh_pipeline.monitoring.notification_policy import Period, Problem
from refresh_pipeline.pipeline.job_names import (
    BACKUP,
    MAINTENANCE,
    backfill_job_name,
    publish_job_name,
    refresh_job_name,
)
from refresh_pipeline.settings import Settings
from refresh_pipeline.warehouse.connection import WarehouseBusy, WarehouseUnreadable
from refresh_pipeline.warehouse.outcomes import Outcome
from refresh_pipeline.warehouse.queries import Activity, SeriesReport
from refresh_pipeline.warehouse.schema import Table
from refresh_pipeline.warehouse.warehouse import Warehouse

# Above which share of a market's series that failed at their last attempt people are told.
ERROR_RATE = 0.05
# Beyond the grace of `every_series_is_fresh`: a check may be red for a moment, people are told of what stays.
LATENESS = timedelta(minutes=3)
# A backup takes as much room as the warehouse, and so does writing it anew; below this no machine is well.
LEAST_FREE = 1024**3
# Seconds to wait for the warehouse; whoever holds it for longer is a trouble of its own.
PATIENCE = 10.0
MADE_HERE = (Table.enhanced_candles, Table.indicators, Table.exports)
MACHINE = "machine"
# What is materialized by hand, in the web UI.
BY_HAND = "__ASSET_JOB"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that is wrong at an instant; of the `unseen` (markets) nothing could be said."""

    troubles: Sequence[Problem]
    unseen: frozenset[str] = frozenset()


def snapshot(settings: Settings, markets: Sequence[Market], instance: dg.DagsterInstance, now: datetime) -> Snapshot:
    """What is wrong now."""
    warehouse = Warehouse(database=str(settings.database), patience=PATIENCE)
    troubles = [*failed_runs(instance, markets), *full_disks(settings), *ending_calendars(markets, now)]
    try:
        for market in markets:
            troubles += of_series(market, warehouse.series_status(market), now)
    except (WarehouseBusy, WarehouseUnreadable) as error:
        unread = Problem(whose=MACHINE, kind="the warehouse cannot be read", text=str(error))
        return Snapshot([*troubles, unread], frozenset(each.name for each in markets))
    return Snapshot(troubles)


def failed_runs(instance: dg.DagsterInstance, markets: Sequence[Market]) -> Iterator[Problem]:
    """The jobs whose newest finished run failed."""
    jobs = {
        name(market): market.name
        for market in markets
        for name in (refresh_job_name, publish_job_name, backfill_job_name)
    }
    for job, whose in {**jobs, BACKUP: MACHINE, MAINTENANCE: MACHINE, BY_HAND: MACHINE}.items():
        filters = RunsFilter(job_name=job, statuses=[DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE])
        for record in instance.get_run_records(filters, limit=1):
            if record.dagster_run.status is DagsterRunStatus.FAILURE:
                ended = datetime.fromtimestamp(record.end_time or record.update_timestamp.timestamp(), UTC)
                text = f"{ended:%Y-%m-%d %H:%M} UTC, run {record.dagster_run.run_id}: {_why(instance, record)}"
                yield Problem(whose=whose, kind="failed run", which=job, text=text)


def _why(instance: dg.DagsterInstance, record: dg.RunRecord) -> str:
    for kind in (DagsterEventType.STEP_FAILURE, DagsterEventType.RUN_FAILURE):
        for found in instance.get_records_for_run(record.dagster_run.run_id, of_type=kind, limit=1).records:
            event = found.event_log_entry.dagster_event
            if event is None:
                continue
            if not event.is_step_failure:
                return _short(event.message or "")
            failure = event.step_failure_data
            said = failure.user_failure_data.description if failure.user_failure_data else None
            return _short(f"{event.step_key}: {said or (failure.error.message if failure.error else '')}")
    return "it does not say why"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 300 else f"{line[:297]}..."


def full_disks(settings: Settings) -> Iterator[Problem]:
    """The disks, of those that hold data, that have too little room left."""
    warehouse = settings.database.stat().st_size if settings.database.exists() else 0
    wanted = max(LEAST_FREE, warehouse)
    seen: set[int] = set()
    for folder in (_existing(settings.data), _existing(settings.database.parent)):
        device = folder.stat().st_dev
        usage = shutil.disk_usage(folder)
        if device not in seen and usage.free < wanted:
            text = (
                f"{usage.free:,} of {usage.total:,} bytes are free, wanted at least {wanted:,}: make room, or move "
                "REFRESH_DATA_DIR to a larger disk"
            )
            yield Problem(whose=MACHINE, kind="disk nearly full", which=str(folder), text=text)
        seen.add(device)


def _existing(folder: Path) -> Path:
    return next(each for each in (folder, *folder.parents) if each.exists())


def ending_calendars(markets: Sequence[Market], now: datetime) -> Iterator[Problem]:
    """The markets of whose sessions nothing will be known soon."""
    for market in markets:
        if warning := market.calendar.warning(instant(now)):
            yield Problem(whose=market.name, kind="calendar ends", text=warning)


def of_series(market: Market, standing: Sequence[SeriesReport], now: datetime) -> list[Problem]:
    """What is wrong with a market's series as they stand."""
    asked = [each for each in standing if each.attempted_at is not None]
    troubles = [*error_rate(market, asked), *failed_uploads(market, asked)]
    # Of a calendar that has ended people are told by itself; what would be stale past it nobody knows.
    with suppress(CalendarEnds):
        troubles += stale(market, asked, now)
    return troubles


def stale(market: Market, asked: Sequence[SeriesReport], now: datetime) -> list[Problem]:
    """The series that are behind for longer than a refresh takes; if all of them are, the market."""
    slack = LATENESS + base_interval(market) * max(market.off_peak - 1, 0)
    late = _behind(market, asked, now - slack)
    if late and len(late) == len(asked) > 1:
        newest = max((each.last_open_time for each in late if each.last_open_time is not None), default=None)
        text = f"none of its {len(asked)} series is current; the newest candle is {_told(newest)}"
        return [Problem(whose=market.name, kind="stale market", text=text)]
    return [
        Problem(
            whose=market.name,
            kind="stale",
            which=f"{each.series.instrument} {each.series.timeframe}",
            text=f"newest candle: {_told(each.last_open_time)} ({each.reason or each.outcome})",
        )
        for each in late
    ]


def _behind(market: Market, reports: Sequence[SeriesReport], now: datetime) -> list[SeriesReport]:
    expected = latest_due(market, now)
    return [r for r in reports if r.last_open_time is None or r.last_open_time < expected[r.series]]


def _told(time: object) -> str:
    return "none" if time is None else str(time)[:16].replace("T", " ")


def error_rate(market: Market, asked: Sequence[SeriesReport]) -> Iterator[Problem]:
    """Whether too many series could not be fetched or computed at their last attempt."""
    reasons = [reason for each in asked if (reason := _failure(each))]
    if asked and len(reasons) / len(asked) > ERROR_RATE:
        text = f"{len(reasons)} of {len(asked)} series ({len(reasons) / len(asked):.0%}); {_short(reasons[0])}"
        yield Problem(whose=market.name, kind="errors", text=text)


def _failure(report: SeriesReport) -> str | None:
    if report.outcome == Outcome.failed:
        return report.reason or "failed"
    return next((reason for asset, reason in report.failed.items() if asset in MADE_HERE), None)


def failed_uploads(market: Market, asked: Sequence[SeriesReport]) -> Iterator[Problem]:
    """The destinations to which something did not get at the last attempt."""
    failed: dict[str, list[str]] = {}
    for each in asked:
        for asset, reason in each.failed.items():
            if asset not in MADE_HERE:
                failed.setdefault(asset, []).append(reason)
    for asset, reasons in failed.items():
        text = f"files or candles of {len(reasons)} series did not get there; {_short(reasons[0])}"
        yield Problem(whose=market.name, kind="upload failing", which=asset, text=text)


# ---- reports


def report(
    settings: Settings, markets: Sequence[Market], instance: dg.DagsterInstance, period: Period, now: datetime
) -> str:
    """What was done in a period that ends now, and how things stand, market by market.

    Raises:
        WarehouseBusy: somebody holds the warehouse.
        WarehouseUnreadable: nobody can open it.
    """
    warehouse = Warehouse(database=str(settings.database), patience=PATIENCE)
    since = now - period.length
    failed = RunsFilter(statuses=[DagsterRunStatus.FAILURE], created_after=since)
    lines = [f"{since:%Y-%m-%d %H:%M} to {now:%Y-%m-%d %H:%M} UTC; {instance.get_runs_count(failed)} runs failed"]
    for market in markets:
        lines += _market_report(market, warehouse, since, now)
    return "\n".join(lines)


def _market_report(market: Market, warehouse: Warehouse, since: datetime, now: datetime) -> Iterator[str]:
    standing = warehouse.series_status(market)
    done = warehouse.activity(market, since, now) if standing else Activity()
    errors = sum(_failure(each) is not None for each in standing)
    yield f"{market.name}:"
    try:
        current = str(len(market.series) - len(_behind(market, standing, now))) if standing else "0"
        gaps = warehouse.gaps(market, now)
        missing = f"{len(gaps)} ({sum(gap.candles for gap in gaps):,} candles)"
    except CalendarEnds:
        current = missing = "not known, its calendar has ended"
    yield f"  series current: {current} of {len(market.series)}"
    yield f"  candles added: {done.added:,}"
    yield f"  revisions: {done.revised:,}"
    yield f"  gaps: {missing}"
    yield f"  errors: {errors} series failed at their last attempt"
    yield f"  uploads: {done.uploads:,} files, {done.bytes:,} bytes"
