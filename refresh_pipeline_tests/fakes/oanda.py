"""OANDA's candles in miniature: over real HTTP on loopback, with its refusals and faults.

    with FakeOanda(now=datetime(2024, 6, 7, 12, 0, 30, tzinfo=UTC)) as venue:
        ...  # put venue.base_url into a market's YAML, and venue.token into the source's secrets
        venue.correct("EUR_USD", "M1", "2024-06-07T11:59", c="1.20000")
        venue.fail(TOO_MANY_REQUESTS, path="XAU_USD")

Candles are invented: each is a function of instrument, granularity and opening time alone. There are none while the
market is closed (Friday to Sunday 17:00 New York). The newest is there while it forms, with `complete` false.
"""

import bisect
import json
import zlib
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
from aiohttp import web

from refresh_pipeline_tests.fakes.http_server import Fault, LoopbackServer

MINUTES = {"M1": 1, "M2": 2, "M4": 4, "M5": 5, "M10": 10, "M15": 15, "M30": 30, "H1": 60, "H2": 120, "H3": 180}
MINUTES |= {"H4": 240, "H6": 360, "H8": 480, "H12": 720, "D": 1440, "W": 7 * 1440, "M": 30 * 1440}
MAX_COUNT, DEFAULT_COUNT = 5000, 500
WEEKDAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
PARAMETERS = {"price", "granularity", "count", "from", "to", "smooth", "includeFirst"}
PARAMETERS |= {"dailyAlignment", "alignmentTimezone", "weeklyAlignment"}
INSTRUMENTS = ("EUR_USD", "USD_JPY", "GBP_USD", "AUD_USD", "USD_CAD", "USD_CHF", "NZD_USD", "EUR_JPY", "GBP_JPY")
INSTRUMENTS += ("EUR_GBP", "AUD_JPY", "EUR_CHF", "XAU_USD", "XAG_USD", "SPX500_USD")
NEW_YORK = ZoneInfo("America/New_York")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
HEADERS = {"RequestID": "42359180358046734"}


def error(status: int, message: str, headers: dict[str, str] | None = None) -> Fault:
    """A refusal in the venue's envelope."""
    return Fault(status, {"errorMessage": message}, HEADERS | (headers or {}))


TOO_MANY_REQUESTS = error(429, "Too many requests")
UNAUTHORIZED = error(401, "Insufficient authorization to perform request.")
INTERNAL_ERROR = error(500, "An internal server error has occurred")
BUSY = error(503, "Service temporarily unavailable")
BAD_GATEWAY = Fault(502, "<html><body>502 Bad Gateway</body></html>")
NOT_JSON = Fault(200, "<html><body>Welcome to this hotel's network</body></html>")
NO_CANDLES = Fault(200, {"instrument": "EUR_USD"})
TORN = Fault(200, '{"instrument":"EUR_USD","candles":[{"compl')
DROPPED = Fault(drops=True)
NOT_THERE = Fault(404, "<html><body>404 Not Found</body></html>")


class FakeOanda(LoopbackServer):
    """The venue. `asked` lists what it was asked, `fail` plans faults, `now` is its clock."""

    def __init__(
        self,
        now: datetime,
        instruments: Iterable[str] = INSTRUMENTS,
        token: str = "t0ken-7f1c",
        count_is_time: bool = False,
        listed: datetime = datetime(2005, 1, 2, tzinfo=UTC),
    ) -> None:
        """A venue with these instruments.

        Args:
            now: the server's clock, frozen until it is set again.
            instruments: what the account may see; any other gets 400.
            token: who says another, or none, gets 401.
            count_is_time: whether `count` counts steps of time, in a weekend as well, or candles that there are.
            listed: no candle opens before it.
        """
        super().__init__()
        self.now = now
        self.instruments = set(instruments)
        self.token = token
        self.count_is_time = count_is_time
        self.listed = listed
        self._changed: dict[tuple[str, str, datetime], Any] = {}

    def candle(self, instrument: str, granularity: str, open_time: str) -> dict[str, Any]:
        """The candle that opens then, as it is served when all sides are asked for."""
        return self._row(instrument, granularity, _at(open_time), "MBA")

    def correct(self, instrument: str, granularity: str, open_time: str, side: str = "mid", **prices: Any) -> None:
        """Change prices (o, h, l, c) of a candle after the fact."""
        row = self.candle(instrument, granularity, open_time)
        self.replace(instrument, granularity, open_time, row | {side: row[side] | prices})

    def replace(self, instrument: str, granularity: str, open_time: str, row: Any) -> None:
        """Serve any JSON in place of a candle."""
        self._changed[instrument, granularity, _at(open_time)] = row

    def remove(self, instrument: str, granularity: str, open_time: str) -> None:
        """Nobody traded then."""
        self._changed[instrument, granularity, _at(open_time)] = None

    @property
    def pages(self) -> list[tuple[str, str, str]]:
        """Instrument, granularity and `from` of each request, in the order they came."""
        return [(each.path.split("/")[3], each.query["granularity"], each.query["from"]) for each in self.asked]

    async def answer(self, request: web.Request) -> web.Response:
        """See the contract."""
        status, body = self._body(request)
        return web.Response(text=json.dumps(body), status=status, headers=HEADERS, content_type="application/json")

    def _body(self, request: web.Request) -> tuple[int, Any]:
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return 401, UNAUTHORIZED.body
        parts = request.path.split("/")
        if parts[:3] == ["", "v3", "accounts"] and parts[4:] == ["candles", "latest"]:
            return 200, {
                "latestCandles": [self._latest(spec) for spec in request.query["candleSpecifications"].split(",")]
            }
        if len(parts) != 5 or parts[:3] != ["", "v3", "instruments"] or parts[4] != "candles":
            return 404, {"errorMessage": "The endpoint does not exist"}
        query = dict(request.query)
        if wrong := self._wrong_with(parts[3], query):
            return 400, {"errorMessage": wrong}
        granularity = query.get("granularity", "S5")
        opens = self._opens(granularity, query)
        rows = [self._row(parts[3], granularity, at, query.get("price", "M")) for at in opens]
        rows = [row for row in rows if row is not None]
        return 200, {"instrument": parts[3], "granularity": granularity, "candles": rows}

    def _latest(self, spec: str) -> dict[str, Any]:
        """The newest complete candle and the one that forms."""
        instrument, granularity, sides = spec.split(":")
        step = timedelta(minutes=MINUTES[granularity])
        opens = _grid(granularity, self.now - 3 * step, self.now, {})[-2:]
        rows = [self._row(instrument, granularity, at, sides) for at in opens]
        return {"instrument": instrument, "granularity": granularity, "candles": [row for row in rows if row]}

    def _wrong_with(self, instrument: str, query: dict[str, str]) -> str | None:
        wrong = "Invalid value specified for '{}'"
        if instrument not in self.instruments:
            return wrong.format("instrument")
        if unknown := query.keys() - PARAMETERS:
            return wrong.format(sorted(unknown)[0])
        if query.get("granularity") not in MINUTES:
            return wrong.format("granularity")
        if not query.get("price", "M") or set(query.get("price", "M")) - set("MBA"):
            return wrong.format("price")
        for name in ("from", "to"):
            try:
                is_future = name in query and _at(query[name].removesuffix("Z")) > self.now
            except ValueError:
                return wrong.format(name)
            if is_future:
                return f"{wrong.format(name)}. Time is in the future"
        return _wrong_with_count(query)

    def _opens(self, granularity: str, query: dict[str, str]) -> list[datetime]:
        first = _at(query["from"].removesuffix("Z"))
        count = int(query.get("count", DEFAULT_COUNT))
        step = timedelta(minutes=MINUTES[granularity])
        until = _at(query["to"].removesuffix("Z")) if "to" in query else self.now + timedelta(microseconds=1)
        if self.count_is_time and "to" not in query:
            until = min(until, first + step * count)
        # Enough for a page with two weekends in each week of it.
        grid = _grid(granularity, max(first, self.listed), min(until, first + step * count * 3 + 9 * DAY), query)
        # The candle that covers `from` is the first, unless it is not to be included.
        covering = bisect.bisect_right(grid, first)
        is_included = query.get("includeFirst", "True").lower() == "true"
        start = covering - 1 if is_included and covering and grid[covering - 1] + step > first else covering
        there = [at for at in grid[start:] if at < until and at >= self.listed]
        return there if "to" in query else there[:count]

    def _row(self, instrument: str, granularity: str, at: datetime, sides: str) -> Any:
        key = (instrument, granularity, at)
        if key in self._changed:
            return self._changed[key]
        minutes = MINUTES[granularity]
        pips = 3 if "JPY" in instrument or instrument.startswith(("X", "SPX")) else 5
        at_open, at_close = (_price(instrument, moment) for moment in (at, at + timedelta(minutes=minutes)))
        mid = [at_open, max(at_open, at_close) * 1.0004, min(at_open, at_close) * 0.9996, at_close]
        spread = {"M": 0.0, "B": -0.00005, "A": 0.00005}
        row: dict[str, Any] = {
            "complete": at + timedelta(minutes=minutes) <= self.now,
            "volume": 20 + int(at.timestamp() // 60) % 97,
            "time": f"{at:%Y-%m-%dT%H:%M:%S}.000000000Z",
        }
        for letter, side in (("B", "bid"), ("M", "mid"), ("A", "ask")):
            if letter in sides:
                prices = [f"{price * (1 + spread[letter]):.{pips}f}" for price in mid]
                row[side] = dict(zip("ohlc", prices, strict=True))
        return row


def _wrong_with_count(query: dict[str, str]) -> str | None:
    if "count" in query and {"from", "to"} <= query.keys():
        return "'count' cannot be specified when both 'from' and 'to' are specified"
    if not query.get("count", "1").isdigit() or int(query.get("count", "1")) < 1:
        return "Invalid value specified for 'count'"
    step = timedelta(minutes=MINUTES[query["granularity"]])
    implied = 0.0
    if {"from", "to"} <= query.keys():
        implied = (_at(query["to"].removesuffix("Z")) - _at(query["from"].removesuffix("Z"))) / step
    return "Maximum value for 'count' exceeded" if max(implied, int(query.get("count", "1"))) > MAX_COUNT else None


def _at(text: str) -> datetime:
    return datetime.fromisoformat(text[:26]).replace(tzinfo=UTC)


def _grid(granularity: str, first: datetime, last: datetime, query: dict[str, str]) -> list[datetime]:
    """The opening times from the bar that `first` lies in to the last that begins before `last`."""
    if MINUTES[granularity] <= 60:
        step = timedelta(minutes=MINUTES[granularity])
        start = first - (first - EPOCH) % step
        return [at for at in (start + step * n for n in range(max(0, -(-(last - start) // step)))) if _is_open(at)]
    zone = ZoneInfo(query.get("alignmentTimezone", "America/New_York"))
    hour = int(query.get("dailyAlignment", 17))
    opens: list[datetime] = []
    day = first.astimezone(zone).date() - 40 * DAY
    while day <= last.astimezone(zone).date():
        opens += _of_day(granularity, day, zone, hour, query.get("weeklyAlignment", "Friday"))
        day += DAY
    starts = [at for at in opens if at <= first]
    return [at for at in opens if at >= (starts[-1] if starts else first) and at < last]


def _of_day(granularity: str, day: Any, zone: ZoneInfo, hour: int, weekday: str) -> list[datetime]:
    """The bars that begin in the trading day which opens on this date."""
    opening = datetime(day.year, day.month, day.day, hour, tzinfo=zone)
    if granularity == "W":
        return [opening.astimezone(UTC)] if day.weekday() == WEEKDAYS.index(weekday) else []
    if granularity == "M":
        return [opening.astimezone(UTC)] if (day + DAY).day == 1 else []
    hours = MINUTES[granularity] // 60
    # On the wall clock: an aware datetime plus hours is the same wall clock, so many hours on.
    starts = [(opening + timedelta(hours=n)).astimezone(UTC) for n in range(0, 24, hours)]
    return [at for at in starts if _is_open(at)]


def _is_open(at: datetime) -> bool:
    local = at.astimezone(NEW_YORK)
    return not (local.weekday() == 5 or (local.weekday() == 4 and local.hour >= 17) or
                (local.weekday() == 6 and local.hour < 17))  # fmt: skip


def _price(instrument: str, at: datetime) -> float:
    days = at.timestamp() / 86400
    base = 0.5 + zlib.crc32(instrument.encode()) % 1500 / 1000
    scale = {"XAU_USD": 2000.0, "SPX500_USD": 4000.0, "XAG_USD": 20.0}.get(
        instrument, 100.0 if "JPY" in instrument else 1
    )
    wave = 0.05 * np.sin(days / 40) + 0.005 * np.sin(days * 3) + 0.0006 * np.sin(days * 200)
    return float(base * scale * (1 + wave))
