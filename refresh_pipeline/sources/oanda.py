"""OANDA v20: bid, ask and mid candles of currency pairs, metals and index CFDs; needs an account's token.

Contract: oanda/v20-openapi at 70324cf, and answers that others recorded. How requests are retried and slowed down is
`http_client`'s part.
"""

import math
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from datetime import datetime
from functools import partial
from typing import Any

import httpx
import numpy as np
from pydantic import Field

from refresh_pipeline.market.calendars.base import length_of
from refresh_pipeline.market.calendars.fx import FxCalendar
from refresh_pipeline.market.candles import PRICE_COLUMNS, TIME_UNIT, Candles, Malformed, Times, instant
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.redaction import excerpt
from refresh_pipeline.sources import Fetched, PermanentError, Request, failed
from refresh_pipeline.sources.concurrency import in_background, side_by_side
from refresh_pipeline.sources.http_client import AccessDenied, BaseUrl, Client, Put, by_status, is_fit_for_a_header
from refresh_pipeline.sources.http_source import HttpSource, SourceOptions, venue_at
from refresh_pipeline.sources.rows import floats, json_body, number, parse_rows, unexpected

# All of ours are native there.
GRANULARITIES = {
    Timeframe.m1: "M1",
    Timeframe.m5: "M5",
    Timeframe.m15: "M15",
    Timeframe.m30: "M30",
    Timeframe.H1: "H1",
    Timeframe.H2: "H2",
    Timeframe.H3: "H3",
    Timeframe.H4: "H4",
    Timeframe.H6: "H6",
    Timeframe.H8: "H8",
    Timeframe.D1: "D",
    Timeframe.W1: "W",
    Timeframe.MN1: "M",
}
# Days begin at 17:00 in New York and weeks on Sunday, as the calendar fx has them; OANDA's own weeks begin on Friday.
ALIGNMENT = {"dailyAlignment": 17, "alignmentTimezone": "America/New_York", "weeklyAlignment": "Sunday"}
GRID = FxCalendar()

PAGE_ROWS = 5000
# One in twenty is held back, so 100 a second are used, as OANDA recommends; at 120 it answers 429.
REQUESTS_PER_SECOND = 105
# It minds more than two new connections a second.
CONNECTS_EVERY = 0.5
SIDES = {"mid": "", "bid": "bid_", "ask": "ask_"}
# Nanoseconds are written, microseconds kept.
TIME_CHARACTERS = 26


class OandaOptions(SourceOptions):
    """The options of this source in a market's YAML."""

    # A token is good for one of two hosts: this one for practice accounts, api-fxtrade for live ones.
    base_url: BaseUrl = "https://api-fxpractice.oanda.com"
    # Whether a token may go to another machine without encryption.
    insecure_http: bool = False
    # The setting that holds the token.
    token: str = "OANDA_TOKEN"  # noqa: S105 (its name)
    # The id of the account, which live mode asks for the newest candles of many instruments at once.
    account: str = Field(default="", pattern=r"^[\w-]*$")


class OandaSource(HttpSource[OandaOptions]):
    """Candles of any instrument of an account, complete ones only, as the venue marks them."""

    kind = "oanda"
    options_model = OandaOptions
    native_timeframes = tuple(GRANULARITIES)

    def _default_symbol(self, instrument: str) -> str:
        return instrument.replace("/", "_").replace("-", "_").upper()

    def fetch(self, requests: Sequence[Request], now: datetime) -> Iterator[Fetched]:
        """See Source; the venue marks what is complete, so `now` only says where a range ends."""
        token = self._secrets(self._options.token)
        if token and is_fit_for_a_header(token):
            return in_background(partial(self._produce, requests, instant(now), token))
        found = "holds blanks or characters that no token has" if token else "is not set"
        error = PermanentError(
            f"OANDA wants a token, and {self._options.token} {found}; make one under My Services, Manage API Access, "
            f"and put it into .env or the environment"
        )
        return (failed(request, error) for request in requests)

    async def _produce(self, requests: Sequence[Request], now: np.datetime64, token: str, put: Put) -> None:
        base_url = self._options.base_url
        limit = self._limit(venue_at(self.kind, base_url), REQUESTS_PER_SECOND, 1.0)
        async with self._client(base_url, limit, {"Authorization": f"Bearer {token}"}) as client:
            chunks = partial(self._chunks, client, now)
            await side_by_side(requests, chunks, put, connects_every=CONNECTS_EVERY)

    async def _chunks(self, client: Client, now: np.datetime64, request: Request) -> AsyncGenerator[Fetched, None]:
        """A chunk per page, oldest first; a page without candles is a weekend, or a time before the instrument's."""
        series, since = request.series, request.since
        until = min(request.until, now)
        while since < until:
            started = time.monotonic()
            rows = min(PAGE_ROWS, math.ceil((until - since) / length_of(series.timeframe)) + 1)
            candles, opens = await self._page(client, request, since, rows)
            within = candles.between(since, until).sorted()
            since = _following(series.timeframe, opens, since, rows)
            yield Fetched(series, within, last=bool(since >= until), seconds=time.monotonic() - started)
            if since >= until:
                return
        yield Fetched(series, Candles.none())

    async def _page(self, client: Client, request: Request, since: np.datetime64, rows: int) -> tuple[Candles, Times]:
        symbol = self.symbol(request.series.instrument)
        sides = SIDES if self._market.two_sided else {"mid": ""}
        params = {
            "granularity": GRANULARITIES[request.series.timeframe],
            "price": "MBA" if self._market.two_sided else "M",
            # No `to`: one that lies in the future by the venue's clock would be refused.
            "from": f"{since}Z",
            "count": rows,
            "includeFirst": "True",
            **ALIGNMENT,
        }
        answer = await client.get(f"/v3/instruments/{symbol}/candles", params, 1, partial(_read_rows, self._options))
        return read_candles(answer, sides)


def read_candles(rows: Sequence[Any], sides: dict[str, str]) -> tuple[Candles, Times]:
    """The complete ones of candles as the venue sends them, and when each of them all opens, forming ones included.

    A row whose time can be read but one of its numbers cannot is a candle of NaN, which no one will take for good; a
    row without the shape of a candle is set aside as malformed.

    >>> row = {"time": "2024-01-02T00:00:00.000000000Z", "complete": True, "volume": 7,
    ...        "mid": {"o": "1.5", "h": "2", "l": "1", "c": "1.7"}}
    >>> candles, opens = read_candles([row, row | {"time": "2024-01-02T00:01:00Z", "complete": False}], {"mid": ""})
    >>> candles["close"], len(opens)
    (array([1.7]), 2)
    """
    return parse_rows(rows, partial(_candles, sides), _row_fault, partial(_repaired, sides))


def _candles(sides: dict[str, str], rows: Sequence[Any], malformed: Sequence[Malformed]) -> tuple[Candles, Times]:
    opens = np.array([_iso_time(row["time"]) for row in rows], dtype=TIME_UNIT)
    columns = {}
    for side, prefix in sides.items():
        for name in PRICE_COLUMNS:
            prices = [row[side][name[0]] for row in rows]
            (columns[f"{prefix}{name}"],) = floats([prices])
    (columns["volume"],) = floats([[row["volume"] for row in rows]])
    complete = np.array([row["complete"] is True for row in rows], dtype=bool)
    return Candles(opens, columns, tuple(malformed)).where(complete), opens


def _iso_time(text: str) -> str:
    return text.removesuffix("Z")[:TIME_CHARACTERS]


def _row_fault(row: Any) -> str | None:
    if not isinstance(row, dict) or not isinstance(row.get("time"), str) or "complete" not in row:
        return "a candle has a time, says whether it is complete, and has prices"
    try:
        np.datetime64(_iso_time(row["time"]), "us")
    except ValueError:
        return "its time cannot be read"
    return None


def _repaired(sides: dict[str, str], row: dict[str, Any]) -> dict[str, Any]:
    """The same row with NaN for whatever is no number, and for all prices of a side that lacks one."""
    repaired = dict(row) | {"volume": number(row.get("volume"))}
    for side in sides:
        prices = row.get(side)
        prices = prices if isinstance(prices, dict) else {}
        repaired[side] = {letter: number(prices.get(letter)) for letter in "ohlc"}
    return repaired


def _following(timeframe: Timeframe, opens: Times, since: np.datetime64, rows: int) -> np.datetime64:
    """Where the next page begins: after the newest candle of this one, and after all the time that it covered.

    Whether `count` counts candles or steps of time, holidays included, others have seen both.
    """
    if len(opens) > 1 and (opens < since).all():
        raise PermanentError(f"asked for candles from {since}, received older ones only; is base_url an OANDA host?")
    covered = since + length_of(timeframe) * rows
    return max(covered, GRID.closes(timeframe, opens[[opens.argmax()]])[0]) if len(opens) else covered


def _read_rows(options: OandaOptions, response: httpx.Response) -> list[Any]:
    """The candles of a good answer.

    Raises:
        PermanentError, TransientError: the answer is not good.
    """
    body, _ = json_body(response)
    if not response.is_success:
        raise error_of(options, response, body)
    rows = body.get("candles") if isinstance(body, dict) else None
    if isinstance(rows, list):
        return rows
    raise unexpected(response, "candles", "; is base_url right?")


def error_of(options: OandaOptions, response: httpx.Response, body: Any) -> Exception:
    """What an answer that is not good says, and whether to ask again."""
    message = body.get("errorMessage") if isinstance(body, dict) else None
    text = f"HTTP {response.status_code}: {excerpt(str(message) if message else response.text)}"
    if response.status_code in (401, 403):
        return AccessDenied(
            f"{text} The token in {options.token} is not good here: those of practice accounts are for "
            f"api-fxpractice.oanda.com, those of live accounts for api-fxtrade.oanda.com; see base_url in the YAML"
        )
    if "'instrument'" in text or response.status_code == 404:
        return PermanentError(f"{text}; check the instrument's name, or give it its `symbol` in the market's YAML")
    return by_status(response) or PermanentError(text)
