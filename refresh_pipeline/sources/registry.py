"""From a market to its source, and a fetch that makes the timeframes which the source lacks.

What a source serves itself passes straight through; nothing is stored here.
"""

from collections.abc import Callable
from pathlib import Path

from refresh_pipeline.market.model import Market, MarketError
from refresh_pipeline.sources import Secrets, Source
from refresh_pipeline.sources.fetching import require_served


# Imported when they are opened: a simulated market needs no HTTP client, whose import takes longer than its candles.
def _demo(market: Market, limits_dir: Path, secrets: Secrets) -> Source:
    from refresh_pipeline.sources.demo import DemoSource  # noqa: PLC0415

    return DemoSource(market)


def _files(market: Market, limits_dir: Path, secrets: Secrets) -> Source:
    from refresh_pipeline.sources.files import FilesSource  # noqa: PLC0415

    return FilesSource(market)


def _binance(market: Market, limits_dir: Path, secrets: Secrets) -> Source:
    from refresh_pipeline.sources.binance import BinanceSource  # noqa: PLC0415

    return BinanceSource(market, limits_dir)


def _oanda(market: Market, limits_dir: Path, secrets: Secrets) -> Source:
    from refresh_pipeline.sources.oanda import OandaSource  # noqa: PLC0415

    return OandaSource(market, limits_dir, secrets)


def _fxcm(market: Market, limits_dir: Path, secrets: Secrets) -> Source:
    from refresh_pipeline.sources.fxcm import FxcmSource  # noqa: PLC0415

    return FxcmSource(market, limits_dir)


def _http(market: Market, limits_dir: Path, secrets: Secrets) -> Source:
    from refresh_pipeline.sources.json_api import JsonApiSource  # noqa: PLC0415

    return JsonApiSource(market, limits_dir, secrets)


def _exchange(market: Market, limits_dir: Path, secrets: Secrets) -> Source:
    from refresh_pipeline.sources.ccxt_exchange import CcxtSource  # noqa: PLC0415

    return CcxtSource(market, limits_dir)


def _dhan(market: Market, limits_dir: Path, secrets: Secrets) -> Source:
    from refresh_pipeline.sources.dhan import DhanSource  # noqa: PLC0415

    return DhanSource(market, limits_dir, secrets)


SOURCES: dict[str, Callable[[Market, Path, Secrets], Source]] = {
    "demo": _demo,
    "binance": _binance,
    "oanda": _oanda,
    "fxcm": _fxcm,
    "dhan": _dhan,
    "files": _files,
    "http": _http,
    "ccxt": _exchange,
}


def no_secrets(name: str) -> str | None:
    """For who only wants to know whether a market's YAML is right, and for sources that need no account."""
    return None


def open_source(market: Market, limits_dir: Path, secrets: Secrets = no_secrets) -> Source:
    """The source that a market's YAML names, or all of those that it lists, as one.

    A credential that is missing is no fault here: what it is needed for fails, when it is asked for.

    Args:
        market: its source, and the timeframes that the source has to serve.
        limits_dir: where the limits of venues are shared between processes.
        secrets: credentials by the names of their settings.

    Raises:
        MarketError: there is no such source, it does not know an option, or it cannot serve a timeframe.
    """
    if market.fallbacks:
        # It fetches as this module does.
        from refresh_pipeline.sources.failover import Member, PreferredSources  # noqa: PLC0415

        sighted = [market.for_source(number) for number in range(len(market.fallbacks) + 1)]
        source: Source = PreferredSources(
            market, [Member(_opened(each, limits_dir, secrets), each) for each in sighted]
        )
    else:
        source = _opened(market, limits_dir, secrets)
    require_served(market, source)
    return source


def _opened(market: Market, limits_dir: Path, secrets: Secrets) -> Source:
    if market.source.kind not in SOURCES:
        raise MarketError(
            f"market {market.name!r}: source.kind: found {market.source.kind!r}; allowed: {', '.join(SOURCES)}"
        )
    return SOURCES[market.source.kind](market, limits_dir, secrets)
