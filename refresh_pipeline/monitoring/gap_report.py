"""What `refresh gaps` shows: of each series how many candles are expected and stored, and every missing stretch."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any

import duckdb

from refresh_pipeline.market.calendars.base import CalendarEnds
from refresh_pipeline.market.gaps import Coverage, Gap
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.settings import Settings
from refresh_pipeline.warehouse import gaps, schema
from refresh_pipeline.warehouse.computations import computations
from refresh_pipeline.warehouse.connection import connect, transaction


def gap_rows(settings: Settings, markets: Sequence[Market], now: datetime) -> list[dict[str, Any]]:
    """Every series of the markets in the order of importance; a market whose calendar has ended is left out."""
    rows: list[dict[str, Any]] = []
    for market in markets:
        with suppress(CalendarEnds), _looking(settings, market, now) as connection:
            found = gaps.gaps(connection, market, now)
            rows += _rows(market, gaps.coverage(connection, market, now), found)
    return rows


@contextmanager
def _looking(settings: Settings, market: Market, now: datetime) -> Iterator[duckdb.DuckDBPyConnection]:
    """The warehouse, with what is expected brought up to `now`; an empty one in memory where there is none yet."""
    database = str(settings.database) if settings.database.exists() else ":memory:"
    with connect(database) as connection:
        with transaction(connection):
            schema.ensure(connection, market.name, tuple(computations(market).values()), market.two_sided)
            gaps.write_expected_bars(connection, market, now)
        yield connection


def _rows(market: Market, coverage: Mapping[Series, Coverage], found: Sequence[Gap]) -> Iterator[dict[str, Any]]:
    for series in market.series:
        counts = coverage.get(series, Coverage(series, 0, 0))
        yield {
            "market": market.name,
            "instrument": series.instrument,
            "timeframe": series.timeframe.value,
            "expected_count": counts.expected,
            "stored_count": counts.stored,
            "completeness": round(counts.completeness, 6),
            "gaps": [_gap(gap) for gap in found if gap.series == series],
        }


def _gap(gap: Gap) -> dict[str, Any]:
    return {
        "first": f"{gap.first.astype('datetime64[s]')}Z",
        "last": f"{gap.last.astype('datetime64[s]')}Z",
        "candles": gap.candles,
        "place": gap.place.value,
        "confirmed": gap.is_confirmed,
        "asked_at": None if gap.asked_at is None else f"{gap.asked_at:%Y-%m-%dT%H:%M:%SZ}",
    }
