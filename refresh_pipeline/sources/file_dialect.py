"""How a text file of candles is written: its delimiter, its columns, its times and numbers. It is read in `files`.

What the file leaves no doubt about needs no option. What could be read in two ways is refused with both readings.
"""

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from refresh_pipeline.market.candles import CANDLE_COLUMNS, PRICE_COLUMNS, QUOTE_COLUMNS
from refresh_pipeline.sources import PermanentError
from refresh_pipeline.sources.file_numbers import PLAIN, Marks, marks_of
from refresh_pipeline.sources.file_options import LAYOUTS, FilesOptions
from refresh_pipeline.sources.file_text import Text
from refresh_pipeline.sources.file_times import Compare, formats_of, is_clock

TIME_COLUMNS = ("open_time", "time", "timestamp", "datetime", "date")
DELIMITERS = ",;\t|"
# Lines in which a header may stand, and rows that are looked at.
HEADER_LINES, SAMPLE_ROWS = 40, 400
# The names of columns as programs write them, in lower case without marks; the first that a file has counts.
ALIASES: Mapping[str, tuple[str, ...]] = {
    "open_time": (
        *TIME_COLUMNS, "date_time", "opentime", "gmt_time", "local_time", "utc_time", "time_utc", "timestamp_utc",
        "datetime_utc", "window_start", "bar_time", "unix", "unix_timestamp", "unix_time", "epoch", "ts", "t",
        "trading_date", "trade_date", "date/time", "begin", "time_period_start", "candle_time", "dtyyyymmdd",
        "data", "datum", "fecha", "time_eet", "date_utc",
    ),
    "open": (
        "open", "o", "open_price", "price_open", "opening_price", "px_open", "first", "otwarcie", "eröffn",
        "eröffnung", "erster", "ouverture", "ouv", "apertura",
    ),
    "high": (
        "high", "h", "high_price", "price_high", "px_high", "max", "najwyzszy", "hoch", "plus_haut", "máximo",
        "maximo",
    ),
    "low": (
        "low", "l", "low_price", "price_low", "px_low", "min", "najnizszy", "tief", "plus_bas", "mínimo", "minimo",
    ),
    "close": (
        "close", "c", "close_price", "price_close", "closing_price", "close/last", "last_price", "last", "px_last",
        "price", "zamkniecie", "schluss", "schlusskurs", "zuletzt", "dernier", "clôture", "cierre", "último",
        "ultimo",
    ),
    "volume": (
        "volume", "tickvol", "tick_volume", "tickvolume", "vol", "v", "base_volume", "tottrdqty",
        "total_traded_quantity", "volume_traded", "ttl_trd_qnty", "no_of_shares", "volumefrom", "px_volume",
        "wolumen", "volumen", "shares_traded",
    ),
}  # fmt: skip
# Where the date stands in a column of its own beside the clock's.
CLOCKS = ("time", "zeit", "uhrzeit", "heure", "hora", "godzina")
DATES = ("date", "dtyyyymmdd", "trading_date", "datum", "fecha", "data", "day")
INSTRUMENTS = ("symbol", "ticker", "instrument")
# A header's word for a zone that is not UTC, as in `Time (EET)`.
ZONE_IN_NAME = re.compile(r"\((?!utc|gmt\)|gmt\b|z\))([a-z]{2,5}|[a-z]+/[a-z_]+)\)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a file is written.

    Attributes:
        delimiter: between two cells.
        names: of the file's columns, as they stand there; of positions where there is no header.
        has_header: whether the row before the first one with a candle names the columns.
        first_row: the number of lines before the first candle.
        positions: our columns by the file's; two under `open_time` for a date and a clock.
        formats: of the times, for `strptime`; none where DuckDB reads them by itself.
        marks: of the numbers.
    """

    delimiter: str
    names: tuple[str, ...]
    has_header: bool
    first_row: int
    positions: Mapping[str, tuple[int, ...]]
    formats: tuple[str, ...] = ()
    marks: Marks = field(default_factory=Marks)


def normalized(name: str) -> str:
    """A column's name without case and marks.

    >>> [normalized(name) for name in ("<OPEN>", " Open Time ", "Vol.", "Time (UTC)", "Close/Last")]
    ['open', 'open_time', 'vol', 'time_utc', 'close/last']
    """
    return re.sub(r"[\s_().*-]+", "_", name.strip().strip("<>\ufeff\"'").lower()).strip("_")


def header_of(text: Text, options: FilesOptions) -> Dialect:
    """Where a file's rows begin and what its columns are called; times and numbers are not looked at.

    Raises:
        PermanentError: no row names the columns, and the market's YAML does not name them either.
    """
    lines = text.lines[: HEADER_LINES + (options.skip or 0)]
    start = options.skip or 0
    if options.header is not False:
        for number in range(start, len(lines) if options.skip is None else start + 1):
            if found := _header_at(lines, number, options):
                return found
    if options.layouts or _is_binances(_cells(lines[start], ",") if lines[start:] else []):
        for number in range(start, len(lines)):
            if found := _row_at(lines[number], number, options):
                return found
    raise PermanentError(_no_header(text, options))


def with_contents(
    dialect: Dialect, text: Text, options: FilesOptions, compare: Compare, columns: Sequence[str]
) -> Dialect:
    """The dialect with what the rows say of their times and numbers.

    Args:
        dialect: of the header.
        text: the file's.
        options: of the market.
        compare: counts the rows that one list of formats reads and another does not.
        columns: which are wanted.

    Raises:
        PermanentError: a time or a number can be read in two ways, or the file holds several instruments.
    """
    rows = sample_rows(dialect, text)
    _require_one_instrument(dialect, rows, text.name)
    positions = dialect.positions if options.columns else with_clock(dialect, rows)
    times = [" ".join(_cell(row, each) for each in positions["open_time"]) for row in rows]
    _require_zone(dialect, positions, times, options, text.name)
    formats = options.formats or formats_of([each.strip() for each in times], options.order, compare, text.name)
    prices = [_cell(row, at[0]) for row in rows for name, at in positions.items() if name in columns]
    marks = marks_of(prices, options.decimal, options.thousands, text.name)
    return replace(dialect, positions=positions, formats=formats, marks=marks)


def sample_rows(dialect: Dialect, text: Text) -> list[list[str]]:
    """Rows from either end of the file, as cells."""
    half = SAMPLE_ROWS // 2
    lines = [*text.lines[dialect.first_row :][:half], *(text.last_lines or text.lines[dialect.first_row :])[-half:]]
    return [row for row in csv.reader(filter(str.strip, lines), delimiter=dialect.delimiter) if len(row) > 1]


def _cells(line: str, delimiter: str) -> list[str]:
    return [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter), [])]


def _delimiter(line: str, options: FilesOptions) -> str:
    # DuckDB's own guess looks at the rows as well, and takes a ragged file for one with a single column.
    return options.delimiter or max(DELIMITERS, key=line.count)


def _header_at(lines: Sequence[str], number: int, options: FilesOptions) -> Dialect | None:
    delimiter = _delimiter(lines[number], options)
    names, first_row = _cells(lines[number].lstrip("\ufeff"), delimiter), number + 1
    following = [_cells(line, delimiter) for line in lines[number + 1 : number + 3]]
    starts = [normalized(cells[0]) if cells else "" for cells in following]
    # yfinance writes two more rows of names, the last of which names the column of times.
    if starts[:1] == ["ticker"] and starts[1:] in (["date"], ["datetime"]):
        names, first_row = [following[1][0], *names[1:]], number + 3
    positions = positions_of(names, options)
    is_complete = all(name in positions for name in ("open_time", *PRICE_COLUMNS))
    return Dialect(delimiter, tuple(names), True, first_row, positions) if is_complete else None


def _is_binances(cells: Sequence[str]) -> bool:
    """Whether a row can only be Binance's: twelve numbers with the bar's opening and its close, to the last instant."""
    if len(cells) != len(LAYOUTS["binance"][0]) or not all(map(PLAIN.fullmatch, cells)):
        return False
    opened, closed = cells[0], cells[6]
    return opened.isdigit() and len(opened) in (13, 16) and closed.isdigit() and (int(closed) + 1) % 1000 == 0


def _row_at(line: str, number: int, options: FilesOptions) -> Dialect | None:
    delimiter = _delimiter(line, options)
    cells = _cells(line, delimiter)
    if sum(bool(PLAIN.fullmatch(cell.replace(",", "."))) for cell in cells) < len(PRICE_COLUMNS):
        return None
    layouts = options.layouts or LAYOUTS["binance"]
    fitting = next((each for each in layouts if len(each) == len(cells)), layouts[0])
    if options.header is False and not options.columns and not options.preset and is_clock(cells[1]):
        fitting = ("date", "time", *CANDLE_COLUMNS)
    named = [normalized(name) for name in fitting]
    positions = {name: (named.index(name),) for name in (*CANDLE_COLUMNS, *QUOTE_COLUMNS) if name in named}
    time = next((name for name in TIME_COLUMNS if name in named), None)
    if time is None or any(name not in positions for name in PRICE_COLUMNS):
        wanted = ", ".join(("open_time", *PRICE_COLUMNS))
        raise PermanentError(f"columns: expected a list with {wanted}; found {', '.join(fitting)}")
    both = ("date", "time") if {"date", "time"} <= set(named) else (time,)
    names = tuple(fitting[: len(cells)]) + tuple(f"column {each + 1}" for each in range(len(fitting), len(cells)))
    return Dialect(delimiter, names, False, number, positions | {"open_time": tuple(map(named.index, both))})


def positions_of(names: Sequence[str], options: FilesOptions) -> dict[str, tuple[int, ...]]:
    """Our columns by the positions of the file's; what the market's YAML names comes before what is usual."""
    plain = [normalized(name) for name in names]
    positions: dict[str, tuple[int, ...]] = {}
    for name in (*ALIASES, *QUOTE_COLUMNS):
        usual = [plain.index(each) for each in ALIASES.get(name, (name,)) if each in plain]
        if name == "volume" and not usual:
            usual = [number for number, each in enumerate(plain) if each.startswith("volume")]
        named = options.columns.get("time" if name == "open_time" else name)
        wanted = [normalized(each) for each in named] if named else []
        if named:
            positions |= {name: tuple(map(plain.index, wanted))} if set(wanted) <= set(plain) else {}
        elif usual:
            positions[name] = (usual[0],)
    return positions


def with_clock(dialect: Dialect, rows: Sequence[Sequence[str]]) -> Mapping[str, tuple[int, ...]]:
    """The positions with date and clock together, where they stand in two columns."""
    plain = [normalized(name) for name in dialect.names]
    date = next((plain.index(name) for name in DATES if name in plain), None)
    if date is None or len(dialect.positions["open_time"]) > 1 or not rows:
        return dialect.positions
    clocks = [at for at in range(len(plain)) if at != date and _holds_clocks(rows[:20], at, plain[at])]
    return {**dialect.positions, "open_time": (date, clocks[0])} if clocks else dialect.positions


def _holds_clocks(rows: Sequence[Sequence[str]], at: int, name: str) -> bool:
    """Whether a column holds times of day; of digits alone, or all the same, only where it is called so."""
    cells = [_cell(row, at) for row in rows]
    is_named = name in CLOCKS
    return all(is_clock(cell) and (":" in cell or is_named) for cell in cells) and (is_named or len(set(cells)) > 1)


def _require_one_instrument(dialect: Dialect, rows: Sequence[Sequence[str]], where: str) -> None:
    plain = [normalized(name) for name in dialect.names]
    at = next((plain.index(name) for name in INSTRUMENTS if name in plain), None)
    found = sorted({_cell(row, at) for row in rows} - {""}) if at is not None else []
    if len(found) > 1:
        raise PermanentError(
            f"{where}: expected one instrument in a file; found {', '.join(found[:5])}; split the file"
        )


def _require_zone(
    dialect: Dialect, positions: Mapping[str, tuple[int, ...]], times: Sequence[str], options: FilesOptions, where: str
) -> None:
    name = dialect.names[positions["open_time"][0]]
    has_zone = any(re.search(r"[+-]\d{2}:?\d{2}$|Z$", text) for text in times[:20])
    named = ZONE_IN_NAME.search(name)
    if options.timezone or has_zone or not (named or normalized(name) == "local_time"):
        return
    raise PermanentError(
        f"{where}: the column {name!r} holds times of another zone than UTC; set timezone: below source"
    )


def _cell(row: Sequence[str], at: int) -> str:
    return row[at].strip() if at < len(row) else ""


def _no_header(text: Text, options: FilesOptions) -> str:
    number = min(options.skip or 0, max(len(text.lines) - 1, 0))
    line = text.lines[number] if text.lines else ""
    names = _cells(line.lstrip("\ufeff"), _delimiter(line, options))
    is_row = sum(bool(PLAIN.fullmatch(name)) for name in names) >= len(PRICE_COLUMNS)
    hint = "; if no row names them, set header: false or a preset" if is_row else ""
    return f"{text.name}: {lacking(names, positions_of(names, options))}{hint}"


def lacking(names: Sequence[str], positions: Mapping[str, object]) -> str:
    """What a file's names lack, as a message; empty where every column that is needed is named."""
    missing = [name for name in PRICE_COLUMNS if name not in positions]
    if not missing and "open_time" in positions:
        return ""
    wanted = missing if "open_time" in positions else [" or ".join(TIME_COLUMNS), *missing]
    return (
        f"expected a first row that names the columns {', '.join(wanted)}; "
        f"found {', '.join(filter(None, names)) or 'nothing'}"
    )
