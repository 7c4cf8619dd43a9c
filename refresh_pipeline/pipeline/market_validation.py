"""Whether a market can be refreshed: its source, its indicators and its exports are what its YAML says.

A market that cannot be refreshed stops no other one.
"""

from collections.abc import Sequence
from pathlib import Path

from refresh_pipeline.market.model import Market, MarketError
from refresh_pipeline.market_files import load_each
from refresh_pipeline.pipeline.export import check_exports
from refresh_pipeline.settings import Settings, secret
from refresh_pipeline.sources.registry import open_source, open_stream, variables
from refresh_pipeline.warehouse.computations import computations

# The settings that a source asks for where its YAML names no others.
CREDENTIALS = {
    "oanda": ("OANDA_TOKEN",),
    "dhan": ("DHAN_CLIENT_ID", "DHAN_ACCESS_TOKEN"),
    "alpaca": ("REFRESH_SECRET_ALPACA_KEY", "REFRESH_SECRET_ALPACA_SECRET"),
}


def require_usable(settings: Settings, market: Market) -> None:
    """Raise MarketError where a market's source, indicators or exports are not possible."""
    open_source(market, settings.limits_dir)
    computations(market)
    check_exports(market)
    if market.live:
        _require_streamable(settings, market)


def _require_streamable(settings: Settings, market: Market) -> None:
    stream = open_stream(market, settings.limits_dir)
    if market.two_sided or not set(market.timeframes) & set(stream.streamed_timeframes):
        raise MarketError(
            f"market {market.name!r}: live: found quotes with two sides, or no timeframe that {stream.kind} streams; "
            f"allowed: one-sided candles of {', '.join(stream.streamed_timeframes)}"
        )


def missing_credentials(market: Market) -> list[str]:
    """The names of credentials that the market's only source needs and no setting has; empty where it has fallbacks."""
    if market.fallbacks:
        return []
    named = variables(market.source.options) or CREDENTIALS.get(market.source.kind, ())
    return [name for name in named if not secret(name)]


def missing_directory(market: Market) -> Path | None:
    """The directory of a market of files that is not there; None where it is, or where other sources serve as well."""
    if market.fallbacks or market.source.kind != "files":
        return None
    directory = Path(str(market.source.options.get("directory", ""))).expanduser().absolute()
    return None if directory.is_dir() else directory


def usable_markets(settings: Settings) -> tuple[list[Market], dict[str, str]]:
    """The enabled markets that can be refreshed, and for each other one, by name, why not.

    Raises:
        MarketError: no market can be refreshed, or REFRESH_MARKETS names an unknown one.
    """
    markets, faults = load_each(settings)
    usable: list[Market] = []
    for market in markets:
        try:
            require_usable(settings, market)
            usable.append(market)
        except MarketError as error:
            faults[market.name] = error
    if not usable:
        raise next(iter(faults.values()))
    return usable, {name: str(error) for name, error in faults.items()}


def left_out(settings: Settings, markets: Sequence[Market]) -> dict[str, str]:
    """Why each enabled market that is not among these cannot be refreshed, by name."""
    if set(settings.market_names) <= {market.name for market in markets}:
        return {}
    try:
        return usable_markets(settings)[1]
    except MarketError as error:
        return {name: str(error) for name in settings.market_names}
