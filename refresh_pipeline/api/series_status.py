"""The status of every series of a market, its freshness as of now."""

from typing import Any

import numpy as np

from refresh_pipeline.api.service import Service
from refresh_pipeline.market.candles import TIME_UNIT, instant, iso_utc
from refresh_pipeline.market.freshness import behind
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.monitoring.status import rows_of
from refresh_pipeline.warehouse.outcomes import Outcome
from refresh_pipeline.warehouse.queries import SeriesReport
from refresh_pipeline.warehouse.schema import Table

# Words of a series' freshness; the worst come last.
FRESH, CLOSED, LATE, STALE, FAILED, NO_DATA, NEVER = "fresh", "closed", "late", "stale", "failed", "no_data", "never"
RAW = (Table.raw_candles,)


async def status_of(service: Service, market: Market) -> list[dict[str, Any]]:
    """The rows of `refresh status --json` of a market, with version, freshness and next close."""
    reports, coverage = await service.reports.of(service.reader, market)
    now = service.now()
    rows = rows_of(market, reports, coverage, now)
    stale = {report.series for report in behind(market, reports, now)}
    closes, open_instruments = _next_closes(market, instant(now)), _open_instruments(market, instant(now))
    for row, report in zip(rows, reports, strict=True):
        series = report.series
        row["version"] = service.feed.newest(market.name, series, RAW).number or None
        row["freshness"] = freshness(report, row["bars_behind"], series in stale, series.instrument in open_instruments)
        row["next_close"] = closes.get(series)
    return rows


def freshness(report: SeriesReport, bars_behind: int | None, is_stale: bool, is_open: bool) -> str:
    """One word on a series.

    >>> from refresh_pipeline.market.timeframe import Timeframe
    >>> freshness(SeriesReport(Series("A", Timeframe.m1), 0, None, None, None, None, None), None, False, True)
    'never'
    """
    if report.last_open_time is None:
        attempted = NO_DATA if report.outcome != Outcome.failed else FAILED
        return NEVER if report.attempted_at is None else attempted
    if report.outcome == Outcome.failed and (bars_behind or is_stale):
        return FAILED
    if is_stale:
        return STALE
    if bars_behind:
        return LATE
    return FRESH if is_open else CLOSED


def _next_closes(market: Market, now: np.datetime64) -> dict[Series, str]:
    closes: dict[Series, str] = {}
    for (calendar, timeframe), members in market.by_calendar(market.series).items():
        if calendar.knows(now):
            close = iso_utc(calendar.next_close(timeframe, now))
            closes |= dict.fromkeys(members, close)
    return closes


def _open_instruments(market: Market, now: np.datetime64) -> set[str]:
    moment = np.array([now], dtype=TIME_UNIT)
    calendars = {name: market.calendar_of(name) for name in market.instruments}
    is_open = {id(one): one.knows(now) and bool(one.is_open(moment)[0]) for one in calendars.values()}
    return {name for name, calendar in calendars.items() if is_open[id(calendar)]}
