"""Signals of every series: GET /signals."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from refresh_pipeline.api.addressing import chosen_markets, instruments_called, parse_timeframe
from refresh_pipeline.api.answers import JSON, Body, dumps
from refresh_pipeline.api.encoding import digest, tag_of
from refresh_pipeline.api.parameters import MarketParameter, parsed_instant
from refresh_pipeline.api.reading import TooLong
from refresh_pipeline.api.service import Service, service_of
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.signals import SignalDirection, SignalKind
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.monitoring.signals import SignalFilter, coherence_rows, signal_rows
from refresh_pipeline.warehouse.schema import Table
from refresh_pipeline.warehouse.signals import SeriesSignals, newest_signals

router = APIRouter(prefix="/api/v1", tags=["signals"])

# Instruments of a question, which is halved where the time that one may hold the file does not suffice.
INSTRUMENTS_AT_ONCE = 256

InstrumentParameter = Annotated[str | None, Query(description="One instrument, in any spelling.")]
TimeframeParameter = Annotated[str | None, Query(description="One timeframe, by any of its names.")]
KindParameter = Annotated[SignalKind | None, Query(description="Signals of this kind alone.")]
DirectionParameter = Annotated[SignalDirection | None, Query(description="Signals of this direction alone.")]
KnownSince = Annotated[
    str | None, Query(description="Signals that became known at this instant or later; ISO 8601 or milliseconds.")
]


@router.get("/signals")
async def signals(
    request: Request,
    *,
    market: MarketParameter = None,
    instrument: InstrumentParameter = None,
    timeframe: TimeframeParameter = None,
    kind: KindParameter = None,
    direction: DirectionParameter = None,
    since: KnownSince = None,
) -> Response:
    """The newest signal of each kind for every series, and whether the timeframes of an instrument agree."""
    service = service_of(request)
    wanted = SignalFilter(kind, direction, _naive(parsed_instant("since", since)))
    markets = chosen_markets(service.markets, market)
    key = digest("signals", [one.name for one in markets], instrument, timeframe, kind, direction, since)
    state = service.feed.epoch, service.feed.version

    async def make() -> Body:
        listed = await _found(service, markets, instrument, timeframe)
        content = dumps({"signals": signal_rows(listed, wanted), "coherence": coherence_rows(listed)})
        return Body(content, JSON, tag_of(content))

    body = await service.answers.of(key, state, make)
    return await service.answers.given(key, state, body, request.headers)


async def _found(
    service: Service, markets: Sequence[Market], instrument: str | None, timeframe: str | None
) -> list[tuple[Market, SeriesSignals]]:
    parsed = None if timeframe is None else parse_timeframe(timeframe)
    having = [(market, list(market.instruments)) for market in markets]
    if instrument is not None:
        having = [(market, [name]) for market, name in instruments_called(markets, instrument)]
    listed: list[tuple[Market, SeriesSignals]] = []
    for market, names in having:
        for one in market.timeframes:
            if parsed in (None, one):
                for first in range(0, len(names), INSTRUMENTS_AT_ONCE):
                    some = names[first : first + INSTRUMENTS_AT_ONCE]
                    listed += [(market, state) for state in await _kept(service, market, one, some)]
    return listed


async def _kept(
    service: Service, market: Market, timeframe: Timeframe, instruments: Sequence[str]
) -> Sequence[SeriesSignals]:
    """The signals of some instruments on one timeframe: read anew once rows of that timeframe have changed."""
    version = service.feed.epoch, service.feed.newest_of(market.name, Table.enhanced_candles, timeframe)
    key = market.name, timeframe, tuple(instruments)
    kept = service.signals.get(key)
    if kept is not None and kept[0] == version:
        return kept[1]
    states = await _read(service, market, timeframe, instruments)
    # A question for one instrument is cheap, and there are many of them.
    if service.feed.epoch and len(instruments) > 1:
        service.signals[key] = (version, states)
    return states


async def _read(
    service: Service, market: Market, timeframe: Timeframe, instruments: Sequence[str]
) -> list[SeriesSignals]:
    """One question to the warehouse, or two of half as many instruments where it holds the file for too long."""
    try:
        return await service.reader.ask(lambda connection: newest_signals(connection, market, timeframe, instruments))
    except TooLong:
        if len(instruments) == 1:
            raise
    middle = len(instruments) // 2
    halves = instruments[:middle], instruments[middle:]
    return [state for half in halves for state in await _read(service, market, timeframe, half)]


def _naive(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.replace(tzinfo=None)
