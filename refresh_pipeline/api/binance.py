"""What clients of Binance ask for, answered from the warehouse: `/binance/{market}/api/v3`.

With it any exchange client reads a market offline, and a second instance follows the first by
`source: {kind: binance, base_url: ...}`. Contract: Binance's spot API; see `sources.binance` for its other side.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Path, Query, Request
from numpy.typing import NDArray
from starlette.responses import Response

from refresh_pipeline.api import frames
from refresh_pipeline.api.addressing import find_market
from refresh_pipeline.api.answers import json_response
from refresh_pipeline.api.frames import Names, Window, columns_of
from refresh_pipeline.api.rows import candles
from refresh_pipeline.api.service import Service, service_of
from refresh_pipeline.market.candles import CANDLE_COLUMNS
from refresh_pipeline.market.export_spec import Layer
from refresh_pipeline.market.model import Market, normalized
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe

router = APIRouter(prefix="/binance/{market}/api/v3", tags=["exchange clients"])

# Case decides: 1m is a minute, 1M a month. Binance has no 3h; a market may.
TIMEFRAMES = {
    "1m": Timeframe.m1,
    "5m": Timeframe.m5,
    "15m": Timeframe.m15,
    "30m": Timeframe.m30,
    "1h": Timeframe.H1,
    "2h": Timeframe.H2,
    "3h": Timeframe.H3,
    "4h": Timeframe.H4,
    "6h": Timeframe.H6,
    "8h": Timeframe.H8,
    "1d": Timeframe.D1,
    "1w": Timeframe.W1,
    "1M": Timeframe.MN1,
}
ROWS, MOST_ROWS = 500, 1000
KLINES_WEIGHT = 2
INVALID_SYMBOL, INVALID_INTERVAL, MISSING, INVALID = -1121, -1120, -1102, -1130
# Of an instrument whose name has one part.
QUOTES = {"nse": "INR"}
# Milliseconds until the year 9999.
LATEST = 253_402_300_799_999
MILLISECOND = np.timedelta64(1, "ms")

MarketName = Annotated[str, Path(description="The market.")]
Symbol = Annotated[str, Query(description="The instrument without its slash: BTCUSDT.")]
Interval = Annotated[str, Query(description=f"One of {', '.join(TIMEFRAMES)}.")]
Start = Annotated[str | None, Query(alias="startTime", description="Candles from this open time on, in milliseconds.")]
End = Annotated[str | None, Query(alias="endTime", description="Candles up to this open time, in milliseconds.")]
Limit = Annotated[str | None, Query(description=f"The number of candles, {ROWS} without it, {MOST_ROWS} at most.")]

FAULT: dict[int | str, dict[str, Any]] = {
    400: {"description": "A wrong request, as Binance answers it: `code` and `msg`."}
}


class BinanceFaultError(Exception):
    """A wrong request, with Binance's code of it."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(slots=True)
class Weights:
    """The weight of this minute's requests."""

    minute: int = 0
    used: int = 0

    def add(self, weight: int, now: float) -> int:
        """Count a request and give the minute's sum.

        >>> weights = Weights()
        >>> weights.add(2, 30.0), weights.add(1, 59.0), weights.add(2, 61.0)
        (2, 3, 2)
        """
        if (minute := int(now // 60)) != self.minute:
            self.minute, self.used = minute, 0
        self.used += weight
        return self.used


@router.get("/ping")
async def ping(request: Request, market: MarketName) -> Response:
    """Whether the server answers."""
    service = service_of(request)
    find_market(service.markets, market)
    return _answer(request, service, {}, 1)


@router.get("/time")
async def time(request: Request, market: MarketName) -> Response:
    """The server's clock."""
    service = service_of(request)
    find_market(service.markets, market)
    return _answer(request, service, {"serverTime": _milliseconds(service)}, 1)


@router.get("/exchangeInfo", responses=FAULT)
async def exchange_info(
    request: Request,
    *,
    market: MarketName,
    symbol: Annotated[str | None, Query(description="One symbol alone.")] = None,
    symbols: Annotated[str | None, Query(description="A JSON list of symbols.")] = None,
    symbol_status: Annotated[
        str | None, Query(alias="symbolStatus", description="TRADING; no symbol has another status.")
    ] = None,
) -> Response:
    """The market's symbols and the limit of requests."""
    service = service_of(request)
    loaded = find_market(service.markets, market)
    try:
        names = _wanted(loaded, symbol, symbols) if symbol_status in (None, "TRADING") else []
    except BinanceFaultError as fault:
        return _fault(fault)
    limit = {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1}
    body = {
        "timezone": "UTC",
        "serverTime": _milliseconds(service),
        "rateLimits": [limit | {"limit": int(service.settings.api_rate * 60 * KLINES_WEIGHT)}],
        "exchangeFilters": [],
        "symbols": [_symbol_info(loaded, name) for name in names],
    }
    return _answer(request, service, body, 20)


@router.get("/klines", responses=FAULT)
async def klines(
    request: Request,
    *,
    market: MarketName,
    symbol: Symbol = "",
    interval: Interval = "",
    start: Start = None,
    end: End = None,
    limit: Limit = None,
) -> Response:
    """Closed candles, oldest first: the first from startTime on, or the newest."""
    service = service_of(request)
    loaded = find_market(service.markets, market)
    try:
        series = Series(_instrument(loaded, symbol), _timeframe(loaded, interval))
        window = _window(start, end, limit)
    except BinanceFaultError as fault:
        return _fault(fault)
    columns = frames.chosen_columns(columns_of(loaded, Layer.candles, Names.own), ",".join(CANDLE_COLUMNS))
    arrays = await candles(service, loaded, series, columns, window)
    rows = {name: array[: window.limit] for name, array in arrays.items()}
    return _answer(request, service, klines_of(loaded, series, rows), KLINES_WEIGHT)


def klines_of(market: Market, series: Series, arrays: dict[str, NDArray]) -> list[list[Any]]:
    """Candles as Binance writes them: twelve fields, of which the warehouse does not know the last five."""
    opens = arrays[frames.OPEN_TIME]
    closes = market.calendar_of(series.instrument).closes(series.timeframe, opens) if len(opens) else opens
    numbers = [[decimal(value) for value in arrays[name].tolist()] for name in CANDLE_COLUMNS]
    begins, ends = _stamps(opens), _stamps(closes - MILLISECOND)
    rows = zip(begins, *numbers, ends, strict=True)
    return [[*row, "0", 0, "0", "0", "0"] for row in rows]


def decimal(value: float | None) -> str:
    """A number in plain digits, the fewest that mean it; nothing known is 0.

    >>> decimal(0.00001234), decimal(63120.5), decimal(1e21), decimal(float("nan"))
    ('0.00001234', '63120.5', '1000000000000000000000', '0')
    """
    if value is None or not math.isfinite(value):
        return "0"
    # Python's text of a number is the shortest as well, and is made in a tenth of the time.
    if "e" not in (text := repr(float(value))):
        return text.removesuffix(".0")
    return np.format_float_positional(value, trim="-")


def _stamps(times: NDArray) -> list[int]:
    return times.astype("datetime64[ms]").astype(np.int64).tolist()


def _wanted(market: Market, symbol: str | None, symbols: str | None) -> list[str]:
    if symbol is not None:
        return [_instrument(market, symbol)]
    if symbols is not None:
        listed = [part.strip(' "') for part in symbols.strip().removeprefix("[").removesuffix("]").split(",")]
        return [_instrument(market, part) for part in listed if part]
    return list(market.instruments)


def _instrument(market: Market, symbol: str) -> str:
    if not symbol:
        raise BinanceFaultError(MISSING, "Mandatory parameter 'symbol' was not sent, was empty/null, or malformed.")
    by_symbol = {normalized(name): name for name in market.instruments}
    if symbol not in by_symbol:
        raise BinanceFaultError(INVALID_SYMBOL, "Invalid symbol.")
    return by_symbol[symbol]


def _timeframe(market: Market, interval: str) -> Timeframe:
    if not interval:
        raise BinanceFaultError(MISSING, "Mandatory parameter 'interval' was not sent, was empty/null, or malformed.")
    timeframe = TIMEFRAMES.get(interval)
    if timeframe is None or timeframe not in market.timeframes:
        raise BinanceFaultError(INVALID_INTERVAL, "Invalid interval.")
    return timeframe


def _window(start: str | None, end: str | None, limit: str | None) -> Window:
    rows = _whole("limit", limit, ROWS)
    if rows < 1:
        raise BinanceFaultError(INVALID, "Data sent for parameter 'limit' is not valid.")
    since = None if start is None else np.datetime64(_whole("startTime", start, 0), "ms").astype("datetime64[us]")
    until = None if end is None else np.datetime64(_whole("endTime", end, 0) + 1, "ms").astype("datetime64[us]")
    return Window(min(rows, MOST_ROWS), since, until)


def _whole(name: str, text: str | None, otherwise: int) -> int:
    if text is None:
        return otherwise
    if not (text.isascii() and text.isdigit()) or len(text) > 15 or int(text) > LATEST:
        raise BinanceFaultError(INVALID, f"Data sent for parameter '{name}' is not valid.")
    return int(text)


def _symbol_info(market: Market, instrument: str) -> dict[str, Any]:
    base, _, quote = instrument.partition("/")
    return {
        "symbol": normalized(instrument),
        "status": "TRADING",
        "baseAsset": base,
        "baseAssetPrecision": 8,
        "quoteAsset": quote or QUOTES.get(market.calendar.name, "USD"),
        "quotePrecision": 8,
        "quoteAssetPrecision": 8,
        "orderTypes": ["LIMIT"],
        "isSpotTradingAllowed": True,
        "isMarginTradingAllowed": False,
        "filters": [],
        "permissions": ["SPOT"],
        "permissionSets": [["SPOT"]],
    }


def _milliseconds(service: Service) -> int:
    return int(service.now().timestamp() * 1000)


def _answer(request: Request, service: Service, body: Any, weight: int) -> Response:
    state = request.app.state
    if not hasattr(state, "binance_weights"):
        state.binance_weights = Weights()
    used = state.binance_weights.add(weight, service.now().timestamp())
    return json_response(body, headers={"X-MBX-USED-WEIGHT-1M": str(used)})


def _fault(fault: BinanceFaultError) -> Response:
    return json_response({"code": fault.code, "msg": str(fault)}, 400)
