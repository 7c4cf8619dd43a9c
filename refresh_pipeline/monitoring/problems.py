"""What is wrong now: stale series, errors, failed uploads, full disks, calendars that end; and the periodic report.

Failed runs are handed in by `orchestration.failed_runs`: this room knows no Dagster. When an alert is due is decided in
`notification_policy`; `notify` sends it.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from refresh_pipeline.api_files import load_usable, overrides
from refresh_pipeline.market.apis import AFTER_FAILURES, Collection, Override
from refresh_pipeline.market.candles import instant
from refresh_pipeline.market.freshness import behind
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.polling import base_interval
from refresh_pipeline.monitoring.notification_policy import MACHINE, Period, Problem, shortened
from refresh_pipeline.operations.backup_retention import backup_faults
from refresh_pipeline.operations.missing_warehouse import why_missing
from refresh_pipeline.pipeline.api_snapshots import stale_apis
from refresh_pipeline.settings import Settings
from refresh_pipeline.warehouse import snapshots
from refresh_pipeline.warehouse.connection import WarehouseBusy, WarehouseUnreadable, place_of
from refresh_pipeline.warehouse.outcomes import Outcome
from refresh_pipeline.warehouse.queries import Activity, SeriesReport
from refresh_pipeline.warehouse.schema import Table

if TYPE_CHECKING:  # the API asks for problems, and writes nothing
    from refresh_pipeline.warehouse.warehouse import Warehouse

# The share of a market's series that may fail at their last attempt without an alert.
ERROR_RATE = 0.05
# Added to the delay that `every_series_is_fresh` allows: a check may be red for a moment, an alert needs more.
LATENESS = timedelta(minutes=3)
# A backup takes as much room as the warehouse, and so does its compaction; no machine is well with less than this.
LEAST_FREE = 1024**3
# Seconds to wait for the warehouse's lock; a process that holds it for longer is a problem of its own.
PATIENCE = 10.0
# A little more than the hour between two reconciliations of a live market.
RECONCILED = timedelta(minutes=65)
COMPUTED_TABLES = (Table.enhanced_candles, Table.indicators, Table.exports)


@dataclass(frozen=True, slots=True)
class RunHistory:
    """Runs of jobs, as far as alerts need them.

    `problems` names each job whose newest run failed; `count_failed` gives the number of runs that failed since an
    instant.
    """

    problems: Sequence[Problem]
    count_failed: Callable[[datetime], int]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All problems at an instant; the markets named in `unchecked` could not be looked at."""

    problems: Sequence[Problem]
    unchecked: frozenset[str] = frozenset()


def snapshot(settings: Settings, markets: Sequence[Market], runs: RunHistory, now: datetime) -> Snapshot:
    """The problems of runs, disks, calendars and series as of `now`."""
    from refresh_pipeline.warehouse.warehouse import Warehouse  # noqa: PLC0415 (see above)

    warehouse = Warehouse(database=settings.warehouse, patience=PATIENCE)
    problems = [
        *runs.problems,
        *full_disks(settings),
        *missing_warehouse(settings),
        *faulty_backups(settings, now),
        *ending_calendars(markets, now),
        *broken_markets(settings, markets),
        *broken_collections(settings),
    ]
    try:
        for market in markets:
            problems += series_problems(market, warehouse.series_status(market), now)
            problems += streamed_otherwise(market, warehouse, now)
        problems += stored_collection_problems(settings, warehouse, now)
    except (WarehouseBusy, WarehouseUnreadable) as error:
        unreadable = Problem(scope=MACHINE, kind="the warehouse cannot be read", text=str(error))
        return Snapshot([*problems, unreadable], frozenset(market.name for market in markets))
    return Snapshot(problems)


def broken_markets(settings: Settings, markets: Sequence[Market]) -> Iterator[Problem]:
    """The enabled markets that are not refreshed, because their YAML is wrong."""
    # It knows every source and every export.
    from refresh_pipeline.pipeline.market_validation import left_out  # noqa: PLC0415

    for name, fault in left_out(settings, markets).items():
        yield Problem(scope=name, kind="not refreshed, its YAML is wrong", text=shortened(fault))


def broken_collections(settings: Settings) -> Iterator[Problem]:
    """The enabled collections of APIs that are not asked, because their YAML is wrong."""
    for name, fault in load_usable(settings)[1].items():
        yield Problem(scope=name, kind="not asked, its YAML is wrong", text=shortened(str(fault)))


def stored_collection_problems(settings: Settings, warehouse: "Warehouse", now: datetime) -> list[Problem]:
    """The problems of the enabled collections of APIs, as the warehouse has them."""
    collections = load_usable(settings)[0]
    if not collections or not warehouse.exists:
        return []
    with warehouse.reader() as connection:
        return [
            problem
            for collection in collections
            for problem in collection_problems(connection, collection, now, overrides(settings, collection.name))
        ]


def collection_problems(
    connection: duckdb.DuckDBPyConnection, collection: Collection, now: datetime, changed: Mapping[str, Override]
) -> list[Problem]:
    """The APIs that were not answered for three intervals, and those that fail; none before the first attempt."""
    if not snapshots.has_tables(connection, collection.name):
        return []
    statuses = snapshots.statuses(connection, collection.name)
    stale = {api: text for api, text in stale_apis(connection, collection, now, changed).items() if api in statuses}
    if len(stale) == len(statuses) > 1:
        text = f"none of its {len(stale)} APIs is current; {shortened(next(iter(stale.values())))}"
        return [Problem(scope=collection.name, kind="stale APIs", text=text)]
    failing = {
        api: f"{status.failures} failures in a row; {status.reason or 'failed'}"
        for api, status in statuses.items()
        if status.failures >= AFTER_FAILURES and api not in stale
    }
    return [
        Problem(scope=collection.name, kind=kind, item=api, text=shortened(text))
        for kind, faults in (("stale API", stale), ("API failing", failing))
        for api, text in faults.items()
    ]


def faulty_backups(settings: Settings, now: datetime) -> Iterator[Problem]:
    """What is wrong with the backups: the last attempt failed, the newest copy is damaged or older than a day."""
    for item, sentence in backup_faults(settings, now):
        yield Problem(scope=MACHINE, kind="backup", item=item, text=shortened(sentence))


def missing_warehouse(settings: Settings) -> Iterator[Problem]:
    """A warehouse that was there and is not: unmounted, deleted, or another path."""
    if sentence := why_missing(settings):
        yield Problem(scope=MACHINE, kind="the warehouse is missing", text=shortened(sentence))


def full_disks(settings: Settings) -> Iterator[Problem]:
    """The disks that hold data and have too little free space."""
    place = place_of(settings.warehouse)
    wanted = max(LEAST_FREE, place.bytes if place.folder else 0)
    seen: set[int] = set()
    for folder in map(_existing, (settings.data, *([place.folder] if place.folder else []))):
        device = folder.stat().st_dev
        usage = shutil.disk_usage(folder)
        if device not in seen and usage.free < wanted:
            text = (
                f"{usage.free:,} of {usage.total:,} bytes are free, wanted at least {wanted:,}: free space, or move "
                "REFRESH_DATA_DIR to a larger disk"
            )
            yield Problem(scope=MACHINE, kind="disk nearly full", item=str(folder), text=text)
        seen.add(device)


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.exists())


def ending_calendars(markets: Sequence[Market], now: datetime) -> Iterator[Problem]:
    """The markets whose calendar ends soon or has ended."""
    for market in markets:
        if warning := market.calendar.warning(instant(now)):
            yield Problem(scope=market.name, kind="calendar ends", text=warning)


def series_problems(market: Market, reports: Sequence[SeriesReport], now: datetime) -> list[Problem]:
    """The problems of a market's series; a series that was never attempted has none."""
    attempted = [report for report in reports if report.attempted_at is not None]
    return [
        *error_rate(market, attempted),
        *rejections(market, attempted),
        *failed_uploads(market, attempted),
        *stale(market, attempted, now),
    ]


def streamed_otherwise(market: Market, warehouse: "Warehouse", now: datetime) -> Iterator[Problem]:
    """A problem where the venue's REST corrected candles of a live market since its last reconciliation."""
    if market.live is None or not warehouse.exists:
        return
    revised = warehouse.activity(market, now - RECONCILED, now).revised
    if revised:
        text = f"{revised} candles of the last hour differ from what was streamed and were corrected by a refresh"
        yield Problem(scope=market.name, kind="streamed candles were corrected", text=text)


def rejections(market: Market, attempted: Sequence[SeriesReport]) -> Iterator[Problem]:
    """A problem where candles were rejected and no valid one has come in their place."""
    if of_series := [report for report in attempted if report.rejections]:
        first = of_series[0]
        text = f"candles of {len(of_series)} series were rejected; {first.series}: {first.rejections}"
        yield Problem(scope=market.name, kind="rejected candles", text=shortened(text))


def stale(market: Market, attempted: Sequence[SeriesReport], now: datetime) -> list[Problem]:
    """The series whose newest candle has been overdue for longer than a refresh takes; the market if all are."""
    slack = LATENESS + base_interval(market) * max(market.off_peak - 1, 0)
    late = behind(market, attempted, now - slack)
    if late and len(late) == len(attempted) > 1:
        newest = max((report.last_open_time for report in late if report.last_open_time is not None), default=None)
        text = f"none of its {len(attempted)} series is current; the newest candle is {_minute(newest)}"
        return [Problem(scope=market.name, kind="stale market", text=text)]
    return [
        Problem(
            scope=market.name,
            kind="stale",
            item=f"{report.series.instrument} {report.series.timeframe}",
            text=f"newest candle: {_minute(report.last_open_time)} ({report.reason or report.outcome})",
        )
        for report in late
    ]


def _minute(time: object) -> str:
    return "none" if time is None else str(time)[:16].replace("T", " ")


def error_rate(market: Market, attempted: Sequence[SeriesReport]) -> Iterator[Problem]:
    """A problem where more than ERROR_RATE of the series failed to be fetched or computed at their last attempt."""
    reasons = [reason for report in attempted if (reason := _failure(report))]
    if attempted and len(reasons) / len(attempted) > ERROR_RATE:
        share = len(reasons) / len(attempted)
        text = f"{len(reasons)} of {len(attempted)} series failed ({share:.0%}); {shortened(reasons[0])}"
        yield Problem(scope=market.name, kind="errors", text=text)


def _failure(report: SeriesReport) -> str | None:
    if report.outcome == Outcome.failed:
        return report.reason or "failed"
    return next((reason for asset, reason in report.failed.items() if asset in COMPUTED_TABLES), None)


def failed_uploads(market: Market, attempted: Sequence[SeriesReport]) -> Iterator[Problem]:
    """The destinations that did not receive every file or candle at the last attempt."""
    failed: dict[str, list[str]] = {}
    for report in attempted:
        for asset, reason in report.failed.items():
            if asset not in COMPUTED_TABLES:
                failed.setdefault(asset, []).append(reason)
    for asset, reasons in failed.items():
        text = f"files or candles of {len(reasons)} series did not arrive; {shortened(reasons[0])}"
        yield Problem(scope=market.name, kind="upload failing", item=asset, text=text)


# ---- reports


def report(settings: Settings, markets: Sequence[Market], runs: RunHistory, period: Period, now: datetime) -> str:
    """The work of a period that ends now, and the state of each market.

    Raises:
        WarehouseBusy: another process holds the warehouse.
        WarehouseUnreadable: the warehouse cannot be opened.
    """
    from refresh_pipeline.warehouse.warehouse import Warehouse  # noqa: PLC0415 (see above)

    warehouse = Warehouse(database=settings.warehouse, patience=PATIENCE)
    since = now - period.length
    lines = [f"{since:%Y-%m-%d %H:%M} to {now:%Y-%m-%d %H:%M} UTC; {runs.count_failed(since)} runs failed"]
    for market in markets:
        lines += _market_report(market, warehouse, since, now)
    return "\n".join(lines)


def _market_report(market: Market, warehouse: "Warehouse", since: datetime, now: datetime) -> Iterator[str]:
    reports = warehouse.series_status(market)
    activity = warehouse.activity(market, since, now) if reports else Activity()
    errors = sum(_failure(report) is not None for report in reports)
    yield f"{market.name}:"
    gaps = warehouse.gaps(market, now)
    yield f"  series current: {_current(market, reports, now)}"
    yield f"  candles added: {activity.added:,}"
    yield f"  revisions: {activity.revised:,}"
    yield f"  rejected: {activity.rejected:,} candles"
    yield f"  gaps: {len(gaps)} ({sum(gap.candles for gap in gaps):,} candles)"
    yield f"  errors: {errors} series failed at their last attempt"
    yield f"  uploads: {activity.uploads:,} files, {activity.bytes:,} bytes"


def _current(market: Market, reports: Sequence[SeriesReport], now: datetime) -> str:
    if not market.calendar.knows(instant(now)):
        return "unknown, the calendar has ended"
    return f"{len(market.series) - len(behind(market, reports, now)) if reports else 0} of {len(market.series)}"
