"""Dhan's chart data in miniature: over real HTTP on loopback, with its three ways to refuse and its empty answers.

    with FakeDhan(now=datetime(2024, 6, 14, 5, 32, 30, tzinfo=UTC)) as venue:
        ...  # put venue.base_url into a market's YAML, and venue.client_id and venue.token into the source's secrets
        venue.correct("2885", "1", "2024-06-14T09:15", close=2900.5)
        venue.fail(EMPTY, securityId="11536")

Candles are invented: each is a function of security id, interval and opening time alone. Times are India's. As at the
real one the forming candle is there, a print of 09:07 comes before each day's first minute, a holiday and an unknown
security id look the same, and nothing tells how long to wait.
"""

import json
import time
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
from aiohttp import web

from refresh_pipeline_tests.fakes.http_server import Fault, LoopbackServer

INDIA = timedelta(hours=5, minutes=30)
DAY = timedelta(days=1)
LENGTHS = {name: timedelta(minutes=int(name)) for name in ("1", "5", "15", "25", "60")}
COLUMNS = ("open", "high", "low", "close", "volume", "timestamp", "open_interest")
SEGMENTS = {"NSE_EQ": "EQUITY", "IDX_I": "INDEX"}
LONGEST = timedelta(days=90)
PER_SECOND = 5
EQUITIES = ("1333", "2885", "11536")
INDICES = ("13", "25")
LEGACY_EPOCH = 315_532_800


def refusal(status: int, kind: str, code: str, message: str) -> Fault:
    """The first envelope."""
    return Fault(status, {"errorType": kind, "errorCode": code, "errorMessage": message})


def failed(code: str, message: str, status: int = 200) -> Fault:
    """The second, which comes under 200 as well."""
    return Fault(status, {"status": "failed", "data": {code: message}})


def gateway(path: str) -> dict[str, Any]:
    """The third."""
    return {"timestamp": "2024-06-14T05:32:30.000+00:00", "status": 404, "error": "Not Found", "path": path}


RATE_LIMIT = refusal(429, "Rate_Limit", "DH-904", "Too many requests on server from single user breaching rate limits.")
RATE_LIMIT_IN_200 = failed("805", "Too many requests")
EXPIRED = refusal(
    401, "Invalid_Authentication", "DH-901", "Client ID or user generated access token is invalid or expired."
)
EXPIRED_IN_200 = failed("807", "Access token is expired")
NOT_SUBSCRIBED = refusal(403, "Invalid_Access", "DH-902", "User has not subscribed to Data APIs.")
NO_DATA = refusal(
    400, "Data_Error", "DH-907", "System is unable to fetch data due to incorrect parameters or no data present"
)
INTERNAL_ERROR = refusal(500, "Internal_Server_Error", "DH-908", "Server was not able to process API request.")
NETWORK_ERROR = refusal(400, "Network_Error", "DH-909", "Network error where the API was unable to communicate.")
BAD_GATEWAY = Fault(502, "<html><body>502 Bad Gateway</body></html>")
EMPTY = Fault(200, {name: [] for name in COLUMNS})
NOT_JSON = Fault(200, "<html><body>Welcome to this hotel's network</body></html>")
TORN = Fault(200, '{"open":[3978,3856')
DROPPED = Fault(drops=True)


class FakeDhan(LoopbackServer):
    """The venue. `asked` lists what it was asked, `fail` plans faults, `now` is its clock, `holidays` are days off."""

    def __init__(
        self,
        now: datetime,
        securities: Iterable[str] = (*EQUITIES, *INDICES),
        per_second: int | None = None,
        listed: date = date(2000, 1, 1),
    ) -> None:
        """A venue with these security ids.

        Args:
            now: the server's clock, frozen until it is set again.
            securities: any other id gets empty columns, as a holiday does.
            per_second: the limit it enforces, by the machine's clock; None for none.
            listed: no candle opens before that day.
        """
        super().__init__()
        self.now = now
        self.securities = set(securities)
        self.client_id = "1100003626"
        self.token = "eyJ0.t0ken.e1f9"
        self.per_second = per_second
        self.listed = listed
        self.holidays: set[date] = {date(2024, 6, 17)}
        # Whether stamps count from 1980, as in the documents' examples.
        self.is_legacy = False
        self._changed: dict[tuple[str, str, datetime], dict[str, Any]] = {}
        self._times: list[float] = []

    @property
    def questions(self) -> list[dict[str, Any]]:
        """What each request said, in the order they came."""
        return [dict(each.said) for each in self.asked]

    def correct(self, security_id: str, interval: str, open_time: str, **fields: Any) -> None:
        """Serve other values for a candle, by its time in India: any column, and anything in it."""
        self._changed[security_id, interval, datetime.fromisoformat(open_time)] = fields

    def row(self, security_id: str, interval: str, open_time: str) -> dict[str, Any]:
        """The candle that opens then in India, as it is served."""
        return self._row(security_id, interval, datetime.fromisoformat(open_time))

    async def answer(self, request: web.Request) -> web.Response:
        """See the contract."""
        status, body = await self._body(request)
        return web.Response(text=json.dumps(body), status=status, content_type="application/json")

    async def _body(self, request: web.Request) -> tuple[int, Any]:
        if request.method != "POST" or request.path not in ("/charts/historical", "/charts/intraday"):
            return 404, gateway(request.path)
        if (request.headers.get("client-id"), request.headers.get("access-token")) != (self.client_id, self.token):
            return 401, EXPIRED.body
        if self._is_over_limit():
            return 429, RATE_LIMIT.body
        said = await request.json()
        daily = request.path == "/charts/historical"
        if wrong := _wrong_with(said, daily):
            return 400, {"errorType": "Input_Exception", "errorCode": "DH-905", "errorMessage": wrong}
        interval = "D" if daily else said["interval"]
        rows = [self._row(said["securityId"], interval, at) for at in self._opens(said, interval)]
        return 200, {name: [row[name] for row in rows] for name in COLUMNS}

    def _is_over_limit(self) -> bool:
        now = time.monotonic()
        self._times = [*(at for at in self._times if at > now - 1.0), now]
        return self.per_second is not None and len(self._times) > self.per_second

    def _opens(self, said: dict[str, Any], interval: str) -> list[datetime]:
        since, until = datetime.fromisoformat(said["fromDate"]), datetime.fromisoformat(said["toDate"])
        kind = "IDX_I" if said["securityId"] in INDICES else "NSE_EQ"
        if said["securityId"] not in self.securities or said["exchangeSegment"] != kind:
            return []
        now = self.now.replace(tzinfo=None) + INDIA
        opens: list[datetime] = []
        day = max(since.date(), self.listed)
        while day <= until.date():
            if day.weekday() < 5 and day not in self.holidays:
                opens += _of_day(interval, day, now)
            day += DAY
        # Both ends count, but for the last day of daily candles.
        return [at for at in opens if since <= at and (at < until if interval == "D" else at <= until)]

    def _row(self, security_id: str, interval: str, at: datetime) -> dict[str, Any]:
        base, minutes = 50 + int(security_id) % 3000, int((at - datetime(1990, 1, 1)) / timedelta(minutes=1))  # noqa: DTZ001
        begins, ends = (base * (1 + (minutes + n) % 997 / 20_000) for n in (0, 7))
        stamp = int((at - INDIA).replace(tzinfo=UTC).timestamp()) - (LEGACY_EPOCH if self.is_legacy else 0)
        row = {
            "open": round(begins, 2),
            "high": round(max(begins, ends) * 1.001, 2),
            "low": round(min(begins, ends) * 0.999, 2),
            "close": round(ends, 2),
            "volume": 0 if security_id in INDICES else 100 + minutes % 1013,
            "timestamp": stamp,
            "open_interest": 0,
        }
        return row | self._changed.get((security_id, interval, at), {})


def _wrong_with(said: dict[str, Any], daily: bool) -> str | None:
    needed = {"securityId", "exchangeSegment", "instrument", "fromDate", "toDate"} | (set() if daily else {"interval"})
    missing = "Missing required fields, bad values for parameters etc."
    if needed - said.keys() or not all(isinstance(said[name], str) for name in needed):
        return missing
    if SEGMENTS.get(said["exchangeSegment"]) != said["instrument"]:
        return missing
    try:
        since, until = (datetime.fromisoformat(said[name]) for name in ("fromDate", "toDate"))
    except ValueError:
        return missing
    if since > until or (daily and "T" in said["fromDate"] + said["toDate"]):
        return missing
    if daily:
        return None
    if said["interval"] not in LENGTHS:
        return missing
    return "Data for Intraday Charts can be fetched for 90 days at a time" if until - since > LONGEST else None


def _of_day(interval: str, day: date, now: datetime) -> list[datetime]:
    """What there is of a day by now: forming candles, and before each day's first minute a print."""
    midnight = datetime(day.year, day.month, day.day)  # noqa: DTZ001 (India's)
    if interval == "D":
        # Today's comes in the evening.
        return [midnight] if midnight + timedelta(hours=18) <= now else []
    first, last = midnight + timedelta(hours=9, minutes=15), midnight + timedelta(hours=15, minutes=30)
    length = LENGTHS[interval]
    opens = [first + length * n for n in range(-((first - last) // length))]
    prints = [midnight + timedelta(hours=9, minutes=7)] if interval == "1" else []
    after = [last + timedelta(minutes=10)] if interval == "1" else []
    return [at for at in [*prints, *opens, *after] if at <= now]


def numbers(rows: Iterable[dict[str, Any]], name: str) -> np.ndarray:
    """One column of several candles."""
    return np.array([row[name] for row in rows], dtype=np.float64)
