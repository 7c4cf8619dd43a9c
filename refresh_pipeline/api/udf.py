"""TradingView's protocol for charts: `/udf`. Charting libraries and OpenBB Workspace read us through it.

Contract: "Implementing the UDF protocol" of TradingView's charting library. A wrong request is answered with 200 and
`{"s": "error", "errmsg": ...}`, as the protocol has it.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Annotated, Any

import duckdb
import numpy as np
from fastapi import APIRouter, Query, Request
from numpy.typing import NDArray
from starlette.responses import Response

from refresh_pipeline.api.addressing import instruments_called
from refresh_pipeline.api.answers import json_response
from refresh_pipeline.api.frames import OPEN_TIME, Column, Window
from refresh_pipeline.api.problems import ProblemError
from refresh_pipeline.api.rows import candles
from refresh_pipeline.api.service import Service, service_of
from refresh_pipeline.market.calendars.base import Calendar
from refresh_pipeline.market.calendars.exchange import ExchangeCalendar
from refresh_pipeline.market.candles import CANDLE_COLUMNS, TIME_UNIT
from refresh_pipeline.market.model import Market, normalized
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.warehouse.compute_on_read import computed_columns, first_stored
from refresh_pipeline.warehouse.queries import has_tables
from refresh_pipeline.warehouse.schema import Table, qualified

router = APIRouter(prefix="/udf", tags=["charts"])

RESOLUTIONS = {
    "1": Timeframe.m1,
    "5": Timeframe.m5,
    "15": Timeframe.m15,
    "30": Timeframe.m30,
    "60": Timeframe.H1,
    "120": Timeframe.H2,
    "180": Timeframe.H3,
    "240": Timeframe.H4,
    "360": Timeframe.H6,
    "480": Timeframe.H8,
    "1D": Timeframe.D1,
    "1W": Timeframe.W1,
    "1M": Timeframe.MN1,
}
SHORT = {"D": "1D", "W": "1W", "M": "1M"}
BY_DATE = (Timeframe.D1, Timeframe.W1, Timeframe.MN1)
SESSIONS = {
    "crypto": ("24x7", "Etc/UTC"),
    "fx": ("1700-1700", "America/New_York"),
    "nse": ("0915-1530", "Asia/Kolkata"),
}
TYPES = {"crypto": "crypto", "fx": "forex", "nse": "stock"}
DAY = np.timedelta64(1, "D")
# A trading day begins between 18:30 UTC of the day before (India) and 00:00 UTC: eight hours later it is that day
# everywhere, on days that begin late after a holiday as well.
INTO_THE_DAY = np.timedelta64(8, "h")
MOST_BARS = 10_000
MOST_MARKS = 500
# Bars whose flags are computed where they are not stored: a tenth of a second.
MOST_COMPUTED = 10_000
MOST_DIGITS = 8
# From the year 5 to 9987: a day more or less is a date that Python knows.
EARLIEST, LATEST = -62_000_000_000, 253_000_000_000
PRICES = {"o": "open", "h": "high", "l": "low", "c": "close", "v": "volume"}
FLAGS = ("fractal_up_2", "fractal_down_2", "zero_cross")

SymbolParameter = Annotated[str, Query(description="A symbol: demo:BTC/USD, or BTC/USD where one market has it.")]
Resolution = Annotated[str, Query(description=f"One of {', '.join(RESOLUTIONS)}.")]
From = Annotated[str | None, Query(alias="from", description="From this time on, in seconds since 1970.")]
To = Annotated[str | None, Query(description="Before this time, in seconds since 1970.")]
Countback = Annotated[str | None, Query(description="The number of bars before `to`; wins over `from`.")]


class UdfError(Exception):
    """A wrong request; its text is for people."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """A stretch of time, in seconds since 1970: [since, until)."""

    since: int
    until: int


@router.get("/config")
async def config(request: Request) -> Response:
    """What this server offers."""
    markets = service_of(request).markets
    kinds = sorted({_type(market) for market in markets})
    return json_response(
        {
            "supported_resolutions": _resolutions({timeframe for market in markets for timeframe in market.timeframes}),
            "supports_search": True,
            "supports_group_request": False,
            "supports_marks": True,
            "supports_timescale_marks": True,
            "supports_time": True,
            "exchanges": [{"value": "", "name": "All", "desc": "All markets"}]
            + [{"value": market.name, "name": market.name, "desc": market.name} for market in markets],
            "symbols_types": [{"name": "All", "value": ""}, *({"name": kind, "value": kind} for kind in kinds)],
        }
    )


@router.get("/time")
async def time(request: Request) -> Response:
    """The server's clock, as text."""
    return Response(str(int(service_of(request).now().timestamp())), media_type="text/plain")


@router.get("/symbols")
async def symbols(request: Request, symbol: SymbolParameter = "") -> Response:
    """What a chart must know of a symbol."""
    service = service_of(request)
    try:
        market, instrument = _symbol(service, symbol)
    except UdfError as error:
        return _error(error)
    return json_response(await symbol_info(service, market, instrument))


@router.get("/search")
async def search(
    request: Request,
    *,
    query: Annotated[str, Query(description="A part of the name.")] = "",
    kind: Annotated[str, Query(alias="type", description="crypto, forex, stock; all without it.")] = "",
    exchange: Annotated[str, Query(description="A market; all without it.")] = "",
    limit: Annotated[int, Query(ge=1, le=1000, description="The number of symbols at most.")] = 30,
) -> Response:
    """Symbols whose name has a text in it; names that begin with it come first."""
    wanted = normalized(query)
    having = [
        (market, name)
        for market in service_of(request).markets
        if exchange in ("", market.name) and kind in ("", _type(market))
        for name in market.instruments
        if wanted in normalized(name)
    ]
    having.sort(key=lambda pair: not normalized(pair[1]).startswith(wanted))
    return json_response([_found(market, name) for market, name in having[:limit]])


@router.get("/history")
async def history(
    request: Request,
    *,
    symbol: SymbolParameter = "",
    resolution: Resolution = "",
    since: From = None,
    to: To = None,
    countback: Countback = None,
) -> Response:
    """Bars of a stretch of time, oldest first. Bars of days and longer carry 00:00 UTC of their trading date."""
    service = service_of(request)
    try:
        market, series = _series(service, symbol, resolution)
        stretch = _stretch(since, to)
        count = None if countback is None else _whole("countback", countback, MOST_BARS)
    except UdfError as error:
        return _error(error)
    bars = await _bars(service, market, series, stretch, count)
    if len(bars[OPEN_TIME]):
        shown = {"t": _seconds(bars[OPEN_TIME])} | {short: _numbers(bars[name]) for short, name in PRICES.items()}
        return json_response({"s": "ok", **shown})
    before = await _bars(service, market, series, Stretch(EARLIEST, stretch.since), 1)
    newest = _seconds(before[OPEN_TIME])
    return json_response({"s": "no_data", **({"nextTime": newest[-1]} if newest else {})})


@router.get("/marks")
async def marks(
    request: Request, *, symbol: SymbolParameter = "", resolution: Resolution = "", since: From = None, to: To = None
) -> Response:
    """Marks on bars: fractals, crossings of the zero line, corrections."""
    service = service_of(request)
    try:
        market, series = _series(service, symbol, resolution)
        stretch = _stretch(since, to)
    except UdfError as error:
        return _error(error)
    listed = await service.reader.ask(lambda c: read_marks(c, market, series, stretch))
    names = ("id", "time", "color", "text", "label", "labelFontColor", "minSize")
    columns = [list(column) for column in zip(*listed, strict=True)] or [[] for _ in names]
    return json_response(dict(zip(names, columns, strict=True)))


@router.get("/timescale_marks")
async def timescale_marks(
    request: Request, *, symbol: SymbolParameter = "", resolution: Resolution = "", since: From = None, to: To = None
) -> Response:
    """Marks on the time scale: when candles were corrected."""
    service = service_of(request)
    try:
        market, series = _series(service, symbol, resolution)
        stretch = _stretch(since, to)
    except UdfError as error:
        return _error(error)
    listed = await service.reader.ask(lambda c: read_marks(c, market, series, stretch))
    shown = [
        {"id": number, "time": when, "color": color, "label": label, "tooltip": [text]}
        for number, when, color, text, label, *_ in listed
        if label == "c"
    ]
    return json_response(shown)


def trading_times(timeframe: Timeframe, opens: NDArray) -> NDArray:
    """The times that a chart shows: open times, and 00:00 UTC of the trading date for days and longer.

    >>> opens = np.array(["2026-01-04T22:00", "2026-01-05T22:00"], dtype="datetime64[us]")
    >>> trading_times(Timeframe.D1, opens).astype("datetime64[D]").tolist()
    [datetime.date(2026, 1, 5), datetime.date(2026, 1, 6)]
    """
    return (opens + INTO_THE_DAY).astype("datetime64[D]").astype(TIME_UNIT) if timeframe in BY_DATE else opens


def session_of(calendar: Calendar) -> tuple[str, str]:
    """The regular hours of a day and their zone, in the protocol's words.

    >>> from refresh_pipeline.market.calendars.registry import calendar_named
    >>> session_of(calendar_named("fx")), session_of(calendar_named("XTKS"))
    (('1700-1700', 'America/New_York'), ('0900-1130,1230-1530', 'Asia/Tokyo'))
    """
    if not isinstance(calendar, ExchangeCalendar):
        return SESSIONS[calendar.name]
    hours = [[f"{minute // 60 % 24:02}{minute % 60:02}" for minute in pair] for pair in calendar.regular_sessions]
    return ",".join("-".join(pair) for pair in hours), calendar.zone


async def symbol_info(service: Service, market: Market, instrument: str) -> dict[str, Any]:
    """A symbol in the protocol's words."""
    session, zone = session_of(market.calendar)
    timeframes = market.timeframes
    digits = await _digits(service, market, instrument)
    has_intraday = any(timeframe not in BY_DATE for timeframe in timeframes)
    return {
        "name": instrument,
        "ticker": f"{market.name}:{instrument}",
        "full_name": f"{market.name}:{instrument}",
        "description": instrument,
        "type": _type(market),
        "session": session,
        "timezone": zone,
        "exchange": market.name,
        "listed_exchange": market.name,
        "format": "price",
        "minmov": 1,
        "pricescale": 10**digits,
        "has_intraday": has_intraday,
        "has_daily": Timeframe.D1 in timeframes,
        "has_weekly_and_monthly": Timeframe.W1 in timeframes or Timeframe.MN1 in timeframes,
        "supported_resolutions": _resolutions(timeframes),
        "intraday_multipliers": [name for name in _resolutions(timeframes) if name.isdigit()],
        "volume_precision": 2,
        "data_status": "delayed_streaming" if has_intraday else "endofday",
    }


def read_marks(
    connection: duckdb.DuckDBPyConnection, market: Market, series: Series, stretch: Stretch
) -> list[tuple[str, int, str, str, str, str, int]]:
    """The newest marks of a stretch: id, time, colour, text, label, the label's colour, size."""
    if not has_tables(connection, market.name):
        return []
    bounds = [_time(stretch.since) - DAY, _time(stretch.until) + DAY]
    key = [series.instrument, series.timeframe.value, *(bound.astype(object) for bound in bounds)]
    revised = qualified(market.name, Table.raw_candle_revisions)
    narrowed = "instrument = ? and timeframe = ? and open_time >= ? and open_time < ?"
    flags = connection.execute(
        f"select open_time, {', '.join(FLAGS)} from {qualified(market.name, Table.enhanced_candles)} where {narrowed} "
        f"and (fractal_up_2 = 1 or fractal_down_2 = 1 or zero_cross <> 0) order by open_time desc limit {MOST_MARKS}",
        key,
    ).fetchall()
    flags += _computed_flags(connection, market, series, (bounds[0], bounds[1])) if len(flags) < MOST_MARKS else []
    revisions = connection.execute(
        f"select open_time, close, replaced_at from {revised} where {narrowed} "
        f"order by open_time desc limit {MOST_MARKS}",
        key,
    ).fetchall()
    listed = [mark for row in flags for mark in _flag_marks(series, row)]
    listed += [_correction(series, *row) for row in revisions]
    inside = (mark for mark in listed if stretch.since <= mark[1] < stretch.until)
    return sorted(inside, key=lambda mark: (mark[1], mark[0]))[-MOST_MARKS:]


def _computed_flags(
    connection: duckdb.DuckDBPyConnection, market: Market, series: Series, bounds: tuple[np.datetime64, np.datetime64]
) -> list[tuple[Any, ...]]:
    """The flags of rows that are not stored, of the newest bars among them."""
    if series.timeframe not in market.indicators.keep:
        return []
    until = first_stored(connection, market.name, [Table.enhanced_candles], series, bounds)
    since = max(bounds[0], until - MOST_COMPUTED * np.timedelta64(series.timeframe.minutes, "m"))
    found = computed_columns(
        lambda: nullcontext(connection), market, {Table.enhanced_candles: FLAGS}, series, (since, until)
    )
    if not len(found[Table.enhanced_candles, OPEN_TIME]):
        return []
    up, down, cross = (np.nan_to_num(found[Table.enhanced_candles, name]) for name in FLAGS)
    chosen = np.flatnonzero((up == 1) | (down == 1) | (cross != 0))
    times = found[Table.enhanced_candles, OPEN_TIME][chosen].astype(TIME_UNIT).tolist()
    return list(zip(times, *(each[chosen].tolist() for each in (up, down, cross)), strict=True))


def _flag_marks(series: Series, row: Sequence[Any]) -> list[tuple[str, int, str, str, str, str, int]]:
    when, up, down, cross = row
    stamp = _stamp(series, when)
    listed = []
    if up == 1:
        listed.append((f"u{stamp}", stamp, "blue", "Fractal up, known two bars later", "▲", "white", 14))
    if down == 1:
        listed.append((f"d{stamp}", stamp, "blue", "Fractal down, known two bars later", "▼", "white", 14))
    if cross:
        side, color = ("above", "green") if cross > 0 else ("below", "red")
        listed.append((f"z{stamp}", stamp, color, f"The awesome oscillator went {side} zero", "0", "white", 14))
    return listed


def _correction(series: Series, when: Any, close: float, at: Any) -> tuple[str, int, str, str, str, str, int]:
    stamp = _stamp(series, when)
    text = f"Corrected at {at:%Y-%m-%d %H:%M} UTC; its close was {close}"
    return (f"c{stamp}-{at:%Y%m%d%H%M%S}", stamp, "yellow", text, "c", "black", 14)


def _stamp(series: Series, when: Any) -> int:
    return _seconds(trading_times(series.timeframe, np.array([when], dtype=TIME_UNIT)))[0]


async def _bars(
    service: Service, market: Market, series: Series, stretch: Stretch, count: int | None
) -> dict[str, NDArray]:
    """The bars of a stretch, or `count` bars before its end, with the times that a chart shows."""
    columns = [Column(OPEN_TIME, Table.raw_candles, OPEN_TIME, "timestamp")]
    columns += [Column(name, Table.raw_candles, name, "double") for name in CANDLE_COLUMNS]
    wanted = count or min(MOST_BARS, (stretch.until - stretch.since) // (60 * series.timeframe.minutes) + 1)
    # A date lies up to a day behind its opening, and a few bars of it are cut off again.
    spare, reach = (3, DAY) if series.timeframe in BY_DATE else (0, DAY * 0)
    window = Window(int(wanted) + spare, until=_time(stretch.until) + reach)
    arrays = await candles(service, market, series, columns, window)
    times = trading_times(series.timeframe, arrays[OPEN_TIME])
    first = EARLIEST if count else stretch.since
    kept = np.flatnonzero((times >= _time(first)) & (times < _time(stretch.until)))[-int(wanted) :]
    return {name: array[kept] for name, array in arrays.items()} | {OPEN_TIME: times[kept]}


async def _digits(service: Service, market: Market, instrument: str) -> int:
    """Digits behind the point that the newest prices have."""
    series = Series(instrument, market.timeframes[0])
    columns = [Column(name, Table.raw_candles, name, "double") for name in ("open_time", "open", "close")]
    arrays = await candles(service, market, series, columns, Window(50))
    prices = np.concatenate([arrays["open"], arrays["close"]])
    return max((digits_of(price) for price in prices[np.isfinite(prices)].tolist()), default=2)


def digits_of(price: float) -> int:
    """Digits behind the point, eight at most.

    >>> digits_of(63120.5), digits_of(1.08512), digits_of(100.0), digits_of(1e-12)
    (1, 5, 0, 8)
    """
    return min(len(np.format_float_positional(price, trim="-").partition(".")[2]), MOST_DIGITS)


def _symbol(service: Service, text: str) -> tuple[Market, str]:
    name, colon, instrument = text.partition(":")
    markets = [market for market in service.markets if market.name == name] if colon else service.markets
    try:
        having = instruments_called(markets, instrument if colon else text)
    except ProblemError:
        raise UdfError(f"unknown_symbol {text}") from None
    return having[0]


def _series(service: Service, symbol: str, resolution: str) -> tuple[Market, Series]:
    market, instrument = _symbol(service, symbol)
    timeframe = RESOLUTIONS.get(SHORT.get(resolution, resolution))
    if timeframe is None or timeframe not in market.timeframes:
        allowed = ", ".join(_resolutions(market.timeframes))
        raise UdfError(f"resolution: found {resolution!r}; {market.name} has {allowed}")
    return market, Series(instrument, timeframe)


def _stretch(since: str | None, to: str | None) -> Stretch:
    begins = EARLIEST if since is None else _whole("from", since, LATEST)
    ends = LATEST if to is None else _whole("to", to, LATEST)
    return Stretch(begins, ends)


def _whole(name: str, text: str, most: int) -> int:
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 15:
        raise UdfError(f"{name}: found {text!r}; a whole number is wanted")
    return min(max(int(text), EARLIEST), most)


def _found(market: Market, instrument: str) -> dict[str, str]:
    full_name = f"{market.name}:{instrument}"
    described = {"description": instrument, "exchange": market.name, "ticker": full_name, "type": _type(market)}
    return {"symbol": instrument, "full_name": full_name, **described}


def _type(market: Market) -> str:
    return TYPES.get(market.calendar.name, "stock")


def _resolutions(timeframes: Any) -> list[str]:
    return [name for name, timeframe in RESOLUTIONS.items() if timeframe in timeframes]


def _time(seconds: int) -> np.datetime64:
    return np.datetime64(seconds, "s").astype(TIME_UNIT)


def _seconds(times: NDArray) -> list[int]:
    return times.astype("datetime64[s]").astype(np.int64).tolist()


def _numbers(values: NDArray) -> list[float | None]:
    # A chart reads no null; a volume that is unknown is none.
    return [value if np.isfinite(value) else 0 for value in values.tolist()]


def _error(error: UdfError) -> Response:
    return json_response({"s": "error", "errmsg": str(error)})
