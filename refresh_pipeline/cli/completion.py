"""Names that the shell completes: markets, instruments, timeframes. Where settings or files are wrong it has none."""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from refresh_pipeline.market.model import Market


def complete_market(incomplete: str) -> list[str]:
    """Markets whose names begin so, after the last comma of a list."""
    from refresh_pipeline.market_files import market_files
    from refresh_pipeline.settings import load_settings

    try:
        return _completed(incomplete, sorted(market_files(load_settings())))
    except ValueError:
        return []


def complete_instrument(incomplete: str) -> list[str]:
    """Instruments of the enabled markets whose names begin so."""
    return _of_markets(incomplete, lambda market: list(market.instruments))


def complete_timeframe(incomplete: str) -> list[str]:
    """Timeframes of the enabled markets whose names begin so."""
    return _of_markets(incomplete, lambda market: [timeframe.value for timeframe in market.timeframes])


def _of_markets(incomplete: str, names_of: "Callable[[Market], list[str]]") -> list[str]:
    from refresh_pipeline.market_files import load_each
    from refresh_pipeline.settings import load_settings

    try:
        markets, _ = load_each(load_settings())
    except ValueError:
        return []
    return _completed(incomplete, list(dict.fromkeys(name for market in markets for name in names_of(market))))


def _completed(incomplete: str, names: list[str]) -> list[str]:
    """The names that go on from the last part of a comma list, with the parts before it.

    >>> _completed("BTC/USD,et", ["BTC/USD", "ETH/USD"])
    ['BTC/USD,ETH/USD']
    """
    before, comma, part = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in names if name.lower().startswith(part.lower())]
