"""Binance spot in miniature: klines, time and exchangeInfo over real HTTP on loopback, weights and faults included.

    with FakeBinance(now=datetime(2024, 6, 1, 12, 0, 30, tzinfo=UTC)) as venue:
        ...  # put venue.base_url into a market's YAML
        venue.correct("BTCUSDT", "1m", "2024-06-01T11:59", close="70000.00000000")
        venue.fail(TOO_MANY_REQUESTS, symbol="ETHUSDT")

Candles are invented: each is a function of symbol, interval and opening time alone, so every instance agrees.
Its klines are strict where the venue is (cases, ranges, errors), so a client that passes here speaks its contract.
"""

import json
import time
import zlib
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import numpy as np
from aiohttp import web

from refresh_pipeline_tests.fakes.http_server import Fault, LoopbackServer

MINUTE_MS = 60_000
DAY_MS = 1440 * MINUTE_MS
INTERVALS_MS = {
    "1m": MINUTE_MS,
    "3m": 3 * MINUTE_MS,
    "5m": 5 * MINUTE_MS,
    "15m": 15 * MINUTE_MS,
    "30m": 30 * MINUTE_MS,
    "1h": 60 * MINUTE_MS,
    "2h": 120 * MINUTE_MS,
    "4h": 240 * MINUTE_MS,
    "6h": 360 * MINUTE_MS,
    "8h": 480 * MINUTE_MS,
    "12h": 720 * MINUTE_MS,
    "1d": DAY_MS,
    "3d": 3 * DAY_MS,
    "1w": 7 * DAY_MS,
    "1M": 30 * DAY_MS,
}
FIRST_MONDAY_MS = 4 * DAY_MS
MAX_LIMIT = 1000
DEFAULT_LIMIT = 500
WEIGHTS = {"/api/v3/ping": 1, "/api/v3/time": 1, "/api/v3/exchangeInfo": 20, "/api/v3/klines": 2}
KLINES_PARAMETERS = {"symbol", "interval", "startTime", "endTime", "timeZone", "limit"}
SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDT", "BNBUSDT", "DOGEUSDT", "ADAUSDT", "TRXUSDT", "AVAXUSDT")
SYMBOLS += ("LINKUSDT", "SUIUSDT", "XLMUSDT", "LTCUSDT", "BCHUSDT", "HBARUSDT", "DOTUSDT", "UNIUSDT", "NEARUSDT")
SYMBOLS += ("AAVEUSDT", "ETCUSDT")
LISTED = datetime(2017, 8, 17, tzinfo=UTC)


def too_many_requests(retry_after: float | str | None = 0.05) -> Fault:
    """429, as it comes when the weight of the minute is used up."""
    body = _error(-1003, "Too much request weight used; current limit is 6000 request weight per 1 MINUTE.")
    return Fault(429, body, _retry_after(retry_after))


def banned(retry_after: float | str | None = 120) -> Fault:
    """418, as it comes to those who went on after 429."""
    body = _error(-1003, "Way too much request weight used; IP banned until 1785050129644.")
    return Fault(418, body, _retry_after(retry_after))


def slow(seconds: float) -> Fault:
    """The right answer, late."""
    return Fault(delay=seconds)


def _error(code: int, message: str) -> dict[str, Any]:
    return {"code": code, "msg": message}


def _retry_after(value: float | str | None) -> dict[str, str]:
    return {} if value is None else {"Retry-After": str(value)}


TOO_MANY_REQUESTS = too_many_requests()
BANNED = banned()
INTERNAL_ERROR = Fault(500, _error(-1000, "An unknown error occurred while processing the request."))
BUSY = Fault(503, _error(-1008, "Server is currently overloaded with other requests."))
BACKEND_TIMEOUT = Fault(400, _error(-1007, "Timeout waiting for response from backend server."))
OVER_LIMIT_IN_200 = Fault(200, _error(-1003, "Too many requests queued."))
BAD_GATEWAY = Fault(502, "<html><body>502 Bad Gateway</body></html>")
FIREWALL = Fault(403, "<html><head><title>403 Forbidden</title></head><body>request blocked</body></html>")
WRONG_PLACE = Fault(451, _error(0, "Service unavailable from a restricted location according to 'b. Eligibility'."))
NOT_JSON = Fault(200, "<html><body>Welcome to this hotel's network</body></html>")
NOT_A_LIST = Fault(200, {"hello": "world"})
DROPPED = Fault(drops=True)


class FakeBinance(LoopbackServer):
    """The venue. `asked` lists what it was asked, `fail` plans faults, `now` is its clock: a frozen one, or None."""

    def __init__(
        self,
        symbols: Iterable[str] = SYMBOLS,
        now: datetime | None = None,
        page_cap: int = MAX_LIMIT,
        weight_per_minute: int = 6000,
        listed: datetime = LISTED,
        port: int = 0,
    ) -> None:
        """A venue with these symbols.

        Args:
            symbols: what is traded; any other gets -1121.
            now: the server's clock, frozen until it is set again; None for the machine's.
            page_cap: the most rows it gives for one request, whatever limit is asked for.
            weight_per_minute: the limit it states and enforces, by the machine's minutes.
            listed: no candle opens before it.
            port: where it listens; 0 for any that is free.
        """
        super().__init__(port)
        self.symbols = set(symbols)
        self.now = now
        self.page_cap = page_cap
        self.weight_per_minute = weight_per_minute
        self.listed = listed
        # Weight used by machine minute; tests may add what "another program" uses.
        self.used: dict[int, int] = {}
        # 1000 lets times be microseconds, as the venue does when asked by header.
        self.stamps_per_ms = 1
        self._changed: dict[tuple[str, str, int], list[Any] | None] = {}

    def candle(self, symbol: str, interval: str, open_time: str) -> list[Any]:
        """The kline that opens then, as it is served."""
        return self._rows(symbol, interval, np.array([_ms(open_time)], dtype=np.int64))[0]

    def correct(self, symbol: str, interval: str, open_time: str, **fields: str) -> None:
        """Change a candle after the fact: open, high, low, close or volume."""
        row = self.candle(symbol, interval, open_time)
        for name, value in fields.items():
            row[("open", "high", "low", "close", "volume").index(name) + 1] = value
        self.replace(symbol, interval, open_time, row)

    def replace(self, symbol: str, interval: str, open_time: str, row: Any) -> None:
        """Serve any JSON in place of a candle."""
        self._changed[symbol, interval, _ms(open_time)] = row

    def remove(self, symbol: str, interval: str, open_time: str) -> None:
        """Leave a hole where a candle was."""
        self._changed[symbol, interval, _ms(open_time)] = None

    @property
    def pages(self) -> list[tuple[str, int]]:
        """Symbol and startTime of each request for klines, in the order they came."""
        return [
            (a.query["symbol"], int(a.query.get("startTime", -1))) for a in self.asked if a.path == "/api/v3/klines"
        ]

    async def answer(self, request: web.Request) -> web.Response:
        """See the contract; over the limit of weight everything is 429."""
        minute = int(time.time() // 60)
        self.used[minute] = self.used.get(minute, 0) + WEIGHTS.get(request.path, 1)
        used = self.used[minute]
        headers = {"X-MBX-USED-WEIGHT-1M": str(used), "X-MBX-USED-WEIGHT": str(used)}
        if used > self.weight_per_minute:
            left = 60 - int(time.time() % 60)
            return _json(too_many_requests().body, 429, headers | {"Retry-After": str(left)})
        status, body = self._body(request)
        return _json(body, status, headers)

    def _body(self, request: web.Request) -> tuple[int, Any]:
        if request.path == "/api/v3/ping":
            return 200, {}
        if request.path == "/api/v3/time":
            return 200, {"serverTime": self._now_ms()}
        if request.path == "/api/v3/exchangeInfo":
            return 200, self._exchange_info()
        if request.path == "/api/v3/klines":
            return self._klines(dict(request.query))
        return 404, {"timestamp": self._now_ms(), "status": 404, "error": "Not Found", "path": request.path}

    def _now_ms(self) -> int:
        return int((time.time() if self.now is None else self.now.timestamp()) * 1000)

    def _exchange_info(self) -> dict[str, Any]:
        weight = {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1}
        raw = {"rateLimitType": "RAW_REQUESTS", "interval": "MINUTE", "intervalNum": 5, "limit": 300_000}
        limits = [weight | {"limit": self.weight_per_minute}, raw]
        return {"timezone": "UTC", "serverTime": self._now_ms(), "rateLimits": limits, "symbols": []}

    def _klines(self, query: dict[str, str]) -> tuple[int, Any]:
        if wrong := self._wrong_with(query):
            return 400, wrong
        asked = int(query.get("limit", DEFAULT_LIMIT))
        rows = min(asked, MAX_LIMIT, self.page_cap)
        start, end = query.get("startTime"), query.get("endTime")
        opens = self._opens(query["interval"], start and int(start), end and int(end), rows)
        return 200, self._rows(query["symbol"], query["interval"], opens)

    def _wrong_with(self, query: dict[str, str]) -> dict[str, Any] | None:
        for name in ("symbol", "interval"):
            if not query.get(name):
                return _error(-1102, f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed.")
        if unread := query.keys() - KLINES_PARAMETERS:
            read = len(query) - len(unread)
            return _error(-1104, f"Not all sent parameters were read; read '{read}' but was sent '{len(query)}'.")
        for name in ("startTime", "endTime", "limit"):
            if not query.get(name, "1").isdigit():
                return _error(-1100, f"Illegal characters found in parameter '{name}'.")
        if query["symbol"] not in self.symbols:
            return _error(-1121, "Invalid symbol.")
        return None if query["interval"] in INTERVALS_MS else _error(-1120, "Invalid interval.")

    def _opens(self, interval: str, start: Any, end: Any, rows: int) -> np.ndarray:
        first = max(start or 0, int(self.listed.timestamp() * 1000))
        last = min(self._now_ms(), self._now_ms() if end is None else end)
        length = INTERVALS_MS[interval]
        if start is None:
            first = max(first, last - (rows + 1) * length)
        # One page is enough to look at, holes and short months included.
        grid = _grid(interval, first - length, min(last, first + 2 * (rows + 2 + len(self._changed)) * length))
        grid = grid[(grid >= first) & (grid <= last)]
        return grid[-rows:] if start is None else grid[:rows]

    def _rows(self, symbol: str, interval: str, opens: np.ndarray) -> list[Any]:
        ends = _grid_end(interval, opens)
        at_open, at_close = _price(symbol, opens), _price(symbol, ends)
        high, low = np.maximum(at_open, at_close) * 1.001, np.minimum(at_open, at_close) * 0.999
        volume = 100 + 50 * np.sin(opens / 1e7)
        stamps = self.stamps_per_ms
        rows = []
        for start, end, *prices, amount in zip(
            opens.tolist(), ends.tolist(), *(a.tolist() for a in (at_open, high, low, at_close, volume)), strict=True
        ):
            row = [start * stamps, *(f"{price:.8f}" for price in prices), f"{amount:.8f}", end * stamps - 1]
            row += [f"{amount * prices[3]:.8f}", 100, f"{amount / 2:.8f}", f"{amount * prices[3] / 2:.8f}", "0"]
            rows.append(self._changed.get((symbol, interval, start), row))
        return [row for row in rows if row is not None]


def _ms(open_time: str) -> int:
    return int(np.datetime64(open_time, "ms").astype(np.int64))


def _json(body: Any, status: int, headers: dict[str, str]) -> web.Response:
    return web.Response(
        text=json.dumps(body), status=status, headers=headers | {"Content-Type": "application/json;charset=UTF-8"}
    )


def _grid(interval: str, first: int, last: int) -> np.ndarray:
    if interval == "1M":
        start, end = (np.datetime64(moment, "ms").astype("datetime64[M]") for moment in (first, last))
        return np.arange(start, end + 1).astype("datetime64[ms]").astype(np.int64)
    length, since = INTERVALS_MS[interval], FIRST_MONDAY_MS if interval == "1w" else 0
    return np.arange(first - (first - since) % length, last + 1, length, dtype=np.int64)


def _grid_end(interval: str, opens: np.ndarray) -> np.ndarray:
    if interval == "1M":
        return (opens.astype("datetime64[ms]").astype("datetime64[M]") + 1).astype("datetime64[ms]").astype(np.int64)
    return opens + INTERVALS_MS[interval]


def _price(symbol: str, at: np.ndarray) -> np.ndarray:
    base = 1 + zlib.crc32(symbol.encode()) % 50_000
    days = at / DAY_MS
    return base * (1 + 0.2 * np.sin(days / 11) + 0.03 * np.sin(days * 5) + 0.004 * np.sin(days * 300))
