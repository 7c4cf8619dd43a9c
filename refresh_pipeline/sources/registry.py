"""Which sources exist, and how the source of a market is opened. How series are fetched is `fetching`'s part."""

import importlib
from pathlib import Path

from refresh_pipeline.market.model import Market, MarketError
from refresh_pipeline.sources import Secrets, Source, no_secrets
from refresh_pipeline.sources.failover import Member, PreferredSources
from refresh_pipeline.sources.fetching import require_served

# The module and the class of each kind. A module is imported when its source is opened: the import of the HTTP client
# takes longer than a simulated market's candles.
SOURCES = {
    "demo": "demo:DemoSource",
    "binance": "binance:BinanceSource",
    "oanda": "oanda:OandaSource",
    "fxcm": "fxcm:FxcmSource",
    "dhan": "dhan:DhanSource",
    "files": "files:FilesSource",
    "http": "json_api:JsonApiSource",
    "ccxt": "ccxt_exchange:CcxtSource",
}


def open_source(market: Market, limits_dir: Path, secrets: Secrets = no_secrets) -> Source:
    """The source that a market's YAML names, or all listed sources as one.

    A missing credential is no error here; the series that need it fail when they are fetched.

    Args:
        market: its source, and the timeframes that the source has to serve.
        limits_dir: where all processes of the machine share the limits of venues.
        secrets: credentials by the names of their settings.

    Raises:
        MarketError: the source does not exist, does not know an option, or cannot serve a timeframe.
    """
    if market.fallbacks:
        views = [market.for_source(number) for number in range(len(market.fallbacks) + 1)]
        members = [Member(_opened(view, limits_dir, secrets), view) for view in views]
        source: Source = PreferredSources(market, members)
    else:
        source = _opened(market, limits_dir, secrets)
    require_served(market, source)
    return source


def _opened(market: Market, limits_dir: Path, secrets: Secrets) -> Source:
    kind = market.source.kind
    if kind not in SOURCES:
        raise MarketError(f"market {market.name!r}: source.kind: found {kind!r}; allowed: {', '.join(SOURCES)}")
    module, _, name = SOURCES[kind].partition(":")
    return getattr(importlib.import_module(f"refresh_pipeline.sources.{module}"), name)(market, limits_dir, secrets)
