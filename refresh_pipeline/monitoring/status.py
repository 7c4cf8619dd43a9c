"""The status of every series as rows: newest candle, age, completeness, outcomes."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np

from refresh_pipeline.market.candles import TIME_UNIT, instant, iso_utc
from refresh_pipeline.market.freshness import closed_since, data_age
from refresh_pipeline.market.gaps import Coverage
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.settings import Settings
from refresh_pipeline.warehouse import gaps, queries
from refresh_pipeline.warehouse.acknowledgements import acknowledged
from refresh_pipeline.warehouse.connection import connect, place_of
from refresh_pipeline.warehouse.outcomes import Outcome
from refresh_pipeline.warehouse.queries import SeriesReport


def status_rows(settings: Settings, markets: Sequence[Market], now: datetime) -> list[dict[str, Any]]:
    """Every series of the markets as it stands at `now`, in the order of importance; times as ISO 8601 in UTC."""
    rows: list[dict[str, Any]] = []
    for market in markets:
        rows += rows_of(market, *_reports(settings, market, now), now)
    return rows


def rows_of(
    market: Market, reports: Sequence[SeriesReport], coverage: Mapping[Series, Coverage], now: datetime
) -> list[dict[str, Any]]:
    """The series of these reports as they stand at `now`, from what was read of the warehouse."""
    rows = [_status_row(market, report, coverage.get(report.series)) for report in reports]
    _add_standing(market, {report.series: row for report, row in zip(reports, rows, strict=True)}, now)
    return rows


def acknowledged_counts(settings: Settings, markets: Sequence[Market]) -> dict[str, int]:
    """The number of acknowledged faults of each market that has one."""
    if not place_of(settings.warehouse).exists:
        return {}
    with connect(settings.warehouse, read_only=True) as connection:
        counts = {market.name: len(acknowledged(connection, market.name)) for market in markets}
    return {name: count for name, count in counts.items() if count}


def calendar_warnings(markets: Sequence[Market], now: datetime) -> list[str]:
    """A line for each market whose calendar ends soon or has ended."""
    warnings = {market.name: market.calendar.warning(instant(now)) for market in markets}
    return [f"{name}: {warning}" for name, warning in warnings.items() if warning]


def _reports(settings: Settings, market: Market, now: datetime) -> tuple[list[SeriesReport], dict[Series, Coverage]]:
    if place_of(settings.warehouse).exists:
        with connect(settings.warehouse, read_only=True) as connection:
            if queries.has_tables(connection, market.name):
                reports = queries.series_report(connection, market.name, market.series)
                return reports, gaps.coverage(connection, market, now)
    return [SeriesReport(series, 0, None, None, None, None, None) for series in market.series], {}


def _status_row(market: Market, report: SeriesReport, coverage: Coverage | None) -> dict[str, Any]:
    return {
        "market": market.name,
        "instrument": report.series.instrument,
        "timeframe": report.series.timeframe.value,
        "newest_candle": _iso(report.last_open_time),
        "expected_candle": None,
        "bars_behind": None,
        "age_seconds": None,
        "first_candle": _iso(report.first_open_time),
        "candle_count": report.candle_count,
        "completeness": None if coverage is None else round(coverage.completeness, 6),
        "outcome": report.outcome,
        "reason": report.reason if report.outcome in (Outcome.failed, Outcome.no_data) else None,
        "rejections": report.rejections,
        "attempted_at": _iso(report.attempted_at),
        "failed": dict(report.failed),
    }


def _add_standing(market: Market, by_series: Mapping[Series, dict[str, Any]], now: datetime) -> None:
    for (calendar, timeframe), series in market.by_calendar(by_series).items():
        members = [by_series[member] for member in series]
        # Of a static market no candle is expected.
        is_known = calendar.knows(instant(now)) and not market.static
        if is_known:
            expected = _iso(calendar.last_closed(timeframe, instant(now)))
            for row in members:
                row["expected_candle"] = expected
        if stored := [row for row in members if row["newest_candle"]]:
            ages = data_age(calendar, timeframe, _times([row["newest_candle"] for row in stored]), now)
            for row, age in zip(stored, ages.tolist(), strict=True):
                row["age_seconds"] = age
    # Where no candle is expected, no series is behind; a line of its own warns of the calendar.
    newest = {series: row["newest_candle"] for series, row in by_series.items() if row["newest_candle"]}
    lasts = dict(zip(newest, _times([*newest.values()]), strict=True))
    for series, count in closed_since(market, lasts, now).items():
        by_series[series]["bars_behind"] = count


def _iso(time: np.datetime64 | None) -> str | None:
    return None if time is None else iso_utc(time)


def _times(texts: Sequence[str]) -> np.ndarray:
    return np.array([text.removesuffix("Z") for text in texts], dtype=TIME_UNIT)
