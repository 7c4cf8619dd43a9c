"""Export files: a table as one CSV, Parquet, JSON or Feather file, written whole or not at all, and what it holds.

Which series are exported, and where their files are sent, is decided elsewhere.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb
import numpy as np

from refresh_pipeline.duckdb_connection import open_duckdb
from refresh_pipeline.extras import install_command
from refresh_pipeline.files.atomic import one_line, plain_errors, replacing, sha256_of, why_not_written
from refresh_pipeline.files.columns import TEXTS, ColumnKind, expression, kinds_of, plain_values, quoted
from refresh_pipeline.files.staging import TIME, StagedTable
from refresh_pipeline.market.export_spec import ENDINGS, PACKS, Compression, Format

Table = Mapping[str, np.ndarray]

# Rows of a JSON file lie in one list, which any reader takes; one object a line would be no JSON document. The second
# version of Parquet takes the bytes of numbers apart: files are a fifteenth smaller, and as fast to write and to read.
# Bloom filters help who looks for one value among files of millions of rows.
COPY_OPTIONS = {
    Format.csv: "format csv, header",
    Format.parquet: "format parquet, parquet_version v2, write_bloom_filter false",
    Format.json: "format json, array true",
}
# Cells that a Parquet file's row group holds at most where the rows are staged: DuckDB buffers a whole group.
CELLS_A_GROUP = 4_000_000
ROWS_A_VECTOR = 2048
MEMORY_OF_A_WRITER = 512
MEMORY = f"{MEMORY_OF_A_WRITER}MB"


class ExportError(Exception):
    """An export file was not written, or cannot be read; the message says which, why and what to do."""


@dataclass(frozen=True, slots=True)
class Written:
    """One export file: its rows (without a header), its size, and the SHA-256 of its bytes in hex.

    `replaced` says whether a new file took its place; not where the same content was there already.
    """

    path: Path
    rows: int
    bytes: int
    sha256: str
    replaced: bool = True


class TableWriter:
    """Writes many export files over one DuckDB in memory.

    >>> from tempfile import TemporaryDirectory
    >>> day = np.array(["2024-01-01"], dtype="datetime64[us]")
    >>> with TemporaryDirectory() as folder, TableWriter() as writer:
    ...     written = writer.write({"open_time": day, "close": np.array([1.5])}, Path(folder) / "BTC-USDT_D1.csv")
    ...     print(written.rows, written.path.read_text())
    1 open_time,close
    2024-01-01T00:00:00Z,1.5
    <BLANKLINE>
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection | None = None, *, writers: int = 1) -> None:
        """Over a DuckDB of its own with memory for `writers`, or over a connection, which it closes at its end."""
        # Each file is written by one thread.
        config = {"threads": 1, "memory_limit": f"{writers * MEMORY_OF_A_WRITER}MB"}
        self._connection = connection or open_duckdb(config=config)

    def another(self) -> "TableWriter":
        """A writer for another thread over the same DuckDB: to begin one more takes 30 ms."""
        return TableWriter(self._connection.cursor())

    def __enter__(self) -> "TableWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def write(
        self,
        columns: Table,
        path: Path,
        *,
        compression: Compression | None = None,
        time_format: str = "",
        older: Path | None = None,
        types: Mapping[str, str] | None = None,
    ) -> Written:
        """One file from equally long arrays; a reader sees the old file or the new one, never half of it.

        The same arrays give the same bytes under the same release of DuckDB; a file that holds them is left alone.
        Folders are made as needed.

        Args:
            columns: by name; datetime64 is UTC and becomes `2024-01-01T00:00:00Z` in CSV and JSON (with a fraction
                where the column has one) and TIMESTAMP in UTC elsewhere; float64 becomes its shortest decimal that
                reads back the same, NaN an empty field or NULL; whole numbers, truths and texts likewise; what is
                None or masked is empty or NULL.
            path: ends in .csv or .json (.gz, .zst), .parquet or .feather.
            compression: of the format; where none is given, its first in PACKS, or as the ending says.
            time_format: of times in CSV and JSON, in place of ISO 8601, as DuckDB's strftime takes it.
            older: where the file that is replaced is kept; by default it is gone.
            types: SQL types of columns whose arrays do not show it: whole numbers that are float64 for their nulls.

        Raises:
            ValueError: no columns, columns of different lengths or of one name, a dtype or an ending unknown here.
            ExportError: the disk is full, the folder refuses; whatever was at `path` is untouched.
        """
        kind, packed = kind_of(path)
        plain = {name: plain_values(values) for name, values in columns.items()}
        rows = _checked_length(plain)
        kinds = kinds_of(columns)
        query = f"select {_listed({name: name for name in columns}, kinds, kind, time_format, types)} from exported"

        def copy(part: Path) -> None:
            self._connection.register("exported", dict(plain))
            try:
                self._copy(query, part, kind, compression or packed)
            finally:
                self._connection.unregister("exported")

        return _replaced(path, rows, sum(values.nbytes for values in plain.values()), older, copy)

    def csv_lines(self, columns: Table, folder: Path, *, time_format: str = "") -> list[bytes]:
        """The rows as the lines that a CSV file of them has, without its header; no text may hold a line break.

        Args:
            columns: as in `write`.
            folder: an existing folder for a file in between.
            time_format: as in `write`.

        Raises:
            ExportError: the disk is full, the folder refuses.
        """
        plain = {name: plain_values(values) for name, values in columns.items()}
        listed = _listed({name: name for name in columns}, kinds_of(columns), Format.csv, time_format, None)
        between = folder / "lines.csv"
        with _explained(between, sum(values.nbytes for values in plain.values())):
            self._connection.register("exported", plain)
            try:
                self._connection.execute(
                    f"copy (select {listed} from exported) to ? (format csv, header false)", [str(between)]
                )
            finally:
                self._connection.unregister("exported")
            lines = between.read_bytes().splitlines(keepends=True)
            between.unlink()
        return lines

    def stage(self, pieces: Iterable[Table], folder: Path) -> StagedTable:
        """Rows that are too many for memory as files of a folder that exists, for `write_staged`.

        Raises:
            ExportError: the disk is full, the folder refuses.
        """
        staged = StagedTable(folder)
        for rows in pieces:
            with _explained(folder, sum(values.nbytes for values in rows.values())):
                staged.add(self._connection, rows)
        return staged

    def write_staged(
        self,
        staged: StagedTable,
        names: Mapping[str, str],
        path: Path,
        *,
        first_row: int = 0,
        compression: Compression | None = None,
        time_format: str = "",
        older: Path | None = None,
        types: Mapping[str, str] | None = None,
    ) -> Written:
        """One file from staged rows, in bounded memory; otherwise as `write`.

        Args:
            staged: rows in the order of `open_time`.
            names: the file's columns, each with its name among the staged columns.
            path: as in `write`.
            first_row: the first row of the file.
            compression: as in `write`.
            time_format: as in `write`.
            older: as in `write`.
            types: as in `write`.
        """
        kind, packed = kind_of(path)
        rows = len(staged.open_times) - first_row
        listed = _listed(names, staged.kinds, kind, time_format, types)
        source = staged.source(dict.fromkeys([TIME, *names.values()]))
        since = f" where {TIME} >= timestamp '{staged.open_times[first_row]}'" if first_row else ""
        query, size = f"select {listed} from {source}{since}", self._rows_a_group(len(names))

        def copy(part: Path) -> None:
            if kind is Format.feather:
                # DuckDB hands over an answer whole; a file is read in pieces.
                between = staged.folder / "feather.parquet"
                self._copy(query, between, Format.parquet, Compression.zstd, size)
                _write_feather(_parquet_reader()(between), part, compression or packed)
                between.unlink()
            else:
                self._copy(query, part, kind, compression or packed, size)

        return _replaced(path, rows, staged.bytes, older, copy)

    @staticmethod
    def _rows_a_group(columns: int) -> int:
        return max(CELLS_A_GROUP // columns // ROWS_A_VECTOR, 1) * ROWS_A_VECTOR

    def _copy(self, query: str, part: Path, kind: Format, packed: Compression, group: int = 0) -> None:
        if kind is Format.feather:
            _write_feather(self._connection.sql(query), part, packed)
            return
        how = "uncompressed" if packed is Compression.none and kind is Format.parquet else packed.value
        options = f"{COPY_OPTIONS[kind]}, compression {how}"
        options += f", row_group_size {group}" if group and kind is Format.parquet else ""
        self._connection.execute(f"copy ({query}) to ? ({options})", [str(part)])


def _write_feather(rows: object, part: Path, packed: Compression) -> None:
    write_ipc = feather_writer()
    with plain_errors():
        write_ipc(rows, part, compression=None if packed is Compression.none else packed.value)


def _parquet_reader() -> Callable[[Path], object]:
    from arro3.io import read_parquet  # noqa: PLC0415 (an extra)

    return read_parquet


def _replaced(path: Path, rows: int, wanted: int, older: Path | None, copy: Callable[[Path], None]) -> Written:
    with _explained(path, wanted), replacing(path, older) as part:
        copy(part)
        written = Written(path, rows, part.stat().st_size, sha256_of(part))
        if _holds(path, written):
            part.unlink()
            written = replace(written, replaced=False)
        return written


def kind_of(path: Path) -> tuple[Format, Compression]:
    """The format and the compression of a file by its name; without an ending for it, the format's default.

    >>> [kind_of(Path(name))[1].value for name in ("a.csv", "a.json.gz", "a.parquet")]
    ['none', 'gzip', 'zstd']

    Raises:
        ValueError: no format of ours has that ending.
    """
    packed = next((compression for compression, ending in ENDINGS.items() if path.suffix == ending), None)
    ending = Path(path.stem).suffix if packed else path.suffix
    if ending.removeprefix(".") not in set(Format) or (packed and Format(ending[1:]) not in TEXTS):
        raise ValueError(
            f"{path}: found the ending {ending_of(path)!r}, allowed: "
            f"{', '.join(f'.{file_format}' for file_format in Format)}, "
            f"and .csv and .json with {' or '.join(ENDINGS.values())}"
        )
    kind = Format(ending[1:])
    return kind, packed or PACKS[kind][0]


def ending_of(path: Path) -> str:
    """How a file's name ends, the packing included.

    >>> ending_of(Path("BRK.B_D1.csv.gz"))
    '.csv.gz'
    """
    return "".join(path.suffixes[-2:] if path.suffix in ENDINGS.values() else path.suffixes[-1:])


def feather_writer() -> Callable[..., None]:
    """The function that writes Feather files, which DuckDB cannot.

    Raises:
        ExportError: it is not installed.
    """
    try:
        from arro3.io import write_ipc  # noqa: PLC0415 (an extra)
    except ImportError as error:
        raise ExportError(
            f"Feather files need a package that is not installed: {install_command('feather')}"
        ) from error
    return write_ipc


def write_table(columns: Table, path: Path) -> Written:
    """One export file by itself; see `TableWriter.write`."""
    with TableWriter() as writer:
        return writer.write(columns, path)


def _checked_length(columns: Table) -> int:
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"a table needs columns of one length; found {lengths or 'no columns'}")
    # DuckDB is blind to case: it would write one of the two twice.
    if len({name.lower() for name in lengths}) != len(lengths):
        raise ValueError(f"a table needs columns whose names differ by more than case; found {', '.join(lengths)}")
    return next(iter(lengths.values()))


def _listed(
    names: Mapping[str, str],
    kinds: Mapping[str, ColumnKind],
    kind: Format,
    time_format: str,
    types: Mapping[str, str] | None,
) -> str:
    casts = {name: f"::{sql_type}" for name, sql_type in (types or {}).items()}
    return ", ".join(
        f"{expression(ours, kinds[ours], kind, time_format)}{casts.get(theirs, '')} as {quoted(theirs)}"
        for theirs, ours in names.items()
    )


@contextmanager
def _explained(path: Path, wanted: int) -> Iterator[None]:
    try:
        yield
    except (OSError, duckdb.IOException) as error:
        raise ExportError(why_not_written(error, path, wanted)) from error
    except duckdb.Error as error:
        raise ExportError(f"{path}: not written: {one_line(error)}; check what the columns hold") from error


def _holds(path: Path, written: Written) -> bool:
    """Whether the file that is there already has just this content."""
    try:
        return path.stat().st_size == written.bytes and sha256_of(path) == written.sha256
    except OSError:
        return False
