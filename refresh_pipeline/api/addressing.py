"""From the spelling of an address to the market and the series: every spelling of an instrument means the same."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

from refresh_pipeline.api.problems import Problem, ProblemError
from refresh_pipeline.market.model import Market, UnknownInstrument, normalized
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe, UnknownTimeframe

# How many allowed names a problem lists.
NAMES_LISTED = 50


@dataclass(frozen=True, slots=True)
class Address:
    """A series of a loaded market."""

    market: Market
    series: Series


def find_market(markets: Sequence[Market], name: str) -> Market:
    """The loaded market of this name.

    Raises:
        ProblemError: unknown-market.
    """
    by_name = {market.name: market for market in markets}
    if name in by_name:
        return by_name[name]
    raise ProblemError(
        Problem.unknown_market,
        f"market: found {name!r}; loaded: {', '.join(by_name)}",
        nearest=_nearest(name, list(by_name)),
        allowed=list(by_name),
    )


def chosen_markets(markets: Sequence[Market], name: str | None) -> Sequence[Market]:
    """The market of this name alone, or all where none is named."""
    return markets if name is None else [find_market(markets, name)]


def parse_timeframe(text: str) -> Timeframe:
    """The timeframe of any of its names.

    Raises:
        ProblemError: unknown-timeframe, or ambiguous-timeframe for M1.
    """
    try:
        return Timeframe.parse(text)
    except UnknownTimeframe as error:
        if "ambiguous" in str(error):
            raise ProblemError(Problem.ambiguous_timeframe, str(error), readings=["m1", "MN1"]) from None
        names = [timeframe.value for timeframe in Timeframe]
        raise ProblemError(
            Problem.unknown_timeframe, str(error), nearest=_nearest(text, names), allowed=names
        ) from None


def find_series(markets: Sequence[Market], instrument: str, timeframe: str, market: str | None = None) -> Address:
    """The series that an address names, of the market that the query names or of the only one that has it.

    Raises:
        ProblemError: unknown-market, unknown-instrument, unknown-timeframe, ambiguous-timeframe, ambiguous-instrument.
    """
    parsed = parse_timeframe(timeframe)
    having = instruments_called(chosen_markets(markets, market), instrument)
    fitting = [(one, name) for one, name in having if parsed in one.timeframes]
    if not fitting:
        allowed = list(dict.fromkeys(name.value for one, _ in having for name in one.timeframes))
        raise ProblemError(
            Problem.unknown_timeframe,
            f"{having[0][1]}: found timeframe {parsed.value}; its market has {', '.join(allowed)}",
            nearest=_nearest(parsed.value, allowed),
            allowed=allowed,
        )
    if len(fitting) > 1:
        raise _ambiguous(fitting, parsed)
    return Address(fitting[0][0], Series(fitting[0][1], parsed))


def instruments_called(markets: Sequence[Market], text: str) -> list[tuple[Market, str]]:
    """Every market that has an instrument of this name, with its canonical name; a venue's symbol counts as well.

    Raises:
        ProblemError: unknown-instrument.
    """
    having = [(market, name) for market in markets if (name := _instrument(market, text)) is not None]
    if having:
        return having
    names = list(dict.fromkeys(name for market in markets for name in market.instruments))
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    raise ProblemError(
        Problem.unknown_instrument,
        f"instrument: found {text!r}; loaded: {', '.join(names[:12])}{more}",
        nearest=_nearest(text, names),
        allowed=names[:NAMES_LISTED],
    )


def _instrument(market: Market, text: str) -> str | None:
    try:
        return market.instrument(text)
    except UnknownInstrument:
        wanted = normalized(text)
        symbols = {name: given.symbol for name, given in market.instruments.items()} | dict(market.source.symbols)
        return next((name for name, symbol in symbols.items() if symbol and normalized(symbol) == wanted), None)


def _ambiguous(having: Sequence[tuple[Market, str]], timeframe: Timeframe) -> ProblemError:
    names = [market.name for market, _ in having]
    urls = [f"/api/v1/data/{quote(name)}/{timeframe.value}?market={market.name}" for market, name in having]
    return ProblemError(
        Problem.ambiguous_instrument,
        f"{having[0][1]} {timeframe.value}: found in {', '.join(names)}; add ?market=",
        markets=names,
        urls=urls,
    )


def _nearest(text: str, names: Sequence[str]) -> str | None:
    by_normalized = {normalized(name): name for name in names}
    close = difflib.get_close_matches(normalized(text), list(by_normalized), n=1, cutoff=0.5)
    return by_normalized[close[0]] if close else None
