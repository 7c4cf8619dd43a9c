"""The rows of `refresh gaps`: expected and stored candles of each series, and every gap."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import duckdb

from refresh_pipeline.duckdb_connection import open_duckdb
from refresh_pipeline.market.gaps import Coverage, Gap
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.settings import Settings
from refresh_pipeline.warehouse import gaps
from refresh_pipeline.warehouse.connection import connect, place_of


def gap_rows(settings: Settings, markets: Sequence[Market], now: datetime) -> list[dict[str, Any]]:
    """Every series of the markets in the order of importance. Writes nothing."""
    rows: list[dict[str, Any]] = []
    with _looking(settings) as connection:
        for market in markets:
            missing, coverage = gaps.gaps_and_coverage(connection, market, now)
            rows += _rows(market, coverage, missing)
    return rows


@contextmanager
def _looking(settings: Settings) -> Iterator[duckdb.DuckDBPyConnection]:
    """The warehouse as it is; an empty one in memory before the first refresh."""
    if place_of(settings.warehouse).exists:
        with connect(settings.warehouse, read_only=True) as connection:
            yield connection
    else:
        with open_duckdb() as connection:
            yield connection


def _rows(market: Market, coverage: Mapping[Series, Coverage], missing: Sequence[Gap]) -> Iterator[dict[str, Any]]:
    by_series: dict[Series, list[dict[str, Any]]] = {}
    for gap in missing:
        by_series.setdefault(gap.series, []).append(_gap(gap))
    for series in market.series:
        counts = coverage.get(series, Coverage(series, 0, 0))
        yield {
            "market": market.name,
            "instrument": series.instrument,
            "timeframe": series.timeframe.value,
            "expected_count": counts.expected,
            "stored_count": counts.stored,
            "completeness": round(counts.completeness, 6),
            "gaps": by_series.get(series, []),
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
