"""A universe of shares: an index's constituents and the ids that Dhan knows them by, from the lists that both publish.

Text in, text out. Where the lists come from and where the universe is kept is the caller's part.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from refresh_pipeline.market.model import Instrument

# These come first wherever they are in an index: those that weigh most in it.
PRIORITY = (
    *("RELIANCE", "HDFCBANK", "BHARTIARTL", "TCS", "ICICIBANK", "SBIN", "INFY", "BAJFINANCE", "HINDUNILVR", "LT"),
    *("ITC", "MARUTI", "HCLTECH", "SUNPHARMA", "KOTAKBANK", "M&M", "AXISBANK", "ULTRACEMCO", "NTPC", "TITAN"),
)

# Where Dhan publishes it, anew each day.
SCRIP_MASTER = "https://images.dhan.co/api-data/api-scrip-master.csv"
MASTER_COLUMNS = ("SEM_EXM_EXCH_ID", "SEM_SEGMENT", "SEM_INSTRUMENT_NAME", "SEM_SERIES", "SEM_TRADING_SYMBOL")
MASTER_COLUMNS += ("SEM_SMST_SECURITY_ID",)
EQUITIES = ("NSE", "E", "EQUITY")
# The same symbol may have bonds beside the share; one that was moved to trade-for-trade has BE in place of EQ.
SERIES = ("BZ", "BE", "EQ")
# Fewer of the symbols than this share, and the list is another one than it should be.
LEAST_FOUND = 0.5


class UniverseError(ValueError):
    """A list is not what it should be: what was wanted, what was found."""


@dataclass(frozen=True, slots=True)
class Universe:
    """Instruments in order of priority, and what became of it since the one before."""

    instruments: Mapping[str, Instrument]
    added: Sequence[str]
    removed: Sequence[str]
    renumbered: Sequence[str]
    # Not in the scrip master: kept with their id where they had one, left out where not.
    unknown: Sequence[str]

    @property
    def csv(self) -> str:
        """As a market's YAML may name it: the symbol, its id, its class where one of them has one."""
        has_class = any(each.asset_class for each in self.instruments.values())
        lines = [["symbol", "security_id", *(["class"] if has_class else [])]]
        for symbol, each in self.instruments.items():
            lines.append(
                [symbol, str(each.ids.get("security_id", "")), *([each.asset_class or ""] if has_class else [])]
            )
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(lines)
        return text.getvalue()


def renewed(before: Mapping[str, Instrument], master: str, constituents: str | None) -> Universe:
    """A universe with today's ids, and with an index's constituents in place of its shares.

    Args:
        before: the universe as it is. What has a class (an index) stays as it is, at the end.
        master: the text of Dhan's scrip master.
        constituents: the text of the exchange's list of an index; None to keep the shares there are.

    Raises:
        UniverseError: one of the lists is not what it should be.
    """
    ids = security_ids(master)
    shares = [symbol for symbol, each in before.items() if not each.asset_class]
    wanted = shares if constituents is None else by_priority(symbols_of(constituents))
    known = [symbol for symbol in wanted if symbol in ids]
    if len(known) < len(wanted) * LEAST_FOUND:
        raise UniverseError(
            f"found {len(known)} of {len(wanted)} symbols in the scrip master, wanted nearly all; is it the right list?"
        )
    now = {symbol: _numbered(symbol, ids, before) for symbol in wanted if symbol in ids or symbol in before}
    others = {symbol: each for symbol, each in before.items() if each.asset_class}
    return Universe(
        now | others,
        added=[symbol for symbol in now if symbol not in before],
        removed=[symbol for symbol in shares if symbol not in now],
        renumbered=[symbol for symbol in now if symbol in before and before[symbol].ids != now[symbol].ids],
        unknown=[symbol for symbol in wanted if symbol not in ids],
    )


def by_priority(symbols: Sequence[str]) -> list[str]:
    """The priority symbols first, the others as they come.

    >>> by_priority(["ABB", "TCS", "RELIANCE"])
    ['RELIANCE', 'TCS', 'ABB']
    """
    first = [symbol for symbol in PRIORITY if symbol in symbols]
    return [*first, *(symbol for symbol in dict.fromkeys(symbols) if symbol not in first)]


def symbols_of(constituents: str) -> list[str]:
    """The symbols of an index, from the exchange's list (Company Name, Industry, Symbol, Series, ISIN Code).

    Raises:
        UniverseError: it is no such list.
    """
    rows = _rows(constituents)
    header = [cell.strip().lower() for cell in rows[0]] if rows else []
    if "symbol" not in header:
        raise UniverseError(f"constituents: found the columns {_named(rows)}; wanted one that is called Symbol")
    column = header.index("symbol")
    symbols = [row[column].strip() for row in rows[1:] if len(row) > column and row[column].strip()]
    if not symbols:
        raise UniverseError("constituents: found no symbol below the header; wanted a row per share")
    return symbols


def security_ids(master: str) -> dict[str, str]:
    """Dhan's id of every share of the National Stock Exchange, by its trading symbol.

    Raises:
        UniverseError: it is not the scrip master (api-scrip-master.csv), or no share is in it.
    """
    rows = _rows(master)
    header = [cell.strip() for cell in rows[0]] if rows else []
    if missing := [name for name in MASTER_COLUMNS if name not in header]:
        raise UniverseError(f"scrip master: found the columns {_named(rows)}; wanted {', '.join(missing)} as well")
    places = [header.index(name) for name in MASTER_COLUMNS]
    found: dict[str, tuple[int, str]] = {}
    for row in rows[1:]:
        if len(row) < len(header):
            continue
        exchange, segment, kind, series, symbol, security_id = (row[place].strip() for place in places)
        if (exchange, segment, kind) == EQUITIES and series in SERIES and symbol and security_id.isdigit():
            found[symbol] = max(found.get(symbol, (-1, "")), (SERIES.index(series), security_id))
    if not found:
        raise UniverseError("scrip master: found no share of NSE in it; is it the right file?")
    return {symbol: security_id for symbol, (_, security_id) in found.items()}


def _numbered(symbol: str, ids: Mapping[str, str], before: Mapping[str, Instrument]) -> Instrument:
    if symbol not in ids:
        return before[symbol]
    return Instrument(ids={"security_id": ids[symbol]})


def _rows(text: str) -> list[list[str]]:
    return [row for row in csv.reader(io.StringIO(text.removeprefix("\ufeff"))) if row]


def _named(rows: Sequence[Sequence[str]]) -> str:
    return ", ".join(cell.strip() for cell in rows[0])[:200] if rows else "none"
