"""Signals of every series: GET /signals."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from refresh_pipeline.api.addressing import chosen_markets, instruments_called, parse_timeframe
from refresh_pipeline.api.answers import tagged_json
from refresh_pipeline.api.parameters import MarketParameter, parsed_instant
from refresh_pipeline.api.service import Service, service_of
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.signals import SignalDirection, SignalKind
from refresh_pipeline.monitoring.signals import SignalFilter, coherence_rows, signal_rows
from refresh_pipeline.warehouse.signals import SeriesSignals, newest_signals

router = APIRouter(prefix="/api/v1", tags=["signals"])

# A question about so many is answered well within the time that one may hold the file.
INSTRUMENTS_AT_ONCE = 100

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
    listed = await _found(service, chosen_markets(service.markets, market), instrument, timeframe)
    return tagged_json(request, {"signals": signal_rows(listed, wanted), "coherence": coherence_rows(listed)})


async def _found(
    service: Service, markets: Sequence[Market], instrument: str | None, timeframe: str | None
) -> list[tuple[Market, SeriesSignals]]:
    """One question a market, timeframe and INSTRUMENTS_AT_ONCE: none of them holds the file for long."""
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
                    states = await service.reader.ask(lambda c, m=market, t=one, n=some: newest_signals(c, m, t, n))
                    listed += [(market, state) for state in states]
    return listed


def _naive(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.replace(tzinfo=None)
