"""What becomes of a market's newest candles in Redis, series by series. Without Dagster.

Which keys and values those are, and what is done when something goes wrong, is `destinations.redis`' part.
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
    """Put the whole window of every series of the batch there, in place of what was."""
    began = time.monotonic()
    chosen = series_kept(spec, batch)
    done: dict[Series, Attempt] = dict.fromkeys(chosen, Attempt(Outcome.no_data))
    ages: list[float] = []

    def windows() -> Iterator["CandleWindow"]:
        for window in _windows(market, warehouse.newest_candles(market, chosen, back), now):
            ages.append(window.age_seconds)
            yield window

    back = timedelta(days=spec.days)
    for number, kept in enumerate(destination.store(windows(), now), start=1):
        done[kept.series] = _attempt(kept)
        advance(spec.asset, number, len(chosen))
    if any(attempt.outcome is not Outcome.failed for attempt in done.values()):
        try:
            destination.write_status(_status(done, ages, time.monotonic() - began, now))
        except DestinationError as error:
            return with_warning(done, str(error))
    return done


def _status(done: Mapping[Series, Attempt], ages: Sequence[float], seconds: float, now: datetime) -> dict[str, object]:
    failed = sum(attempt.outcome is Outcome.failed for attempt in done.values())
    return {
        "last_full_scan": iso_utc(now),
        "active_symbols": len({series.instrument for series in done}),
        "successful_updates": len(done) - failed,
        "failed_updates": failed,
        "update_duration_seconds": round(seconds, 3),
        "data_freshness_avg": round(sum(ages) / len(ages), 3) if ages else 0.0,
    }


def _windows(
    market: Market, candles: Iterable[tuple[Series, Mapping[str, NDArray]]], now: datetime
) -> Iterator["CandleWindow"]:
    from refresh_pipeline.destinations.redis import CandleWindow  # noqa: PLC0415 (an extra, which whoever calls this has)

    for series, rows in candles:
        times = rows["open_time"]
        if len(times):
            yield CandleWindow(series, times, rows, *_standing(market, series, times, now))


def _standing(market: Market, series: Series, times: NDArray, now: datetime) -> tuple[float, float]:
    """The share of the candles to expect that are there, and the age of the newest in seconds."""
    calendar, timeframe = market.calendar, series.timeframe
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
