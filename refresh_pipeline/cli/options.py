"""The options that the commands share, and what they choose: settings, markets, series, instants."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from refresh_pipeline.cli.completion import complete_instrument, complete_market, complete_timeframe
from refresh_pipeline.cli.console import print_error, print_warning
from refresh_pipeline.cli.failures import sentence_of

if TYPE_CHECKING:
    from refresh_pipeline.market.model import Market
    from refresh_pipeline.market.series import Series
    from refresh_pipeline.settings import Settings

Name = TypeVar("Name")

# Exit codes.
DONE, SOME_FAILED, WRONG_REQUEST = 0, 1, 2

MarketOption = Annotated[
    str | None,
    typer.Option(
        "--market",
        "-m",
        help="Use these markets (comma list) instead of REFRESH_MARKETS.",
        autocompletion=complete_market,
    ),
]
InstrumentOption = Annotated[
    str | None,
    typer.Option(
        "--instrument", "-i", help="Use only these instruments (comma list).", autocompletion=complete_instrument
    ),
]
TimeframeOption = Annotated[
    str | None,
    typer.Option(
        "--timeframe", "-t", help="Use only these timeframes (comma list).", autocompletion=complete_timeframe
    ),
]
SinceOption = Annotated[str | None, typer.Option(help="Fetch candles from this instant on (ISO 8601).")]
UntilOption = Annotated[str | None, typer.Option(help="Fetch candles up to this instant (ISO 8601).")]
NowOption = Annotated[str | None, typer.Option(help="Use this instant instead of the clock (ISO 8601).")]
VerboseOption = Annotated[
    int, typer.Option("--verbose", "-v", count=True, help="Show the log (-v) and debug messages (-vv).")
]
DataDirOption = Annotated[str | None, typer.Option("--data-dir", help="Use this folder instead of REFRESH_DATA_DIR.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
NewOption = Annotated[
    bool, typer.Option("--new", help="Begin a new warehouse although there are backups or a history of an older one.")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Print what would change, and change nothing.")]


@dataclass(frozen=True, slots=True)
class Request:
    """What a command is asked to work on."""

    settings: "Settings"
    markets: "Sequence[Market]"
    # By the options' names, in ISO 8601.
    instants: dict[str, str]
    # Whether --market names the markets; what is asked for by name is never left out.
    named: bool = False
    # Why each market is left out whose YAML or settings are wrong, by name.
    left_out: "Mapping[str, str]" = field(default_factory=dict)

    @property
    def now(self) -> datetime:
        """The instant that --now names, or the clock's."""
        return datetime.fromisoformat(self.instants["now"]) if "now" in self.instants else datetime.now(UTC)


@contextmanager
def request(
    market: str | None, data_dir: str | None, *, lenient: bool = False, **instants: str | None
) -> Iterator[Request]:
    """What the options choose; an error in the block is a wrong request: exit code 2 and the message alone.

    Where `lenient`, a market whose YAML is wrong is left out with a warning, unless --market names it.
    """
    with wrong_requests():
        settings, markets, left_out = _chosen(market, data_dir, lenient=lenient)
        yield Request(settings, markets, parsed_instants(instants), market is not None, left_out)


def _chosen(
    market: str | None, data_dir: str | None, *, lenient: bool
) -> "tuple[Settings, list[Market], Mapping[str, str]]":
    """The settings with the command line's choices, the markets that they load, and why others are left out.

    Raises:
        SettingsError: a setting is wrong.
        MarketError: a market is unknown, or its file is wrong.
    """
    from refresh_pipeline.market_files import load_each, load_markets
    from refresh_pipeline.settings import load_settings, setting_faults

    settings = load_settings(enabled_markets=market, data_dir=data_dir)
    for sentence in setting_faults():
        print_warning(sentence)
    if lenient and market is None:
        markets, faults = load_each(settings)
        for fault in faults.values():
            _warn_left_out(fault)
        return settings, markets, {name: str(fault) for name, fault in faults.items()}
    return settings, load_markets(settings, named_by="REFRESH_MARKETS" if market is None else "--market"), {}


def _warn_left_out(fault: ValueError) -> None:
    print_warning("left out: " + str(fault).replace("\n", "\n  "))


def usable(wanted: Request) -> Request:
    """The request without the markets whose source, indicators or exports are not possible; each is named.

    Raises:
        ValueError: --market names such a market, or no other one is left.
    """
    from refresh_pipeline.pipeline.market_validation import require_usable

    return _without(wanted, lambda market: require_usable(wanted.settings, market))


def reachable(wanted: Request) -> Request:
    """The request without the markets whose only source lacks a credential or its directory; each is named.

    Raises:
        ValueError: --market names such a market, or no other one is left.
    """
    return _without(wanted, require_reachable)


def _without(wanted: Request, require: "Callable[[Market], None]") -> Request:
    markets: list[Market] = []
    faults: dict[str, ValueError] = {}
    for market in wanted.markets:
        try:
            require(market)
            markets.append(market)
        except ValueError as error:
            faults[market.name] = error
    if faults and (wanted.named or not markets):
        raise next(iter(faults.values()))
    for fault in faults.values():
        _warn_left_out(fault)
    reasons = {name: str(fault) for name, fault in faults.items()}
    return replace(wanted, markets=markets, left_out={**wanted.left_out, **reasons})


def refuse_left_out(wanted: Request) -> None:
    """End with exit code 1 where a market is left out; for a command that did its work for the others."""
    if wanted.left_out:
        print_error(f"left out, as said above: {', '.join(wanted.left_out)}")
        raise typer.Exit(SOME_FAILED)


def require_reachable(market: "Market") -> None:
    """Raise ValueError where a market's only source lacks what every request needs: a credential, or the directory."""
    from refresh_pipeline.pipeline.market_validation import missing_credentials, missing_directory

    if directory := missing_directory(market):
        raise ValueError(
            f"market {market.name!r}: source: directory: {directory} is no directory; create it, name another in "
            "the YAML, or choose other markets with --market"
        )
    if names := missing_credentials(market):
        raise ValueError(
            f"market {market.name!r}: {' and '.join(names)} not set, and {market.source.kind} refuses requests "
            f"without it; set it in .env, or choose other markets with --market"
        )


def warn_of_older_instance_file(settings: "Settings") -> None:
    """Print a line where the dagster.yaml in use lacks keys of the shipped one."""
    from refresh_pipeline.instance.instance_file import missing_instance_keys
    from refresh_pipeline.settings import dagster_home, shipped

    file = dagster_home(settings) / "dagster.yaml"
    if missing := missing_instance_keys(file):
        print_warning(f"{file} lacks {', '.join(missing)}; copy what you want from {shipped('dagster.yaml')}")


def chosen_series(
    markets: "Sequence[Market]", instrument: str | None, timeframe: str | None, prefix: str = "--"
) -> "list[tuple[Market, list[Series]]]":
    """The markets that have series left by --instrument and --timeframe, with these series.

    `prefix` is what stands before the two names in messages: nothing where they are arguments.

    Raises:
        ValueError: no loaded market has an instrument or timeframe, or no series is left.
    """
    reject_unknown(markets, instrument, timeframe, prefix)
    chosen_of = [(market, narrowed(market, instrument, timeframe)) for market in markets]
    if not any(series for _, series in chosen_of):
        raise ValueError(f"no market has a series of {instrument} on {timeframe}; refresh status lists every series")
    return [(market, series) for market, series in chosen_of if series]


def narrowed(market: "Market", instruments: str | None, timeframes: str | None) -> "list[Series]":
    """The series of a market that the options leave; names that only other markets have are ignored."""
    chosen_instruments = _known(comma_list(instruments), market.instrument) if instruments else set(market.instruments)
    chosen_timeframes = _known(comma_list(timeframes), market.timeframe) if timeframes else set(market.timeframes)
    return [s for s in market.series if s.instrument in chosen_instruments and s.timeframe in chosen_timeframes]


def reject_unknown(
    markets: "Sequence[Market]", instruments: str | None, timeframes: str | None, prefix: str = "--"
) -> None:
    """Raise ValueError for a name that no loaded market has."""
    from refresh_pipeline.market.timeframe import Timeframe

    with naming(f"{prefix}instrument"):
        for name in comma_list(instruments):
            _reject_unknown_everywhere(name, [market.instrument for market in markets])
    with naming(f"{prefix}timeframe"):
        for name in comma_list(timeframes):
            Timeframe.parse(name)
            _reject_unknown_everywhere(name, [market.timeframe for market in markets])


def parsed_instants(texts: dict[str, str | None]) -> dict[str, str]:
    """The instants of the options that are given, in ISO 8601; raises ValueError that names the option."""
    instants = {name: _instant(name, text) for name, text in texts.items() if text is not None}
    if "since" in instants and "until" in instants and instants["since"] >= instants["until"]:
        raise ValueError(f"--since {texts['since']} is not before --until {texts['until']}")
    return instants


def require_bounds(wanted: Request) -> None:
    """Refuse instants that a run of one of the markets cannot have; raises ValueError that names the option."""
    from refresh_pipeline.market.candles import parse_instant
    from refresh_pipeline.market.time_bounds import require_limit, require_now

    for market in wanted.markets:
        require_now(market, wanted.now, datetime.now(UTC), name="--now")
    for name in ("since", "until"):
        if name in wanted.instants:
            require_limit(f"--{name}", parse_instant(wanted.instants[name]), wanted.now)


def _instant(option: str, text: str) -> str:
    from refresh_pipeline.market.candles import parse_instant

    with naming(f"--{option}"):
        return parse_instant(text).isoformat()


def warn_of_calendars(wanted: Request) -> None:
    """Print a line for each market whose calendar ends soon or has ended."""
    from refresh_pipeline.monitoring.status import calendar_warnings

    for line in calendar_warnings(wanted.markets, wanted.now):
        print_warning(line)


def comma_list(text: str | None) -> list[str]:
    """The parts of a comma list.

    >>> comma_list("BTC/USD, ETH/USD,")
    ['BTC/USD', 'ETH/USD']
    """
    return [part.strip() for part in (text or "").split(",") if part.strip()]


@contextmanager
def naming(option: str) -> Iterator[None]:
    """Put the option's name in front of the message of a ValueError in the block."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from error


def refuse_unfinished_restore(settings: "Settings") -> None:
    """End with exit code 1 and a sentence where a restore was killed halfway; warn of what a killed one left."""
    if warn_of_unfinished_restore(settings):
        raise typer.Exit(SOME_FAILED)


def require_warehouse(settings: "Settings", *, new: bool) -> None:
    """End with exit code 1 where the warehouse is missing although there was one; with `new`, begin another."""
    from refresh_pipeline.operations.missing_warehouse import begin_warehouse, why_missing

    refuse_unfinished_restore(settings)
    if not (reason := why_missing(settings)):
        return
    if not new:
        print_error(reason)
        raise typer.Exit(SOME_FAILED)
    from refresh_pipeline.warehouse.connection import place_of

    with warehouse_errors():
        begin_warehouse(settings)
    print_warning(f"{place_of(settings.warehouse).name}: a new warehouse is begun")


def warn_of_unfinished_restore(settings: "Settings") -> bool:
    """Warn of what a killed restore left; whether it was killed halfway."""
    from refresh_pipeline.operations.restore import leftovers, unfinished_restore
    from refresh_pipeline.settings import dagster_home

    if settings.is_lake:
        return False
    home = dagster_home(settings)
    if sentence := unfinished_restore(settings.database, home):
        print_error(sentence)
        return True
    for path in leftovers(settings.database, home):
        print_warning(f"{path}: a restore was killed before it replaced anything; the next one deletes this copy")
    return False


def require_stored(settings: "Settings") -> None:
    """Refuse to read a warehouse before it exists.

    Raises:
        ValueError: nothing was refreshed yet.
    """
    from refresh_pipeline.warehouse.connection import place_of

    place = place_of(settings.warehouse)
    if not place.exists:
        raise ValueError(f"{place.name}: not found; refresh once creates it, --data-dir chooses another")


def wrong_requests() -> Any:
    """End with exit code 2 and the message alone where the request itself is wrong."""
    return in_words((ValueError, OSError), WRONG_REQUEST)


def warehouse_errors() -> Any:
    """End with exit code 1 and the message alone where the warehouse is in use or not readable."""
    from refresh_pipeline.warehouse.connection import WarehouseBusy, WarehouseUnreadable

    return in_words((WarehouseBusy, WarehouseUnreadable), SOME_FAILED)


@contextmanager
def in_words(kinds: tuple[type[Exception], ...], exit_code: int) -> Iterator[None]:
    """End with this exit code and the message alone at errors of these kinds."""
    try:
        yield
    except kinds as error:
        refusal = sentence_of(error) if isinstance(error, OSError) else ""
        print_error(refusal or str(error))
        raise typer.Exit(exit_code) from error


def _known(texts: Sequence[str], resolve: Callable[[str], Name]) -> set[Name]:
    names = set()
    for text in texts:
        with suppress(ValueError):
            names.add(resolve(text))
    return names


def _reject_unknown_everywhere(text: str, resolvers: Sequence[Callable[[str], object]]) -> None:
    errors: list[ValueError] = []
    for resolve in resolvers:
        try:
            resolve(text)
        except ValueError as error:
            errors.append(error)
    if len(errors) == len(resolvers):
        raise errors[0]
