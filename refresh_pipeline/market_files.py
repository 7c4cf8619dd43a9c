"""The YAML files of markets: where they are, and which are loaded."""

from collections.abc import Mapping
from pathlib import Path

from refresh_pipeline.market.model import Market, MarketError, parse_market
from refresh_pipeline.market.suggestions import did_you_mean
from refresh_pipeline.settings import PACKAGE, Settings

CATALOG = PACKAGE / "market" / "catalog"


def load_markets(settings: Settings, named_by: str = "REFRESH_MARKETS") -> list[Market]:
    """The enabled markets; a user's file wins over a shipped one of the same name.

    Args:
        settings: they name the markets and the user's folder.
        named_by: the setting or option that names the markets, for error messages.

    Raises:
        MarketError: a file is wrong or missing; the message names file, key, the value found and the values allowed.
    """
    files = market_files(settings)
    allowed = ", ".join(sorted(files))
    if not settings.market_names:
        raise MarketError(f"{named_by}: found {settings.enabled_markets!r}, allowed: {allowed}")
    if unknown := [name for name in settings.market_names if name not in files]:
        hint = did_you_mean(unknown[0].lower(), files) or "; REFRESH_MARKETS_DIR names the folder of your own markets"
        raise MarketError(f"{named_by}: found {unknown[0]!r}, allowed: {allowed}{hint}")
    return [_load(settings, name, files) for name in dict.fromkeys(settings.market_names)]


def load_each(settings: Settings) -> tuple[list[Market], dict[str, MarketError]]:
    """The enabled markets whose files are right, and for each other one, by name, its error.

    Raises:
        MarketError: no file is right, or REFRESH_MARKETS names an unknown market.
    """
    markets: list[Market] = []
    faults: dict[str, MarketError] = {}
    files = market_files(settings)
    if not set(settings.market_names) <= set(files):
        return load_markets(settings), {}
    for name in dict.fromkeys(settings.market_names):
        try:
            markets.append(_load(settings, name, files))
        except MarketError as error:
            faults[name] = error
    return (markets, faults) if markets else (load_markets(settings), {})


def market_files(settings: Settings) -> dict[str, Path]:
    """Every market that could be enabled, by name."""
    folders = [CATALOG] + ([settings.markets_dir.expanduser()] if settings.markets_dir else [])
    if missing := [folder for folder in folders if not folder.is_dir()]:
        raise MarketError(f"REFRESH_MARKETS_DIR: found {missing[0]}, allowed: a folder that exists")
    return {file.stem: file for folder in folders for file in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")])}


def _load(settings: Settings, name: str, files: Mapping[str, Path]) -> Market:
    file = files[name]
    # A universe of the user's own wins over the shipped one as well.
    folders = [*([settings.markets_dir.expanduser()] if settings.markets_dir else []), file.parent]

    def read_universe(path: str) -> str:
        return _text_of(next((folder / path for folder in folders if (folder / path).is_file()), file.parent / path))

    market = parse_market(_text_of(file), file=file.name, read_universe=read_universe)
    if market.name != name:
        raise MarketError(f"{file.name}: name: found {market.name!r}, allowed: {name!r}, as the file is called")
    return market


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise MarketError(f"{file}: found no readable text: {error}; allowed: a file in UTF-8") from error
