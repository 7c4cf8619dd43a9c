"""Dhan v2: candles of shares and indices of India's National Stock Exchange; needs an account with its data plan.

Contract: dhanhq.co's documents, DhanHQ-py at 1670f818, and what others measured. How requests are retried and slowed
down is `http_client`'s part.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import httpx
import numpy as np
from pydantic import Field

from refresh_pipeline.market.calendars.base import DAY, Calendar
from refresh_pipeline.market.calendars.nse import INDIA
from refresh_pipeline.market.calendars.registry import CALENDARS
from refresh_pipeline.market.candles import CANDLE_COLUMNS, TIME_UNIT, Candles, Floats, instant
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.redaction import excerpt
from refresh_pipeline.sources import Fetched, PermanentError, Request, SourceError, TransientError, failed
from refresh_pipeline.sources.concurrency import in_background, side_by_side
from refresh_pipeline.sources.http_client import (
    AccessDenied,
    BaseUrl,
    Client,
    Put,
    RateLimited,
    by_status,
    is_fit_for_a_header,
    retry_after,
    served_at,
)
from refresh_pipeline.sources.http_source import HttpSource, SourceOptions, venue_at
from refresh_pipeline.sources.rate_limits import Limits
from refresh_pipeline.sources.rows import floats, json_body, malformed, number, unexpected

BASE_URL, FEED_URL = "https://api.dhan.co/v2", "wss://api-feed.dhan.co"
# In minutes; 25 is there as well, and is none of ours.
INTERVALS = {Timeframe.m1: "1", Timeframe.m5: "5", Timeframe.m15: "15", Timeframe.H1: "60"}
# The exchange's sessions where the market has another calendar.
NSE = CALENDARS["nse"]
MORNING = np.timedelta64(9 * 60 + 15, "m").astype("timedelta64[us]")

# 90 days a question are allowed; nobody says whether both ends count.
WINDOW = 89 * DAY
# Five a second, evenly: two lots of five may lie within one second by the venue's clock.
SECONDS_PER_REQUEST = 0.203
REQUESTS_PER_DAY = 100_000
# How often an empty answer is asked for again where the exchange was open.
EMPTY_ANSWERS = 3
# What has closed only just may not be there yet.
LATENCY = np.timedelta64(15, "m")

# What stamps of the documents' examples count from: 1980 instead of 1970.
LEGACY_EPOCH = np.timedelta64(315_532_800, "s")
# Beyond it a number is no second of ours.
LATEST_SECOND = 2.0**33
STAMPS = ("timestamp", "start_Time")

RATE_CODES = {"DH-904", "805"}
TOKEN_CODES = {"DH-901", "807", "808", "809", "810"}
ACCOUNT_CODES = {"DH-902", "DH-903", "DH-911", "806"}
TRANSIENT_CODES = {"DH-908", "DH-909", "DH-910", "800"}
NO_DATA_CODE = "DH-907"


class DhanOptions(SourceOptions):
    """The options of this source in a market's YAML."""

    base_url: BaseUrl = BASE_URL
    # The host of live mode's feed, ws:// or wss://; without it Dhan's own, or the host of base_url.
    stream_url: str | None = Field(default=None, pattern=r"^wss?://[^\s?#]+$")
    # Whether a token may go to another machine without encryption.
    insecure_http: bool = False
    # The settings that hold the account's id and its token.
    client_id: str = "DHAN_CLIENT_ID"
    access_token: str = "DHAN_ACCESS_TOKEN"  # noqa: S105 (its name)

    @property
    def stream(self) -> str:
        """The host of the live feed."""
        if self.stream_url or self.base_url == BASE_URL:
            return self.stream_url or FEED_URL
        return "ws" + self.base_url.removeprefix("http")


# The name written beside candles that are made from the feed's trades.
FEED = "dhan-feed"


class DhanSource(HttpSource[DhanOptions]):
    """Candles of whatever has a security id, closed ones and within the session only."""

    kind = "dhan"
    provisional = (FEED,)
    options_model = DhanOptions
    native_timeframes = (*INTERVALS, Timeframe.D1)

    def symbol(self, instrument: str) -> str:
        """See HttpSource; Dhan knows an instrument by an id, and may give it another one."""
        return instrument

    def fetch(self, requests: Sequence[Request], now: datetime) -> Iterator[Fetched]:
        """See Source; closed is what has ended by the machine's clock and by the venue's."""
        names = (self._options.client_id, self._options.access_token)
        values = [self._secrets(name) or "" for name in names]
        unfit = [name for name, value in zip(names, values, strict=True) if not value or not is_fit_for_a_header(value)]
        if not unfit:
            headers = {"client-id": values[0], "access-token": values[1]}
            return in_background(partial(self._produce, requests, instant(now), headers))
        error = PermanentError(
            f"Dhan wants a client id and an access token; not set, or with blanks or characters that neither has: "
            f"{', '.join(unfit)}; put them into .env or the environment"
        )
        return (failed(request, error) for request in requests)

    async def _produce(
        self, requests: Sequence[Request], now: np.datetime64, headers: Mapping[str, str], put: Put
    ) -> None:
        async with self._client(self._options.base_url, self._limits(), headers) as client:
            await side_by_side(requests, partial(self._chunks, client, now), put)

    def _limits(self) -> Limits:
        venue = venue_at(self.kind, self._options.base_url)
        by_second = self._limit(f"{venue}-second", 1, SECONDS_PER_REQUEST)
        by_day = self._limit(f"{venue}-day", REQUESTS_PER_DAY, 24 * 3600.0)
        return Limits([by_second, by_day])

    async def _chunks(self, client: Client, now: np.datetime64, request: Request) -> AsyncGenerator[Fetched, None]:
        """A chunk per window, oldest first.

        An empty window on days of trade is believed only where it may lie before the share was listed: with nothing
        before it, and candles after it.
        """
        series, since, until = request.series, request.since, min(request.until, now)
        found = False
        while since < until:
            started = time.monotonic()
            end = until if series.timeframe is Timeframe.D1 else min(since + WINDOW, until)
            question = self._question(request, since, end, now)
            candles = await self._answer(client, question)
            found = found or len(candles) > 0
            if len(candles) == 0 and question.is_due and (found or end == until):
                raise TransientError(_unbelievable(question))
            since = end
            yield Fetched(series, question.closed(candles), last=bool(end == until), seconds=time.monotonic() - started)
            if end == until:
                return
        yield Fetched(series, Candles.none())

    def _question(
        self, request: Request, since: np.datetime64, until: np.datetime64, now: np.datetime64
    ) -> "_Question":
        details = self._market.instruments[request.series.instrument]
        security_id = str(details.ids.get("security_id", ""))
        if not security_id:
            raise PermanentError(
                "no security id is known; say `ids: {security_id: ...}` in the market's YAML, or have a column "
                "security_id in its universe (refresh universe makes one)"
            )
        is_index = details.asset_class == "index"
        grid = self._market.calendar if self._market.calendar.name == NSE.name else NSE
        is_due = _is_due(grid, request.series.timeframe, since, until, now)
        return _Question(
            self._options, grid, request.series.timeframe, security_id, is_index, since, until, now, is_due
        )

    async def _answer(self, client: Client, question: "_Question") -> Candles:
        path = "/charts/historical" if question.timeframe is Timeframe.D1 else "/charts/intraday"
        candles = Candles.none()
        for attempt in range(EMPTY_ANSWERS):
            candles = await client.post(path, question.body(), 1, question.read)
            if len(candles) or candles.malformed or not question.is_due:
                break
            await asyncio.sleep(self._retry_policy.first_wait * 2**attempt)
        return candles


@dataclass(slots=True)
class _Question:
    """One request to the venue: what is asked, and how its answer is to be read."""

    options: DhanOptions
    grid: Calendar
    timeframe: Timeframe
    security_id: str
    is_index: bool
    since: np.datetime64
    until: np.datetime64
    # The earlier of the machine's clock and the venue's.
    now: np.datetime64
    # Whether the exchange was open, so that there must be candles.
    is_due: bool

    def body(self) -> dict[str, Any]:
        """What is sent; times are India's."""
        since, until = ((moment + INDIA).astype(datetime) for moment in (self.since, self.until))
        body = {
            "securityId": self.security_id,
            "exchangeSegment": "IDX_I" if self.is_index else "NSE_EQ",
            "instrument": "INDEX" if self.is_index else "EQUITY",
            "oi": False,
        }
        if self.timeframe is Timeframe.D1:
            # The last day itself does not come.
            last = until - timedelta(microseconds=1) + timedelta(days=1)
            return body | {"expiryCode": 0, "fromDate": f"{since:%Y-%m-%d}", "toDate": f"{last:%Y-%m-%d}"}
        dates = {"fromDate": f"{since:%Y-%m-%d %H:%M:%S}", "toDate": f"{until:%Y-%m-%d %H:%M:%S}"}
        return body | {"interval": INTERVALS[self.timeframe]} | dates

    def read(self, response: httpx.Response) -> Candles:
        """The candles of a good answer, the forming one and other times included.

        Raises:
            PermanentError, TransientError: the answer is not good.
        """
        if (served := served_at(response)) is not None:
            self.now = min(self.now, instant(served))
        columns = _read_columns(self.options, response)
        candles = Candles.none() if columns is None else read_candles(columns)
        shifted = candles.open_time + LEGACY_EPOCH
        astray = (candles.open_time < self.since - DAY) | (candles.open_time >= self.until + DAY)
        if (astray & (shifted >= self.since - DAY) & (shifted < self.until + DAY)).any():
            raise PermanentError(
                f"asked for candles from {self.since} to {self.until}, received {candles.open_time[0]}: these stamps "
                f"count from 1980, as in the documents' examples, and are not guessed at; nothing was stored"
            )
        return candles

    def closed(self, candles: Candles) -> Candles:
        """Those that were asked for, have ended and belong to a session."""
        wanted = candles.between(self.since, self.until)
        wanted = wanted.where(self.grid.closes(self.timeframe, wanted.open_time) <= self.now).sorted()
        return wanted if self.timeframe is Timeframe.D1 else within_sessions(wanted, self.grid)


def within_sessions(candles: Candles, grid: Calendar) -> Candles:
    """Without the prints before the opening and after the close, which are no candles of the session.

    On a day of which the calendar has no session everything stays, and past the day up to which it is known.
    """
    opens = candles.open_time
    mornings = grid.floor(Timeframe.D1, opens) + MORNING
    return candles.where(grid.is_open(opens) | ~grid.is_open(mornings) | ~grid.is_known(opens))


def read_candles(columns: Mapping[str, Sequence[Any]]) -> Candles:
    """Candles from an answer's columns: a price that is no number is NaN, a row without a time is set aside.

    >>> read_candles({"open": [1], "high": [2], "low": [1], "close": [2], "volume": [5],
    ...               "timestamp": [1644378300]}).open_time
    array(['2022-02-09T03:45:00.000000'], dtype='datetime64[us]')
    """
    numbers = {name: _floats(values) for name, values in columns.items()}
    seconds = numbers.pop("timestamp")
    with np.errstate(invalid="ignore"):
        is_time = (seconds >= 0) & (seconds < LATEST_SECOND)
    unreadable = [{name: values[row] for name, values in columns.items()} for row in np.flatnonzero(~is_time).tolist()]
    rejected = tuple(malformed(row, "its time cannot be read") for row in unreadable)
    opens = (seconds[is_time].astype(np.int64) * 1_000_000).astype(TIME_UNIT)
    return Candles(opens, {name: values[is_time] for name, values in numbers.items()}, rejected)


def _floats(values: Sequence[Any]) -> Floats:
    try:
        return floats([values]).reshape(len(values))
    except (TypeError, ValueError, OverflowError):
        return np.array([number(value) for value in values], dtype=np.float64)


def _is_due(
    grid: Calendar, timeframe: Timeframe, since: np.datetime64, until: np.datetime64, now: np.datetime64
) -> bool:
    """Whether candles that open from one instant to another must have come by now; a day's takes until the next."""
    latest = now - (DAY if timeframe is Timeframe.D1 else LATENCY)
    opens = grid.open_times(timeframe, since, grid.known_end(until))
    return bool((grid.closes(timeframe, opens) <= latest).any())


def _unbelievable(question: _Question) -> str:
    return (
        f"nothing from {question.since.astype('datetime64[s]')} to {question.until.astype('datetime64[s]')} UTC, in "
        f"{EMPTY_ANSWERS} answers, though the exchange was open: the same comes for a security id that is not known "
        f"({question.security_id}; refresh universe looks it up) and during an outage at Dhan; a later run will retry"
    )


def _read_columns(options: DhanOptions, response: httpx.Response) -> dict[str, list[Any]] | None:
    """The columns of a good answer, None where it says that there is no data.

    Raises:
        PermanentError, TransientError: the answer is not good, by its status or by the code in it.
    """
    body, _ = json_body(response)
    code, message = _complaint(body)
    if code == NO_DATA_CODE:
        return None
    if code or not response.is_success:
        raise _error(options, response, code, message)
    columns = _columns(body) if isinstance(body, dict) else {}
    if len(columns) <= len(CANDLE_COLUMNS):
        raise unexpected(response, "columns of candles", "; is base_url right?")
    if len({len(values) for values in columns.values()}) > 1:
        lengths = ", ".join(f"{name} {len(values)}" for name, values in columns.items())
        raise TransientError(f"expected columns of one length, received {lengths}")
    return columns


def _columns(body: Mapping[str, Any]) -> dict[str, list[Any]]:
    stamps = next((name for name in STAMPS if name in body), STAMPS[0])
    named = {name: body.get(name) for name in CANDLE_COLUMNS} | {"timestamp": body.get(stamps)}
    return {name: values for name, values in named.items() if isinstance(values, list)}


def _complaint(body: Any) -> tuple[str, str]:
    """Code and message of each of the three ways in which something is refused, under whatever status."""
    if not isinstance(body, dict):
        return "", ""
    if "errorCode" in body or "errorType" in body:
        return str(body.get("errorCode") or body.get("errorType")), str(body.get("errorMessage"))
    if body.get("status") == "failed":
        data = body.get("data")
        found = next(iter(data.items()), None) if isinstance(data, dict) else None
        return (str(found[0]), str(found[1])) if found else ("failed", str(body.get("remarks") or data))
    if "error" in body and "path" in body:
        return str(body.get("status")), f"{body['error']}: {body['path']}"
    return "", ""


def _error(options: DhanOptions, response: httpx.Response, code: str, message: str) -> SourceError:
    text = f"HTTP {response.status_code}"
    text += f", code {code}: {excerpt(message)}" if code else f": {excerpt(response.text)}"
    if code in RATE_CODES or response.status_code == 429:
        return RateLimited(text, retry_after(response))
    if code in TOKEN_CODES or response.status_code == 401 or "token" in message.lower():
        return AccessDenied(
            f"{text} An access token lasts 24 hours: renew it, or make a new one at web.dhan.co (My Profile, Access "
            f"DhanHQ APIs), and put it into {options.access_token}; {options.client_id} must be the same account's"
        )
    if code in ACCOUNT_CODES:
        return AccessDenied(
            f"{text} What the account may do is shown at web.dhan.co (My Profile, Access DhanHQ APIs): candles need "
            f"its data plan"
        )
    by_http = by_status(response)
    if code in TRANSIENT_CODES or isinstance(by_http, TransientError):
        return TransientError(text)
    if response.status_code == 404:
        return PermanentError(f"{text}; is base_url right?")
    return PermanentError(text)
