"""OANDA's newest candles, asked for at each close: one request has those of many instruments.

The price stream of OANDA thins prices out, so that candles made from it are not those that the venue itself gives.
Contract: the pricing endpoints of OANDA's v20 API, `candles/latest`.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import httpx
import numpy as np

from refresh_pipeline.market.candles import CANDLE_COLUMNS, instant
from refresh_pipeline.market.model import Market, MarketError
from refresh_pipeline.market.series import Series
from refresh_pipeline.redaction import excerpt
from refresh_pipeline.sources import PermanentError, Secrets, SourceError, no_secrets
from refresh_pipeline.sources.http_client import Client
from refresh_pipeline.sources.http_source import venue_at
from refresh_pipeline.sources.oanda import (
    ALIGNMENT,
    GRANULARITIES,
    REQUESTS_PER_SECOND,
    OandaSource,
    error_of,
    read_candles,
)
from refresh_pipeline.sources.rows import json_body
from refresh_pipeline.sources.streaming import ClosedCandle, Listener

# Seconds after a close at which the venue is asked first, between two questions, and until it has no such candle.
FIRST_LOOK, BETWEEN_LOOKS, LAST_LOOK = 0.3, 0.5, 10.0
# Series named by one request.
SERIES_A_REQUEST = 100
# Seconds to wait after an error, at most.
LONGEST_WAIT = 30.0


class OandaStream(OandaSource):
    """The closed candles of an account's instruments, asked for at each close of the shortest timeframe."""

    streamed_timeframes = tuple(GRANULARITIES)

    def __init__(
        self,
        market: Market,
        limits_dir: Path,
        secrets: Secrets = no_secrets,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        speed: float = 1.0,
    ) -> None:
        """The newest candles of one market; `speed` is how much faster than the machine's clock `clock` runs.

        Raises:
            MarketError: the YAML does not name the account.
        """
        super().__init__(market, limits_dir, secrets)
        self._clock, self._speed = clock, speed
        if not self._options.account:
            raise MarketError(
                f"market {market.name!r}: live: found no source.account; allowed: the id of the OANDA account, for "
                "instance 101-004-1234567-001"
            )

    async def listen(self, series: Sequence[Series], listener: Listener, silence: float) -> None:
        """See Streaming; here nothing is silent, as every candle is asked for."""
        token = self._secrets(self._options.token) or ""
        limit = self._limit(venue_at(self.kind, self.base_url), REQUESTS_PER_SECOND, 1.0)
        wait = BETWEEN_LOOKS
        while True:
            try:
                async with self._client(self.base_url, limit, {"Authorization": f"Bearer {token}"}) as client:
                    listener.opened(series)
                    while True:
                        await self._follow_a_close(client, series, listener)
                        wait = BETWEEN_LOOKS
            except SourceError as error:
                listener.ended(series, str(error))
                await asyncio.sleep(wait)
                wait = min(wait * 2, LONGEST_WAIT)

    async def _follow_a_close(self, client: Client, series: Sequence[Series], listener: Listener) -> None:
        """Wait for the next close, and ask until every series of the shortest timeframe has its candle."""
        shortest, calendar = min(each.timeframe for each in series), self._market.calendar
        now = instant(self._clock())
        close = calendar.next_close(shortest, now)
        await asyncio.sleep(float((close - now) / np.timedelta64(1, "s")) / self._speed + FIRST_LOOK)
        awaited = {each for each in series if each.timeframe is shortest}
        newest = calendar.last_closed(shortest, close)
        waited = FIRST_LOOK
        while awaited and waited < LAST_LOOK / self._speed:
            for candle in await self._newest(client, series):
                listener.closed(candle)
                if candle.open_time >= newest:
                    awaited.discard(candle.series)
            if awaited:
                await asyncio.sleep(BETWEEN_LOOKS)
                waited += BETWEEN_LOOKS

    async def _newest(self, client: Client, series: Sequence[Series]) -> list[ClosedCandle]:
        """The newest complete candles of these series."""
        names = {f"{self.symbol(each.instrument)}:{GRANULARITIES[each.timeframe]}": each for each in series}
        candles: list[ClosedCandle] = []
        for begin in range(0, len(names), SERIES_A_REQUEST):
            specs = ",".join(f"{name}:M" for name in list(names)[begin : begin + SERIES_A_REQUEST])
            path = f"/v3/accounts/{self._options.account}/candles/latest"
            read = partial(_read_latest, self)
            for answer in await client.get(path, {"candleSpecifications": specs, **ALIGNMENT}, 1, read):
                one = names.get(f"{answer.get('instrument')}:{answer.get('granularity')}")
                if one is not None:
                    candles += _closed(one, answer.get("candles") or [])
        return candles


def _closed(series: Series, rows: list) -> list[ClosedCandle]:
    complete, _ = read_candles(rows, {"mid": ""})
    columns = [complete[name].tolist() for name in CANDLE_COLUMNS]
    return [
        ClosedCandle(series, open_time, values)
        for open_time, values in zip(complete.open_time, zip(*columns, strict=True), strict=True)
    ]


def _read_latest(source: OandaStream, response: httpx.Response) -> list[dict]:
    """The answers of each instrument.

    Raises:
        PermanentError, TransientError: the answer is not good.
    """
    body, _ = json_body(response)
    if not response.is_success:
        raise error_of(source._options, response, body)  # noqa: SLF001 (its own class)
    answers = body.get("latestCandles") if isinstance(body, dict) else None
    if not isinstance(answers, list) or not all(isinstance(answer, dict) for answer in answers):
        raise PermanentError(f"expected latestCandles, received {excerpt(response.text)}; is base_url right?")
    return answers
