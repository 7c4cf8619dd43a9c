"""Export files: a table as one CSV or Parquet file, written whole or not at all, and what such a file holds.

Which series are exported, and where their files are sent, is decided elsewhere.
"""

import csv
import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from refresh_pipeline.destinations import DestinationError

Table = Mapping[str, np.ndarray]

PART = ".part"
# A part this much older than a new one beside it belongs to no living writer: files take milliseconds. Were one alive
# all the same, its own write fails and says so, and nobody sees half a file.
LEFTOVER_SECONDS = 60

ISO_SECONDS = "%Y-%m-%dT%H:%M:%SZ"
ISO_MICROSECONDS = "%Y-%m-%dT%H:%M:%S.%fZ"
# By the kind of an array's dtype; times depend on the format.
SQL_TYPES = {"f": "double", "i": "bigint", "b": "boolean", "O": "varchar", "U": "varchar"}
COPY_OPTIONS = {".csv": "format csv, header", ".parquet": "format parquet, compression zstd"}
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

DROPBOX_BLOCK_BYTES = 4 * 1024 * 1024


class ExportError(DestinationError):
    """An export file that was not written, or cannot be read: which, why, what to do."""


@dataclass(frozen=True, slots=True)
class Written:
    """One export file: its rows (without a header), its size, and the SHA-256 of its bytes in hex."""

    path: Path
    rows: int
    bytes: int
    sha256: str


class TableWriter:
    """Writes many export files, and reads their shapes, over one DuckDB in memory.

    >>> from tempfile import TemporaryDirectory
    >>> day = np.array(["2024-01-01"], dtype="datetime64[us]")
    >>> with TemporaryDirectory() as folder, TableWriter() as writer:
    ...     written = writer.write({"open_time": day, "close": np.array([1.5])}, Path(folder) / "BTC-USDT_D1.csv")
    ...     print(written.rows, written.path.read_text())
    1 open_time,close
    2024-01-01T00:00:00Z,1.5
    <BLANKLINE>
    """

    def __init__(self) -> None:
        self._connection = duckdb.connect(":memory:")

    def __enter__(self) -> "TableWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def write(self, columns: Table, path: Path) -> Written:
        """One file from equally long arrays; a reader sees the old file or the new one, never half of it.

        The same arrays give the same bytes under the same release of DuckDB. Folders are made as needed.

        Args:
            columns: by name; datetime64 is UTC and becomes `2024-01-01T00:00:00Z` in CSV (with a fraction where the
                column has one) and TIMESTAMP in UTC in Parquet; float64 becomes its shortest decimal that reads back
                the same, NaN an empty field or NULL; whole numbers, truths and texts likewise; what is None or
                masked is empty or NULL.
            path: ends in .csv or .parquet.

        Raises:
            ValueError: no columns, columns of different lengths or of one name, a dtype or an ending unknown here.
            ExportError: the disk is full, the folder refuses; whatever was at `path` is untouched.
        """
        options = _copy_options(path)
        plain = {name: _plain(values) for name, values in columns.items()}
        rows = _checked_length(plain)
        query = _select(columns, path.suffix)
        with _explained(path, sum(values.nbytes for values in plain.values())), replacing(path) as part:
            self._connection.register("exported", dict(plain))
            try:
                self._connection.execute(f"copy ({query}) to ? ({options})", [str(part)])
            finally:
                self._connection.unregister("exported")
            return Written(path, rows, part.stat().st_size, sha256_of(part))

    def read_shape(self, path: Path) -> Written:
        """What is really in an export file, to hold against what was written.

        Raises:
            ValueError: the path ends neither in .csv nor in .parquet.
            ExportError: the file is missing or is not what its name says.
        """
        _copy_options(path)
        count = _csv_rows if path.suffix == ".csv" else self._parquet_rows
        try:
            return Written(path, count(path), path.stat().st_size, sha256_of(path))
        except (OSError, ValueError, csv.Error, duckdb.Error) as error:
            raise ExportError(f"{path}: not readable: {_one_line(error)}; export it again") from error

    def _parquet_rows(self, path: Path) -> int:
        [(rows,)] = self._connection.execute("select num_rows from parquet_file_metadata(?)", [str(path)]).fetchall()
        return rows


def write_table(columns: Table, path: Path) -> Written:
    """One export file by itself; see `TableWriter.write`."""
    with TableWriter() as writer:
        return writer.write(columns, path)


def read_shape(path: Path) -> Written:
    """The shape of one export file by itself; see `TableWriter.read_shape`."""
    with TableWriter() as writer:
        return writer.read_shape(path)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to, which takes its place, on disk and whole, when the block is done.

    Folders are made as needed. After an error nothing is left of the new file, and `path` is as it was.

    Raises:
        OSError: the folder cannot be made or written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PART}")
    try:
        yield part
        _sync(part)
        _remove_leftovers(path, part.stat().st_mtime)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def why_not_written(error: Exception, path: Path, wanted: int) -> str:
    """Words for a write that failed: the path, the bytes that were wanted, what was received, what to do."""
    reason = _one_line(error)
    for code in NO_ROOM:
        if getattr(error, "errno", None) == code or os.strerror(code) in reason:
            return (
                f"{path}: not written: {os.strerror(code).lower()}: about {wanted:,} bytes wanted, {_free(path):,} "
                "free on that disk; make room (or raise the quota) and run again; what was there before is untouched"
            )
    return f"{path}: not written: {reason}; check that its folder exists and can be written; the rest is untouched"


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes in hex, read in pieces.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def dropbox_hash_of(path: Path) -> str:
    """Dropbox's content hash of a file in hex, read in pieces.

    SHA-256 over the SHA-256 digests of each block of 4 MiB. Source: dropbox.com/developers/reference/content-hash.

    Raises:
        OSError: it cannot be read.
    """
    overall = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(DROPBOX_BLOCK_BYTES):
            overall.update(hashlib.sha256(block).digest())
    return overall.hexdigest()


def _copy_options(path: Path) -> str:
    if path.suffix not in COPY_OPTIONS:
        raise ValueError(f"{path}: found the ending {path.suffix!r}, allowed: {', '.join(COPY_OPTIONS)}")
    return COPY_OPTIONS[path.suffix]


def _plain(values: np.ndarray) -> np.ndarray:
    """The array without its mask: DuckDB 1.5 writes what lies under it."""
    if values.dtype.kind == "M":
        values = values.astype("datetime64[us]")
    if not isinstance(values, np.ma.MaskedArray):
        return values
    null: Any = {"f": np.nan, "M": np.datetime64("NaT", "us")}.get(values.dtype.kind)
    return np.where(np.ma.getmaskarray(values), null, values.data)


def _checked_length(columns: Table) -> int:
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"a table needs columns of one length; found {lengths or 'no columns'}")
    # DuckDB is blind to case: it would write one of the two twice.
    if len({name.lower() for name in lengths}) != len(lengths):
        raise ValueError(f"a table needs columns whose names differ by more than case; found {', '.join(lengths)}")
    return next(iter(lengths.values()))


def _select(columns: Table, ending: str) -> str:
    parts = [f"{_expression(name, values, ending)} as {_quoted(name)}" for name, values in columns.items()]
    return f"select {', '.join(parts)} from exported"


def _expression(name: str, values: np.ndarray, ending: str) -> str:
    if values.dtype.kind == "M":
        return _time_expression(_quoted(name), values, ending)
    if values.dtype.kind not in SQL_TYPES:
        allowed = "datetime64, float64, whole numbers, truths and texts"
        raise ValueError(f"column {name!r}: found dtype {values.dtype}, allowed: {allowed}")
    return f"{_quoted(name)}::{SQL_TYPES[values.dtype.kind]}"


def _time_expression(column: str, values: np.ndarray, ending: str) -> str:
    if ending == ".parquet":
        return f"{column} at time zone 'UTC'"
    times = _plain(values)
    whole = np.array_equal(times, times.astype("datetime64[s]"), equal_nan=True)
    return f"strftime({column}, '{ISO_SECONDS if whole else ISO_MICROSECONDS}')"


def _quoted(name: str) -> str:
    escaped = name.replace('"', '""')
    return f'"{escaped}"'


def _csv_rows(path: Path) -> int:
    with path.open(newline="", encoding="utf-8") as file:
        return max(sum(1 for _ in csv.reader(file)) - 1, 0)


@contextmanager
def _explained(path: Path, wanted: int) -> Iterator[None]:
    try:
        yield
    except (OSError, duckdb.IOException) as error:
        raise ExportError(why_not_written(error, path, wanted)) from error
    except duckdb.Error as error:
        raise ExportError(f"{path}: not written: {_one_line(error)}; check what the columns hold") from error


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _remove_leftovers(path: Path, now: float) -> None:
    prefix = f".{path.name}."
    for entry in os.scandir(path.parent):
        if entry.name.startswith(prefix) and entry.name.endswith(PART) and _is_older(entry, now - LEFTOVER_SECONDS):
            Path(entry.path).unlink(missing_ok=True)


def _is_older(entry: os.DirEntry[str], limit: float) -> bool:
    try:
        return entry.stat().st_mtime < limit
    except FileNotFoundError:
        return False


def _free(path: Path) -> int:
    return shutil.disk_usage(next(folder for folder in path.absolute().parents if folder.is_dir())).free


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
