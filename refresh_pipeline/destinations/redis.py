"""Candles in Redis, under the keys and in the JSON of the crypto fetch service before this, the window always whole.

Importing this module imports redis, which is an extra; `opening` does so only where a Redis server is meant.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import isfinite
from typing import Any

import numpy as np
import redis
from numpy.typing import NDArray
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, OutOfMemoryError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from refresh_pipeline.destinations import DestinationError, PermanentUploadError
from refresh_pipeline.destinations.parallel import CircuitBreaker
from refresh_pipeline.destinations.uploading import AccessRefused, Unreachable
from refresh_pipeline.market.candles import CANDLE_COLUMNS
from refresh_pipeline.market.destination_spec import RedisSpec
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.redaction import one_line

KLINE_EXPIRY = timedelta(hours=24)
TIMESTAMP_EXPIRY = STATUS_EXPIRY = timedelta(hours=2)
STATUS_KEY = "tet:system:status"
RETRIES = 3
# What readers of these keys call the timeframes.
NAMES: Mapping[Timeframe, str] = {
    **{timeframe: f"{timeframe.value[1:]}m" for timeframe in Timeframe if timeframe.value.startswith("m")},
    **{timeframe: f"{timeframe.value[1:]}h" for timeframe in Timeframe if timeframe.value.startswith("H")},
    Timeframe.D1: "1d",
    Timeframe.W1: "1w",
    Timeframe.MN1: "1M",
}


@dataclass(frozen=True, slots=True)
class CandleWindow:
    """The newest candles of one series, oldest first, with their completeness and age."""

    series: Series
    open_times: NDArray
    columns: Mapping[str, NDArray]
    completeness: float
    age_seconds: float


@dataclass(frozen=True, slots=True)
class Stored:
    """The result of one series; `bytes` is the length of its value."""

    series: Series
    key: str
    bytes: int = 0
    error: DestinationError | None = None


class RedisDestination:
    """A Redis server. No secret shows in its errors, logs and repr.

    Args:
        url: `redis://host:port/database`, without credentials.
        username: as set, if any.
        password: likewise.
        timeout: seconds without an answer after which a request has failed.
    """

    def __init__(self, url: str, username: str = "", password: str = "", timeout: float = 10.0) -> None:
        self.url = url
        self._secrets = (username, password)
        self._client = redis.Redis.from_url(
            url,
            username=username or None,
            password=password or None,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            retry=Retry(ExponentialWithJitterBackoff(base=0.1, cap=2.0), RETRIES),
            decode_responses=True,
            # RESP3 begins with HELLO, which older, hardened and proxying servers do not know.
            protocol=2,
        )

    @classmethod
    def from_spec(cls, spec: RedisSpec, credentials: Mapping[str, str]) -> "RedisDestination":
        """The server that a spec describes."""
        return cls(spec.url, credentials.get("REDIS_USERNAME", ""), credentials.get("REDIS_PASSWORD", ""))

    def __repr__(self) -> str:
        return f"RedisDestination({self.url!r})"

    def store(self, windows: Iterable[CandleWindow], now: datetime) -> Iterator[Stored]:
        """Replace the stored window of each series; one result per series, failures included."""
        breaker = CircuitBreaker()
        with self._client:
            for window in windows:
                key = kline_key(window.series)
                if breaker.error is not None:
                    yield Stored(window.series, key, error=breaker.error)
                    continue
                try:
                    value = value_of(window, now)
                    self._set(window.series, value, now)
                except RedisError as error:
                    refusal = _refusal(error, f"{self.url}: {key}", self._secrets)
                    breaker.failed(refusal)
                    yield Stored(window.series, key, error=refusal)
                else:
                    breaker.succeeded()
                    yield Stored(window.series, key, len(value))

    def write_status(self, status: Mapping[str, Any]) -> None:
        """Write the figures of the last round under the key of the system's status.

        Raises:
            DestinationError: the server did not take it.
        """
        with self._client:
            try:
                self._client.set(STATUS_KEY, json.dumps(dict(status)), ex=STATUS_EXPIRY)
            except RedisError as error:
                raise _refusal(error, f"{self.url}: {STATUS_KEY}", self._secrets) from None

    def counts(self, batch: Sequence[Series]) -> dict[Series, int]:
        """The number of stored candles by series; series without any are left out.

        Raises:
            DestinationError: the server could not be asked, or holds something else under such a key.
        """
        counts: dict[Series, int] = {}
        with self._client:
            for series in batch:
                key = kline_key(series)
                try:
                    value: Any = self._client.get(key)
                    if value is not None:
                        counts[series] = len(json.loads(json.loads(value)["ohlcv_data"]))
                except (ValueError, KeyError, TypeError) as error:
                    raise PermanentUploadError(
                        f"{self.url}: {key}: holds something else than candles: {error}; delete that key"
                    ) from error
                except RedisError as error:
                    raise _refusal(error, f"{self.url}: {key}", self._secrets) from None
        return counts

    def _set(self, series: Series, value: str, now: datetime) -> None:
        pipeline = self._client.pipeline(transaction=True)
        pipeline.set(kline_key(series), value, ex=KLINE_EXPIRY)
        pipeline.set(timestamp_key(series), _iso(now), ex=TIMESTAMP_EXPIRY)
        pipeline.execute()


def kline_key(series: Series) -> str:
    """The key of a series' candles.

    >>> kline_key(Series("BTC/USDT", Timeframe.m15))
    'tet:kline:15m:BTC/USDT'
    """
    return f"tet:kline:{NAMES[series.timeframe]}:{series.instrument}"


def timestamp_key(series: Series) -> str:
    """The key of the time at which a series was written.

    >>> timestamp_key(Series("BTC/USDT", Timeframe.H1))
    'tet:timestamp:1h:BTC/USDT'
    """
    return f"tet:timestamp:{NAMES[series.timeframe]}:{series.instrument}"


def value_of(window: CandleWindow, now: datetime) -> str:
    """The JSON under a series' key."""
    first, last = (_iso(window.open_times[index].astype(datetime).replace(tzinfo=UTC)) for index in (0, -1))
    return json.dumps(
        {
            "ohlcv_data": candles_json(window.open_times, window.columns),
            "last_candle_time": last,
            "last_update": _iso(now),
            "data_start": first,
            "data_end": last,
            "data_completeness": round(window.completeness, 6),
            "candle_count": len(window.open_times),
            "timeframe": NAMES[window.series.timeframe],
            "data_age_seconds": round(window.age_seconds, 3),
        }
    )


def candles_json(open_times: NDArray, columns: Mapping[str, NDArray]) -> str:
    """Candles by their opening in milliseconds, as `pandas.read_json(..., orient="index")` reads them.

    >>> day = np.array(["2024-01-01"], dtype="datetime64[us]")
    >>> candles_json(day, dict.fromkeys(CANDLE_COLUMNS, np.array([1.5])))
    '{"1704067200000":{"open":1.5,"high":1.5,"low":1.5,"close":1.5,"volume":1.5}}'
    """
    stamps = open_times.astype("datetime64[ms]").astype(np.int64).tolist()
    # A volume that the venue does not tell is the only number that may be missing.
    cells = [
        [repr(value) if isfinite(value) else "null" for value in columns[name].tolist()] for name in CANDLE_COLUMNS
    ]
    form = ",".join(f'"{name}":%s' for name in CANDLE_COLUMNS)
    rows = (f'"{stamp}":{{{form % row}}}' for stamp, row in zip(stamps, zip(*cells, strict=True), strict=True))
    return f"{{{','.join(rows)}}}"


def _iso(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _refusal(error: RedisError, what: str, secrets: Sequence[str]) -> DestinationError:
    received = one_line(str(error), secrets)
    if isinstance(error, AuthenticationError | NoPermissionError):
        return AccessRefused(f"{what}: access refused: set REDIS_USERNAME and REDIS_PASSWORD as the server knows them")
    if isinstance(error, OutOfMemoryError):
        return AccessRefused(f"{what}: the server's memory is full: raise maxmemory or keep fewer series there")
    if isinstance(error, RedisConnectionError | RedisTimeoutError):
        return Unreachable(f"{what}: no answer: {received}; is the server running?")
    if isinstance(error, ResponseError) and "NOAUTH" in received:
        return AccessRefused(f"{what}: the server wants a password: set REDIS_PASSWORD")
    return PermanentUploadError(f"{what}: refused: {received}")
