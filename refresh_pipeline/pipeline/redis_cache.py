"""Push a market's newest candles to Redis, series by series.

Keys, values and the handling of errors are in `destinations.redis`.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.destinations import DestinationError
from refresh_pipeline.market.candles import iso_utc
from refresh_pipeline.market.destination_spec import RedisSpec
from refresh_pipeline.market.freshness import completeness, data_age
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.pipeline.progress import advance
from refresh_pipeline.pipeline.publish import with_warning
from refresh_pipeline.warehouse.outcomes import Attempt, Outcome
from refresh_pipeline.warehouse.warehouse import Warehouse

if TYPE_CHECKING:
    from refresh_pipeline.destinations.redis import CandleWindow, RedisDestination, Stored


def series_kept(spec: RedisSpec, batch: Sequence[Series]) -> list[Series]:
    """The series of a batch that go to a destination: those of its timeframes, all where it names none."""
    return [series for series in batch if not spec.timeframes or series.timeframe in spec.timeframes]


def keep(
    warehouse: Warehouse,
    market: Market,
    spec: RedisSpec,
    batch: Sequence[Series],
    *,
    destination: "RedisDestination",
    now: datetime,
) -> dict[Series, Attempt]:
    """Replace the window of every series of the batch in Redis."""
    began = time.monotonic()
    chosen = series_kept(spec, batch)
    attempts: dict[Series, Attempt] = dict.fromkeys(chosen, Attempt(Outcome.no_data))
    ages: list[float] = []

    def windows() -> Iterator["CandleWindow"]:
        for window in candle_windows(market, warehouse.newest_candles(market, chosen, back), now):
            ages.append(window.age_seconds)
            yield window

    back = timedelta(days=spec.days)
    for number, result in enumerate(destination.store(windows(), now), start=1):
        attempts[result.series] = _attempt(result)
        advance(spec.asset, number, len(chosen))
    if any(attempt.outcome is not Outcome.failed for attempt in attempts.values()):
        try:
            destination.write_status(_status(attempts, ages, time.monotonic() - began, now))
        except DestinationError as error:
            return with_warning(attempts, str(error))
    return attempts


def _status(
    attempts: Mapping[Series, Attempt], ages: Sequence[float], seconds: float, now: datetime
) -> dict[str, object]:
    failed = sum(attempt.outcome is Outcome.failed for attempt in attempts.values())
    return {
        "last_full_scan": iso_utc(now),
        "active_symbols": len({series.instrument for series in attempts}),
        "successful_updates": len(attempts) - failed,
        "failed_updates": failed,
        "update_duration_seconds": round(seconds, 3),
        "data_freshness_avg": round(sum(ages) / len(ages), 3) if ages else 0.0,
    }


def candle_windows(
    market: Market, candles: Iterable[tuple[Series, Mapping[str, NDArray]]], now: datetime
) -> Iterator["CandleWindow"]:
    """Each series' candles with their completeness and age at `now`; none for a series without candles."""
    from refresh_pipeline.destinations.redis import CandleWindow  # noqa: PLC0415 (an extra, which whoever calls this has)

    for series, rows in candles:
        times = rows["open_time"]
        if len(times):
            yield CandleWindow(series, times, rows, *_measures(market, series, times, now))


def _measures(market: Market, series: Series, times: NDArray, now: datetime) -> tuple[float, float]:
    """The completeness from the first candle on, 0 to 1, and the age of the newest candle in seconds."""
    calendar, timeframe = market.calendar_of(series.instrument), series.timeframe
    share = completeness(calendar, timeframe, times[:1], np.array([len(times)]), now)
    return float(share[0]), float(data_age(calendar, timeframe, times[-1:], now)[0])


def _attempt(stored: "Stored") -> Attempt:
    return Attempt.of(
        reasons=[str(stored.error)] if stored.error else [],
        transient=stored.error is not None and stored.error.transient,
        changed=True,
        has_data=True,
        metadata={} if stored.error else {"bytes": stored.bytes, "key": stored.key},
    )
