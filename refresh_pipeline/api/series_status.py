"""The status of every series of a market, its freshness as of now."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from refresh_pipeline.api.reports import Read
from refresh_pipeline.market.candles import TIME_UNIT, instant, iso_utc
from refresh_pipeline.market.freshness import behind, closed_since
from refresh_pipeline.market.gaps import Coverage
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.monitoring.status import rows_of
from refresh_pipeline.warehouse.outcomes import Outcome
from refresh_pipeline.warehouse.queries import SeriesReport
from refresh_pipeline.warehouse.schema import Table

if TYPE_CHECKING:
    # The service has the standings.
    from refresh_pipeline.api.service import Service

# Words of a series' freshness; the worst come last.
FRESH, CLOSED, LATE, STALE, FAILED, NO_DATA, NEVER = "fresh", "closed", "late", "stale", "failed", "no_data", "never"
STATES = (FRESH, CLOSED, LATE, STALE, FAILED, NO_DATA, NEVER)
RAW = (Table.raw_candles,)


@dataclass(frozen=True, slots=True)
class Standing:
    """Every series of a market at one moment, in the market's order."""

    reports: Sequence[SeriesReport]
    coverage: Mapping[Series, Coverage]
    # One word on each series.
    freshness: Sequence[str]


@dataclass(slots=True)
class Standings:
    """The standing of each market, which all requests of one second share."""

    _kept: dict[str, tuple[Read, int, Standing]] = field(default_factory=dict)

    def of(self, market: Market, read: Read, now: datetime) -> Standing:
        """What was read of a market, with the freshness at `now`."""
        second = int(now.timestamp())
        kept = self._kept.get(market.name)
        if kept is None or kept[0] is not read or kept[1] != second:
            kept = self._kept[market.name] = (read, second, _standing(market, *read, now))
        return kept[2]


async def standing_of(service: "Service", market: Market) -> Standing:
    """How every series of a market stands now."""
    return service.standings.of(market, await service.reports.of(service.reader, market), service.now())


async def status_of(service: "Service", market: Market, wanted: Sequence[Series] | None = None) -> list[dict[str, Any]]:
    """The rows of `refresh status --json`, with version, freshness and next close; of all series by default."""
    standing, now = await standing_of(service, market), service.now()
    chosen = None if wanted is None else set(wanted)
    pairs = zip(standing.reports, standing.freshness, strict=True)
    pairs = [(report, word) for report, word in pairs if chosen is None or report.series in chosen]
    rows = rows_of(market, [report for report, _ in pairs], standing.coverage, now)
    closes = _next_closes(market, [report.series for report, _ in pairs], instant(now))
    for row, (report, word) in zip(rows, pairs, strict=True):
        row["version"] = service.feed.newest(market.name, report.series, RAW).number or None
        row["freshness"] = word
        row["next_close"] = closes.get(report.series)
    return rows


def _standing(
    market: Market, reports: Sequence[SeriesReport], coverage: Mapping[Series, Coverage], now: datetime
) -> Standing:
    stale = {report.series for report in behind(market, reports, now)}
    lasts = {report.series: report.last_open_time for report in reports if report.last_open_time is not None}
    lacking, open_instruments = closed_since(market, lasts, now), _open_instruments(market, instant(now))
    words = [
        freshness(report, lacking.get(series), series in stale, series.instrument in open_instruments)
        for report in reports
        for series in [report.series]
    ]
    return Standing(reports, coverage, words)


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


def _next_closes(market: Market, series: Sequence[Series], now: np.datetime64) -> dict[Series, str]:
    closes: dict[Series, str] = {}
    for (calendar, timeframe), members in market.by_calendar(series).items():
        if calendar.knows(now):
            close = iso_utc(calendar.next_close(timeframe, now))
            closes |= dict.fromkeys(members, close)
    return closes


def _open_instruments(market: Market, now: np.datetime64) -> set[str]:
    moment = np.array([now], dtype=TIME_UNIT)
    calendars = {name: market.calendar_of(name) for name in market.instruments}
    is_open = {id(one): one.knows(now) and bool(one.is_open(moment)[0]) for one in calendars.values()}
    return {name for name, calendar in calendars.items() if is_open[id(calendar)]}
