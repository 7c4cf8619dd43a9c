"""Renewing a market's universe from lists on the web or on disk; what follows from them is `market.universe`'s part."""

import os
from pathlib import Path

from refresh_pipeline.market.model import Market, MarketError
from refresh_pipeline.market.universe import Universe, renewed
from refresh_pipeline.settings import Settings
from refresh_pipeline.sources.download import text_of


def universe_file(settings: Settings, market: Market) -> Path:
    """Where the user's own universe of a market is: it wins over the shipped one.

    Raises:
        MarketError: the market has no universe that can be renewed, or there is no folder for it.
    """
    if market.source.kind != "dhan" or market.universe is None:
        raise MarketError(
            f"market {market.name!r}: found source {market.source.kind}, universe {market.universe or 'none'}; only a "
            f"market of the source dhan with a `universe:` in its YAML can be renewed"
        )
    if settings.markets_dir is None or not settings.markets_dir.expanduser().is_dir():
        raise MarketError(
            f"REFRESH_MARKETS_DIR: found {settings.markets_dir or 'nothing'}, wanted a folder that exists: the "
            f"universe is put there, as the shipped one stays as it is"
        )
    return settings.markets_dir.expanduser() / market.universe


def renew_universe(settings: Settings, market: Market, master: str, constituents: str | None) -> tuple[Path, Universe]:
    """Read the lists, write the user's universe of a market; where it is, and what is in it.

    Args:
        settings: where the user's markets are.
        market: as it is now.
        master: path or address of Dhan's scrip master.
        constituents: path or address of the exchange's list of an index; None to keep the shares there are.

    Raises:
        MarketError: the market has no universe that can be renewed, or there is no folder for it.
        UniverseError: a list is not what it should be; nothing was written.
        SourceError: a list cannot be downloaded; nothing was written.
        OSError: a list cannot be read, or the universe not be written.
    """
    file = universe_file(settings, market)
    listed = None if constituents is None else text_of(constituents, settings.limits_dir)
    universe = renewed(market.instruments, text_of(master, settings.limits_dir), listed)
    part = file.with_name(f"{file.name}.{os.getpid()}")
    part.write_text(universe.csv, encoding="utf-8")
    part.replace(file)
    return file, universe
