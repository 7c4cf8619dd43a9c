"""Where the candles of an instrument come from: the venue, and its name of the instrument. Nothing is fetched here."""

from collections.abc import Sequence
from dataclasses import dataclass

from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.sources import Source
from refresh_pipeline.sources.failover import Member, PreferredSources
from refresh_pipeline.sources.fetching import base_timeframe


@dataclass(frozen=True, slots=True)
class Origin:
    """A venue, its name of one instrument, and the timeframe that it is asked for where a longer one is made from it.

    The address of a venue is left out: a mirror has the same candles.
    """

    venue: str
    symbol: str
    made_from: Timeframe | None = None

    def __str__(self) -> str:
        return f"{self.venue}, symbol {self.symbol}"


def origins(source: Source, market: Market, batch: Sequence[Series]) -> dict[Series, tuple[Origin, ...]]:
    """The origins of the candles of each series, the preferred source's first.

    >>> from refresh_pipeline.market.model import parse_market
    >>> from refresh_pipeline.sources.demo import DemoSource
    >>> market = parse_market("{name: m, source: {kind: demo}, calendar: crypto, instruments: [BTC/USD], "
    ...                       "timeframes: [H1], history: 1d}", "m.yaml")
    >>> [origin] = origins(DemoSource(market), market, market.series)[market.series[0]]
    >>> str(origin)
    'demo of seed 1, symbol BTC/USD'
    """
    members = source.members if isinstance(source, PreferredSources) else [Member(source, market)]
    symbols = {
        instrument: [_symbol(member, instrument) for member in members]
        for instrument in dict.fromkeys(series.instrument for series in batch)
    }
    return {
        series: tuple(
            Origin(getattr(member.source, "venue", member.source.kind), symbol, _made_from(member, series.timeframe))
            for member, symbol in zip(members, symbols[series.instrument], strict=True)
        )
        for series in batch
    }


def _symbol(member: Member, instrument: str) -> str:
    if instrument not in member.market.instruments:
        return instrument
    symbol = getattr(member.source, "symbol", None)
    return str(symbol(instrument)) if callable(symbol) else member.market.symbol(instrument, str)


def _made_from(member: Member, timeframe: Timeframe) -> Timeframe | None:
    base = base_timeframe(member.source, timeframe)
    return None if base is timeframe else base


def difference(stored: tuple[Origin, ...], named: tuple[Origin, ...]) -> str:
    """How the origins of stored candles contradict those that the YAML names; empty where they go together.

    A list of sources goes together with another one that shares a venue: sources may come, leave and change places. A
    venue in both must have the same name for the instrument.

    >>> difference((Origin("binance", "BTCUSDT"),), (Origin("kraken", "XBT"), Origin("binance", "BTCUSDT")))
    ''
    >>> difference((Origin("binance", "BTCUSDT"),), (Origin("binance", "BTCUSDC"),))
    'binance, symbol BTCUSDT; the YAML names binance, symbol BTCUSDC'
    """
    before = {origin.venue: origin for origin in stored}
    shared = [(before[origin.venue], origin) for origin in named if origin.venue in before]
    if not shared:
        return f"{stored[0]}; the YAML names {named[0]}" if stored else ""
    changed = [pair for pair in shared if pair[0].symbol != pair[1].symbol]
    return f"{changed[0][0]}; the YAML names {changed[0][1]}" if changed else ""
