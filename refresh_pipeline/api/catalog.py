"""What is loaded: markets, instruments, timeframes, and the columns of each layer."""

from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from refresh_pipeline.analytics.availability import later_known
from refresh_pipeline.analytics.bars import Column as ComputedColumn
from refresh_pipeline.analytics.registry import registry
from refresh_pipeline.api.addressing import chosen_markets, find_market
from refresh_pipeline.api.answers import tagged_json
from refresh_pipeline.api.frames import Names, columns_of
from refresh_pipeline.api.parameters import MarketParameter
from refresh_pipeline.api.service import service_of
from refresh_pipeline.market.candles import TIME_UNIT, instant, iso_utc
from refresh_pipeline.market.export_spec import Layer
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.timeframe import aliases
from refresh_pipeline.warehouse.computations import computations
from refresh_pipeline.warehouse.schema import Table

router = APIRouter(prefix="/api/v1", tags=["catalog"])

# Units and meanings of what a source sends.
RAW_UNITS = {"open_time": "time", "volume": "volume", "source": "text", "fetched_at": "time"}
RAW_UNITS |= {"base_bars": "candles", "complete": "flag"}


@router.get("/instruments")
async def instruments(request: Request, market: MarketParameter = None) -> Response:
    """Every instrument once, and what each market says of it."""
    markets = chosen_markets(service_of(request).markets, market)
    details = [_instrument(one, name) for one in markets for name in one.instruments]
    names = list(dict.fromkeys(detail["instrument"] for detail in details))
    return tagged_json(request, {"instruments": names, "details": details})


@router.get("/timeframes")
async def timeframes(request: Request, market: MarketParameter = None) -> Response:
    """The timeframes of the loaded markets, short to long, and every other name of one."""
    markets = chosen_markets(service_of(request).markets, market)
    listed = sorted({timeframe for one in markets for timeframe in one.timeframes})
    names = {name: timeframe.value for name, timeframe in aliases().items() if name != timeframe.value}
    return tagged_json(request, {"timeframes": [one.value for one in listed], "aliases": names})


@router.get("/markets")
async def markets(request: Request) -> Response:
    """The loaded markets."""
    service = service_of(request)
    now = instant(service.now())
    return tagged_json(request, {"markets": [market_summary(market, now) for market in service.markets]})


@router.get("/markets/{market}")
async def market_details(request: Request, market: str) -> Response:
    """One market, with its instruments and what is kept of it."""
    service = service_of(request)
    found = find_market(service.markets, market)
    return tagged_json(
        request,
        {
            **market_summary(found, instant(service.now())),
            "instruments": [_instrument(found, name) for name in found.instruments],
            "history": {one.value: f"{length.days}d" for one, length in found.history.items()},
            "publish_seconds": int(found.publish.total_seconds()),
            "exports": list(found.exports),
            "destinations": list(found.destinations),
            "fallbacks": [source.kind for source in found.fallbacks],
        },
    )


@router.get("/columns")
async def columns(
    request: Request,
    market: MarketParameter = None,
    layer: Annotated[Layer, Query(description="The table, or all tables side by side.")] = Layer.enhanced,
) -> Response:
    """The columns of a layer: unit, type, warm-up, repaint, and when a value is known."""
    service = service_of(request)
    chosen = chosen_markets(service.markets, market)[0]
    described = _described(chosen)
    listed = []
    for column in columns_of(chosen, layer, Names.own):
        found = described.get((column.table, column.column))
        listed.append({"name": column.name, "type": column.sql_type, **(found or _of_source(column.column))})
    return tagged_json(request, {"market": chosen.name, "layer": layer.value, "columns": listed})


def market_summary(market: Market, now: np.datetime64) -> dict[str, Any]:
    """What `/markets` says of a market at an instant."""
    calendar = market.calendar
    return {
        "name": market.name,
        "source": market.source.kind,
        "calendar": market.calendar_spec.name,
        "timeframes": [timeframe.value for timeframe in market.timeframes],
        "instruments_count": len(market.instruments),
        "series": len(market.series),
        "is_open": bool(calendar.is_open(np.array([now], dtype=TIME_UNIT))[0]) if calendar.knows(now) else None,
        **sessions(market, now),
        "calendar_warning": calendar.warning(now),
    }


def sessions(market: Market, now: np.datetime64) -> dict[str, str | None]:
    """The next opening of a market that is closed, and the next close of its shortest bar; null where not known."""
    calendar, shortest = market.calendar, min(market.timeframes)
    if not calendar.knows(now):
        return {"next_open": None, "next_close": None}
    try:
        close = calendar.next_close(shortest, now)
        is_open = bool(calendar.is_open(np.array([now], dtype=TIME_UNIT))[0])
        first = calendar.open_times(shortest, now, close)[:1]
    except LookupError:
        return {"next_open": None, "next_close": None}
    opens = None if is_open or not len(first) else iso_utc(first[0])
    return {"next_open": opens, "next_close": iso_utc(close)}


def _instrument(market: Market, name: str) -> dict[str, Any]:
    given = market.instruments[name]
    return {
        "market": market.name,
        "instrument": name,
        "class": given.asset_class,
        "symbol": market.source.symbols.get(name) or given.symbol,
        "source": market.source.kind,
        "calendar": market.session_key(name),
        "timeframes": [timeframe.value for timeframe in market.timeframes],
    }


def _described(market: Market) -> dict[tuple[Table, str], dict[str, Any]]:
    groups = _groups(market)
    return {
        (table, column.name): _computed(column, later_known(computation), groups.get(column.name, table.value))
        for table, computation in computations(market).items()
        for column in computation.columns
    }


def _groups(market: Market) -> dict[str, str]:
    entries = registry(market.calendar).values()
    return {name: entry.group for entry in entries for shipped in entry.shipped for name in shipped.names}


def _computed(column: ComputedColumn, later: dict[str, int], group: str) -> dict[str, Any]:
    return {
        "unit": column.unit,
        "description": column.description,
        "warm_up": column.warm_up,
        "repaint": column.repaint,
        "known_at": f"{later[column.name]} bars later" if column.name in later else "close of its bar",
        "group": group,
    }


def _of_source(name: str) -> dict[str, Any]:
    unit = RAW_UNITS.get(name, "price")
    return {
        "unit": unit,
        "description": None,
        "warm_up": 0,
        "repaint": 0,
        "known_at": "close of its bar",
        "group": "candles",
    }
