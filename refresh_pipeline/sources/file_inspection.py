"""What a file looks like to the source `files`, and the YAML that reads it: for `refresh files inspect`."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from refresh_pipeline.duckdb_connection import open_duckdb
from refresh_pipeline.market.calendars.registry import CALENDARS
from refresh_pipeline.market.candles import CANDLE_COLUMNS, Candles, faults, instant
from refresh_pipeline.market.model import Market, source_options
from refresh_pipeline.market.timeframe import Timeframe, UnknownTimeframe
from refresh_pipeline.sources import PermanentError, SourceError
from refresh_pipeline.sources.file_dialect import Dialect
from refresh_pipeline.sources.file_options import FilesOptions
from refresh_pipeline.sources.file_table import dialect_of
from refresh_pipeline.sources.file_text import open_text
from refresh_pipeline.sources.files import PARQUET, Bars, FileReader, ending_of

# A market of files, whatever is in them.
MARKET = {"name": "inspected", "calendar": "crypto", "instruments": ["A"], "timeframes": ["D1"], "history": "1d"}
# Of rows that columns in the wrong order would give, many contradict themselves.
MOST_FAULTS = 0.05


@dataclass(frozen=True, slots=True)
class Inspection:
    """A file as it would be read.

    Attributes:
        candles: all of them.
        options: what `source:` needs besides the folder.
        facts: sentences about the file.
        instrument: from the file's name.
        timeframe: from the file's name, or else from the shortest distance of two rows.
    """

    candles: Candles
    options: Mapping[str, Any]
    facts: tuple[str, ...]
    instrument: str
    timeframe: Timeframe

    def yaml(self, directory: Path) -> str:
        """A market that reads the file."""
        source = {"kind": "files", "directory": str(directory), **self.options}
        market = {
            "name": "mine", "source": source, "calendar": "crypto", "instruments": [self.instrument],
            "timeframes": [self.timeframe.value], "history": "10y",
        }  # fmt: skip
        return yaml.safe_dump(market, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)


def inspect_file(path: Path, given: Mapping[str, Any]) -> Inspection:
    """How a file is written.

    Args:
        path: a CSV or Parquet file, packed or not.
        given: options that are known already, as below `source:`.

    Raises:
        PermanentError: the file cannot be read, or in two ways.
        MarketError: an option is wrong.
        OSError: there is no such file.
    """
    if not ending_of(path.name):
        raise PermanentError(
            f"{path}: expected a name that ends in .csv, .txt or .parquet, or these with .gz, .zip, .zst"
        )
    path.stat()
    first_failure: SourceError | None = None
    for more in ({}, {"header": False}) if "header" not in given else ({},):
        try:
            return _inspected(path, {**given, **more})
        except SourceError as error:
            first_failure = first_failure or error
    raise first_failure or PermanentError(f"{path}: not readable")


def _inspected(path: Path, given: Mapping[str, Any]) -> Inspection:
    market = {**MARKET, "source": {"kind": "files", "directory": ".", **given}}
    options = source_options(Market.model_validate(market), FilesOptions)
    stem = path.name[: -len(ending_of(path.name))]
    instrument, timeframe = _named(stem)
    with open_duckdb(session={"TimeZone": options.zone}) as connection:
        # Days take dates alone and times alike.
        bars = Bars(CALENDARS["crypto"], timeframe or Timeframe.D1, options.zone)
        reader = FileReader(connection, options, CANDLE_COLUMNS, bars)
        candles = reader.candles(path, since=instant("1900-01-01"), until=instant("2200-01-01"))
        dialect, encoding = (None, "") if path.suffix.lower() == PARQUET else _dialect(reader, path)
    _require_sense(path, candles)
    described = _described(dialect, encoding) if dialect else {}
    facts = (*_facts(dialect, encoding), *_contents(candles))
    facts = (*facts, "Set calendar to the market's, and timezone below source if the times are not in UTC.")
    if timeframe is None:
        facts = (*facts, f"The name has no timeframe: call the file {stem}_{_step(candles)}{ending_of(path.name)}.")
    return Inspection(candles, {**described, **given}, facts, instrument, timeframe or _step(candles))


def _dialect(reader: FileReader, path: Path) -> tuple[Dialect, str]:
    with (
        tempfile.TemporaryDirectory(prefix="refresh-file-") as name,
        open_text(path, reader.options.encoding, Path(name), copy=True) as text,
    ):
        dialect = dialect_of(reader.connection, text, reader.options, CANDLE_COLUMNS, Path(name))
        return dialect, text.encoding


def _require_sense(path: Path, candles: Candles) -> None:
    wrong = [reason for reason in faults(candles) if reason is not None]
    if not len(candles) or len(wrong) > MOST_FAULTS * len(candles):
        found = f"{len(wrong)} of {len(candles)} rows that are no candles ({wrong[0] if wrong else 'none at all'})"
        raise PermanentError(f"{path}: expected candles, found {found}; name the columns with columns: below source")


def _named(stem: str) -> tuple[str, Timeframe | None]:
    instrument, _, last = stem.rpartition("_")
    try:
        return instrument or stem, Timeframe.parse(last) if instrument else None
    except UnknownTimeframe:
        return stem, None


def _step(candles: Candles) -> Timeframe:
    steps = np.diff(candles.open_time)
    # February is shorter than a month's nominal 30 days.
    minutes = int(steps.min() / np.timedelta64(1, "m")) if len(steps) else Timeframe.D1.minutes
    fitting = [
        each for each in Timeframe if each.minutes <= minutes or (each is Timeframe.MN1 and minutes >= 28 * 1440)
    ]
    return max(fitting, default=Timeframe.m1)


def _described(dialect: Dialect, encoding: str) -> dict[str, Any]:
    """The options that say all of it, so that later rows cannot change how the file is read."""
    options: dict[str, Any] = {}
    if dialect.has_header:
        names = {name: [dialect.names[at] for at in places] for name, places in dialect.positions.items()}
        options["columns"] = {
            "time" if name == "open_time" else name: places[0] if len(places) == 1 else places
            for name, places in names.items()
        }
    else:
        options |= {"header": False, "columns": list(dialect.names)}
    if dialect.formats:
        first, *others = dialect.formats
        options["time"] = [first, *others] if others else first
    if not dialect.marks.plain:
        options["decimal"] = dialect.marks.decimal
    return options | ({"encoding": encoding} if encoding not in ("utf-8", "utf-8-sig") else {})


def _facts(dialect: Dialect | None, encoding: str) -> tuple[str, ...]:
    if dialect is None:
        return ("Parquet.",)
    delimiter = {"\t": "tab", " ": "blank"}.get(dialect.delimiter, dialect.delimiter)
    header = "a header" if dialect.has_header else "no header"
    times = " or ".join(dialect.formats) or "ISO 8601, or numbers since 1970"
    marks = f"decimal mark {dialect.marks.decimal}" + (
        "" if dialect.marks.plain else f", thousands {dialect.marks.thousands}"
    )
    return (
        f"Text in {encoding}, delimiter {delimiter}, {header}, {dialect.first_row} lines before the first row.",
        f"Times: {times}. Numbers: {marks}.",
    )


def _contents(candles: Candles) -> tuple[str, ...]:
    first = ", ".join(f"{name} {candles[name][0]:g}" for name in CANDLE_COLUMNS)
    span = f"from {str(candles.open_time[0])[:16]} to {str(candles.open_time[-1])[:16]} UTC"
    aside = f"{len(candles.malformed)} rows set aside" + (
        f": {candles.malformed[0].reason}" if candles.malformed else ""
    )
    return (f"{len(candles)} candles {span}; {aside}.", f"First candle: {first}.")
