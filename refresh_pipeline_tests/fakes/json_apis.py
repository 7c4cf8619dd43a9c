"""APIs of candles in miniature, as documented: CoinGecko, CryptoCompare, Tiingo, Twelve Data.

    with FakeJsonApi(now=NOW) as api:
        ...  # put api.base_url into a market's YAML of kind http

Candles are invented: a function of symbol and opening time alone. The forming candle is sent along, as all of them do.
"""

import time
import zlib
from datetime import UTC, date, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import numpy as np
from aiohttp import web

from refresh_pipeline_tests.fakes.http_server import LoopbackServer

MINUTE = 60
LENGTHS = {"histominute": 60, "histohour": 3600, "histoday": 86400}
LENGTHS |= {"1min": 60, "5min": 300, "15min": 900, "30min": 1800, "1h": 3600}
KEY = "key-0123456789"
# Of Tiingo's ticker AAPL.
DIVIDENDS, SPLITS = {date(2024, 5, 29): 0.25}, {date(2024, 6, 5): 4.0}
CLOSED = {date(2024, 5, 27)}


def values(symbol: str, open_time: int) -> dict[str, float]:
    """The candle that opens at so many seconds since 1970."""
    base = 10 + zlib.crc32(symbol.encode()) % 90
    opened, closed = (base + np.sin(at / 5000) for at in (open_time, open_time + 60))
    low, high = min(opened, closed) - 0.5, max(opened, closed) + 0.5
    named = {"open": opened, "high": high, "low": low, "close": closed, "volume": 5 + open_time % 7}
    return {name: round(float(value), 4) for name, value in named.items()}


def daily(ticker: str, day: date) -> dict[str, Any]:
    """The row of a day as Tiingo's documentation shows it, raw and adjusted prices side by side."""
    raw = values(ticker, int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()))
    adjusted = {f"adj{name.capitalize()}": value / 4 for name, value in raw.items() if name != "volume"}
    events = {"divCash": DIVIDENDS.get(day, 0.0), "splitFactor": SPLITS.get(day, 1.0)}
    return {"date": f"{day}T00:00:00.000Z", **raw, **adjusted, "adjVolume": raw["volume"] * 4, **events}


class FakeJsonApi(LoopbackServer):
    """All venues at one address; `now` is their clock."""

    def __init__(self, now: datetime) -> None:
        super().__init__()
        self.now = now

    async def answer(self, request: web.Request) -> web.Response:
        """By the path: whose it is."""
        query = dict(request.query)
        if request.path.endswith("/ohlc"):
            body = self._coingecko(request.path.split("/")[4], int(query["days"]))
        elif request.path.startswith("/data/v2/"):
            body = self._cryptocompare(request.path.rpartition("/")[2], query, request.headers.get("authorization"))
        elif request.path == "/time_series":
            body = self._twelvedata(query)
        elif request.path.startswith("/tiingo/daily/"):
            return self._tiingo(request.path.split("/")[3], query, request.headers.get("authorization"))
        else:
            return web.json_response({"error": "not found"}, status=404)
        return web.json_response(body, headers={"Date": format_datetime(self.now, usegmt=True)})

    def _opens(self, first: float, last: float, length: int) -> list[int]:
        """Openings from `first` to `last`, both included, as far as they have begun."""
        end = min(last, self.now.timestamp())
        return list(range(int(-(-first // length) * length), int(end) + 1, length))

    def _coingecko(self, symbol: str, days: int) -> list[Any]:
        length = 1800 if days <= 2 else 4 * 3600
        opens = self._opens(self.now.timestamp() - days * 86400, self.now.timestamp(), length)
        rows = [(at, values(symbol, at)) for at in opens]
        return [[(at + length) * 1000, row["open"], row["high"], row["low"], row["close"]] for at, row in rows]

    def _cryptocompare(self, what: str, query: dict[str, str], authorization: str | None) -> dict[str, Any]:
        if authorization != f"Apikey {KEY}":
            return {"Response": "Error", "Message": "You need a valid auth key or api key", "Type": 2, "Data": {}}
        limit, length = int(query["limit"]), LENGTHS[what]
        if limit > 2000:
            return {"Response": "Error", "Message": "limit is larger than max value.", "Type": 2, "Data": {}}
        last = int(query["toTs"]) // length * length
        opens = self._opens(last - limit * length, last, length)
        symbol = query["fsym"] + query["tsym"]
        data = [{"time": at, **_renamed(values(symbol, at)), "conversionType": "direct"} for at in opens]
        return {
            "Response": "Success",
            "Message": "",
            "HasWarning": False,
            "Type": 100,
            "RateLimit": {},
            "Data": {"Aggregated": False, "TimeFrom": opens[0], "TimeTo": opens[-1], "Data": data},
        }

    def _tiingo(self, ticker: str, query: dict[str, str], authorization: str | None) -> web.Response:
        if authorization != f"Token {KEY}":
            return web.json_response({"detail": "Invalid token."}, status=401)
        if ticker != "AAPL":
            return web.json_response({"detail": f"Not found: Ticker {ticker!r} not found"}, status=404)
        first, last = (date.fromisoformat(query[name]) for name in ("startDate", "endDate"))
        days = [first + timedelta(days=number) for number in range((min(last, self.now.date()) - first).days + 1)]
        rows = [daily(ticker, day) for day in days if day.weekday() < 5 and day not in CLOSED]
        return web.json_response(rows, headers={"Date": format_datetime(self.now, usegmt=True)})

    def _twelvedata(self, query: dict[str, str]) -> dict[str, Any]:
        if query.get("apikey") != KEY:
            return {"code": 401, "message": f"**apikey** {query.get('apikey')} is incorrect", "status": "error"}
        if int(query["outputsize"]) > 5000:
            return {"code": 400, "message": "**outputsize** must be 5000 or less", "status": "error"}
        first, last = (_seconds(query[name]) for name in ("start_date", "end_date"))
        opens = self._opens(first, last, LENGTHS[query["interval"]])[-int(query["outputsize"]) :]
        if not opens:
            message = "No data is available on the specified dates. Try setting different start/end dates."
            return {"code": 400, "message": message, "status": "error"}
        rows = []
        for at in reversed(opens):
            written = {name: f"{value:.5f}" for name, value in values(query["symbol"], at).items() if name != "volume"}
            rows.append({"datetime": time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(at)), **written})
        meta = {"symbol": query["symbol"], "interval": query["interval"], "type": "Physical Currency"}
        return {"meta": meta, "values": rows, "status": "ok"}


def _renamed(row: dict[str, float]) -> dict[str, float]:
    return {{"volume": "volumefrom"}.get(name, name): value for name, value in row.items()}


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()
