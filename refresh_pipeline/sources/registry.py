"""Which sources exist, and how the source of a market is opened. How series are fetched is `fetching`'s part."""

import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from refresh_pipeline.market.clear_text import ALLOWED, host_in_the_clear
from refresh_pipeline.market.model import Market, MarketError
from refresh_pipeline.settings import SECRET_PREFIX, VENUES_OWN, is_open_to_markets
from refresh_pipeline.sources import Secrets, Source, no_secrets
from refresh_pipeline.sources.failover import Member, PreferredSources
from refresh_pipeline.sources.fetching import require_served
from refresh_pipeline.sources.streaming import Streaming

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
    "yahoo": "yahoo:YahooSource",
    "alpaca": "alpaca:AlpacaSource",
    "bybit": "bybit:BybitSource",
    "okx": "okx:OkxSource",
}

# The class that streams the closed candles of a kind.
STREAMS = {
    "binance": "binance_stream:BinanceStream",
    "oanda": "oanda_stream:OandaStream",
    "ccxt": "ccxt_stream:CcxtStream",
    "dhan": "dhan_stream:DhanStream",
}

# The kinds that need a token, the options that name a variable, and names of headers and params that hold a token.
WITH_TOKEN = ("oanda", "dhan", "alpaca")
CREDENTIALS = ("token", "client_id", "access_token")
VARIABLE = re.compile(r"\$([A-Z][A-Z0-9_]*)")
TOKEN_NAME = re.compile("key|token|secret|pass|auth|sign|cookie", re.IGNORECASE)


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


def base_urls(market: Market, limits_dir: Path) -> list[str]:
    """The addresses that the market's sources ask; none for files, the simulation and exchanges of ccxt.

    Raises:
        MarketError: a source does not exist, or does not know an option.
    """
    views = [market.for_source(number) for number in range(len(market.fallbacks) + 1)] if market.fallbacks else [market]
    urls = [getattr(_opened(view, limits_dir, no_secrets), "base_url", "") for view in views]
    return [url for url in urls if url]


def open_stream(market: Market, limits_dir: Path, secrets: Secrets = no_secrets) -> Streaming:
    """The stream of a market's preferred source.

    Raises:
        MarketError: live mode does not know the source.
    """
    kind = market.source.kind
    if kind not in STREAMS:
        raise MarketError(f"market {market.name!r}: live: found source.kind {kind!r}; allowed: {', '.join(STREAMS)}")
    module, _, name = STREAMS[kind].partition(":")
    return getattr(importlib.import_module(f"refresh_pipeline.sources.{module}"), name)(market, limits_dir, secrets)


def _opened(market: Market, limits_dir: Path, secrets: Secrets) -> Source:
    kind = market.source.kind
    if kind not in SOURCES:
        raise MarketError(f"market {market.name!r}: source.kind: found {kind!r}; allowed: {', '.join(SOURCES)}")
    _refuse_foreign_variables(market)
    _refuse_plain_http(market)
    module, _, name = SOURCES[kind].partition(":")
    return getattr(importlib.import_module(f"refresh_pipeline.sources.{module}"), name)(market, limits_dir, secrets)


def _refuse_foreign_variables(market: Market) -> None:
    foreign = [name for name in variables(market.source.options) if not is_open_to_markets(name)]
    if foreign:
        raise MarketError(
            f"market {market.name!r}: source: found the variable {foreign[0]}; allowed: {', '.join(VENUES_OWN)}, names "
            f"that begin with {SECRET_PREFIX}, and names listed in REFRESH_YAML_VARIABLES"
        )


def variables(options: Mapping[str, Any]) -> list[str]:
    """The names of the variables that a source's options ask for: `$NAME` in a text, or the option of a credential.

    >>> variables({"headers": {"X-Key": "Bearer $REFRESH_SECRET_A"}, "token": "OANDA_TOKEN"})
    ['REFRESH_SECRET_A', 'OANDA_TOKEN']
    """
    names: dict[str, None] = {}
    for option, value in options.items():
        if option in CREDENTIALS and isinstance(value, str):
            names[value] = None
        elif isinstance(value, str):
            names |= dict.fromkeys(VARIABLE.findall(value))
        elif isinstance(value, Mapping):
            names |= dict.fromkeys(variables({str(key): each for key, each in value.items()}))
    return list(names)


def _refuse_plain_http(market: Market) -> None:
    options = market.source.options
    stream = re.sub("^ws", "http", str(options.get("stream_url", "")))
    for option, url in (("base_url", str(options.get("base_url", ""))), ("stream_url", stream)):
        host = host_in_the_clear(url)
        if host and options.get("insecure_http") is not True and _sends_a_token(market):
            scheme, allowed = ("http", ALLOWED) if option == "base_url" else ("ws", ALLOWED.replace("https", "wss"))
            raise MarketError(
                f"market {market.name!r}: source.{option}: found {scheme}:// to {host}, which shows the token to the "
                f"network; allowed: {allowed}"
            )


def _sends_a_token(market: Market) -> bool:
    options = market.source.options
    named = [str(name) for key in ("headers", "params") for name in options.get(key) or ()]
    return bool(market.source.kind in WITH_TOKEN or variables(options) or any(map(TOKEN_NAME.search, named)))
