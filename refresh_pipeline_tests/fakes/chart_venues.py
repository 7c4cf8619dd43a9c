"""Venues that are asked for windows of time, in miniature: Yahoo, Alpaca, Bybit and OKX over real HTTP on loopback.

    with FakeYahoo(now) as venue:
        ...  # put venue.base_url into a market's YAML

Candles are invented: each is a function of its opening time alone. The newest is there while it forms.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from aiohttp import web

from refresh_pipeline_tests.fakes.http_server import LoopbackServer

MINUTES = {"1": 1, "1m": 1, "1Min": 1, "60": 60, "60m": 60, "1H": 60, "1Hour": 60}
DAYS = ("1d", "1Day", "D", "1Dutc")
KEY = {"APCA-API-KEY-ID": "PK0123456789", "APCA-API-SECRET-KEY": "s3cret-0123456789"}


# A share that is split four for one on one day, and pays a dividend on another.
SPLIT_SYMBOL = "AAPL"
SPLIT_DAY, DIVIDEND_DAY = (datetime(2024, 5, day, tzinfo=UTC) for day in (28, 30))


class FakeVenue(LoopbackServer):
    """What they share: a clock, the symbols that there are, and when the candles begin."""

    def __init__(self, now: datetime, symbols: tuple[str, ...], listed: datetime = datetime(2020, 1, 1, tzinfo=UTC)):
        """A venue at this time with these symbols."""
        super().__init__()
        self.now, self.symbols, self.listed = now, symbols, listed

    def opens(self, interval: str, since: datetime, until: datetime) -> list[datetime]:
        """The opening times from `since` to `until`, both included, up to the forming candle's."""
        step = timedelta(minutes=MINUTES.get(interval, 1440))
        since = max(since, self.listed)
        first = since - (since - datetime(1970, 1, 1, tzinfo=UTC)) % step
        first += step if first < since else timedelta(0)
        count = max(int((min(until, self.now) - first) / step) + 1, 0)
        return [first + number * step for number in range(count)]


def ohlcv(opened: datetime) -> list[float]:
    """Open, high, low, close and volume of the candle that opens then."""
    base = 100 + int(opened.timestamp() // 60) % 977
    return [base, base + 2.5, base - 1.5, base + 1, base * 10]


def moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, tz=UTC)


class FakeYahoo(FakeVenue):
    """`/v8/finance/chart/SYMBOL`: columns of numbers, null where there was no trade, refusals inside `chart.error`."""

    async def answer(self, request: web.Request) -> web.Response:
        """See LoopbackServer."""
        symbol, query = request.path.rsplit("/", 1)[1], request.query
        if "Mozilla" not in request.headers.get("User-Agent", ""):
            return web.Response(status=429, text="Too Many Requests\r\n")
        if symbol not in self.symbols:
            return self._error(404, "Not Found", "No data found, symbol may be delisted")
        since, until = (moment(float(query[name])) for name in ("period1", "period2"))
        if query["interval"] == "1m" and since < self.now - timedelta(days=30):
            text = f"1m data not available for startTime={query['period1']} and endTime={query['period2']}. "
            text += "The requested range must be within the last 30 days."
            return self._error(422, "Unprocessable Entity", text)
        if until < self.listed:
            text = f"Data doesn't exist for startDate = {query['period1']}, endDate = {query['period2']}"
            return self._error(400, "Bad Request", text)
        opens = self.opens(query["interval"], since, until - timedelta(seconds=1))
        return web.json_response(self.chart(symbol, opens, query["interval"]))

    def chart(self, symbol: str, opens: list[datetime], interval: str) -> dict[str, Any]:
        """The body of a good answer; days are stamped with the session's opening, each 17th bar had no trade."""
        late = timedelta(hours=14, minutes=30) if interval == "1d" else timedelta(0)
        rows = [[None] * 5 if int(each.timestamp() // 60) % 17 == 0 else ohlcv(each) for each in opens]
        names = ("open", "high", "low", "close", "volume")
        quotes = {name: [row[at] for row in rows] for at, name in enumerate(names)}
        times = [int((each + late).timestamp()) for each in opens]
        events: dict[str, dict[str, Any]] = {}
        for at in opens:
            if symbol == SPLIT_SYMBOL and interval == "1d" and at in (SPLIT_DAY, DIVIDEND_DAY):
                second = int((at + late).timestamp())
                if at == SPLIT_DAY:
                    split = {"date": second, "numerator": 4.0, "denominator": 1.0, "splitRatio": "4:1"}
                    events["splits"] = {str(second): split}
                else:
                    events["dividends"] = {str(second): {"amount": 0.5, "date": second}}
        more = {"events": events} if events else {}
        result = more | {"meta": {"symbol": symbol, "currency": "USD"}, "indicators": {"quote": [quotes]}}
        return {"chart": {"result": [result | ({"timestamp": times} if times else {})], "error": None}}

    @staticmethod
    def _error(status: int, code: str, text: str) -> web.Response:
        body = {"chart": {"result": None, "error": {"code": code, "description": text}}}
        return web.json_response(body, status=status)


class FakeAlpaca(FakeVenue):
    """`/v2/stocks/SYMBOL/bars`: a key in two headers, pages with a token."""

    page = 700

    async def answer(self, request: web.Request) -> web.Response:
        """See LoopbackServer."""
        if any(request.headers.get(name) != value for name, value in KEY.items()):
            return web.json_response({"message": "forbidden."}, status=403)
        if request.path == "/v1/corporate-actions":
            return web.json_response({"corporate_actions": self.actions(request.query), "next_page_token": None})
        symbol, query = request.path.split("/")[3], request.query
        if symbol not in self.symbols:
            return web.json_response({"code": 42210000, "message": f"invalid symbol: {symbol}"}, status=422)
        since, until = (datetime.fromisoformat(query[name]) for name in ("start", "end"))
        bars = [self.bar(each) for each in self.opens(query["timeframe"], since, until)]
        first = int(query.get("page_token", 0))
        rest = str(first + self.page) if len(bars) > first + self.page else None
        page = bars[first : first + self.page] or None
        return web.json_response({"bars": page, "symbol": symbol, "next_page_token": rest})

    @staticmethod
    def actions(query: Mapping[str, str]) -> Mapping[str, Any]:
        """The splits and dividends of a stretch of days, by their type."""
        split = {"symbol": SPLIT_SYMBOL, "new_rate": 4, "old_rate": 1, "ex_date": f"{SPLIT_DAY:%Y-%m-%d}"}
        dividend = {"symbol": SPLIT_SYMBOL, "rate": 0.5, "ex_date": f"{DIVIDEND_DAY:%Y-%m-%d}", "special": False}
        found = {}
        for name, action in (("forward_splits", split), ("cash_dividends", dividend)):
            is_asked = name.removesuffix("s") in query["types"].split(",")
            if is_asked and query["symbols"] == SPLIT_SYMBOL and query["start"] <= action["ex_date"] <= query["end"]:
                found[name] = [action]
        return found

    @staticmethod
    def bar(opened: datetime) -> Mapping[str, Any]:
        """A bar as it is sent."""
        return {
            "t": f"{opened:%Y-%m-%dT%H:%M:%SZ}",
            **dict(zip("ohlcv", ohlcv(opened), strict=True)),
            "n": 5,
            "vw": 1.0,
        }


class FakeBybit(FakeVenue):
    """`/v5/market/kline`: newest first, numbers as texts, refusals with status 200."""

    async def answer(self, request: web.Request) -> web.Response:
        """See LoopbackServer."""
        query = request.query
        if query["symbol"] not in self.symbols:
            return web.json_response({"retCode": 10001, "retMsg": "Not supported symbols", "result": {}})
        since, until = (moment(int(query[name]) / 1000) for name in ("start", "end"))
        rows = [
            [str(int(each.timestamp()) * 1000), *map(str, ohlcv(each)), "1"]
            for each in self.opens(query["interval"], since, until)
        ]
        result = {"category": query["category"], "symbol": query["symbol"], "list": rows[::-1][: int(query["limit"])]}
        return web.json_response(
            {"retCode": 0, "retMsg": "OK", "result": result, "time": int(self.now.timestamp() * 1000)}
        )


class FakeOkx(FakeVenue):
    """`/api/v5/market/history-candles`: newest first, older than `after` and newer than `before`."""

    async def answer(self, request: web.Request) -> web.Response:
        """See LoopbackServer."""
        query = request.query
        if query["instId"] not in self.symbols:
            body = {
                "code": "51001",
                "msg": "Instrument ID, Instrument ID code, or Spread ID doesn't exist.",
                "data": [],
            }
            return web.json_response(body)
        since, until = (moment((int(query[name]) + by) / 1000) for name, by in (("before", 1), ("after", -1)))
        rows = [
            [str(int(each.timestamp()) * 1000), *map(str, ohlcv(each)), "1", "1", "1"]
            for each in self.opens(query["bar"], since, until)
        ]
        return web.json_response({"code": "0", "msg": "", "data": rows[::-1][: int(query["limit"])]})
