"""The content of an export file: its columns' names, and every row of it. Nothing here trusts a manifest."""

import glob
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.duckdb_connection import open_duckdb
from refresh_pipeline.extras import install_command
from refresh_pipeline.files.atomic import one_line, plain_errors
from refresh_pipeline.files.staging import StagedTable
from refresh_pipeline.files.writer import MEMORY, ExportError, kind_of, quoted
from refresh_pipeline.market.export_spec import Format

# DuckDB takes a path for a pattern, and the names of its folders (instrument=...) for columns.
AS_NAMED = "hive_partitioning = false"
# How a column is read, by the kind of the array that it is held against.
READ_AS = {"M": "timestamp", "f": "double", "i": "bigint", "b": "boolean", "O": "varchar", "U": "varchar"}

AS_WRITTEN = "header = true, all_varchar = true, delim = ',', quote = '\"', allow_quoted_nulls = false"


class TableReader:
    """Reads many export files over one DuckDB in memory."""

    def __init__(self) -> None:
        # Times with a zone come back as UTC.
        self._connection = open_duckdb(config={"threads": 1, "memory_limit": MEMORY}, session={"TimeZone": "UTC"})

    def __enter__(self) -> "TableReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def names(self, path: Path) -> list[str]:
        """The columns of a file, in its order.

        Raises:
            ValueError: the path has none of the endings of export files.
            ExportError: the file is missing or is not what its name says.
        """
        kind, _ = kind_of(path)
        try:
            if kind is Format.json:
                return self._keys(path)
            return self._relation(path, kind).columns
        except (OSError, ValueError, duckdb.Error) as error:
            raise _unreadable(path, error) from error

    def read(self, path: Path, kinds: Mapping[str, str]) -> dict[str, NDArray]:
        """Every row of a file as arrays: NaN, NaT or None for what is missing.

        Args:
            path: of the file.
            kinds: by a column's name, the kind of its array's dtype.

        Raises:
            ValueError: the path has none of the endings of export files.
            ExportError: the file is missing or is not what its name says, or a cell is not of its column's kind.
        """
        kind, _ = kind_of(path)
        try:
            answer = self._relation(path, kind, kinds).project(_cast(kinds)).fetchnumpy()
        except (OSError, ValueError, duckdb.Error) as error:
            raise _unreadable(path, error) from error
        return {name: _unmasked(values) for name, values in answer.items()}

    def as_parquet(self, path: Path, kinds: Mapping[str, str], target: Path) -> None:
        """Write the rows of a text or Feather file as Parquet, in bounded memory, for reading column by column.

        Raises:
            ExportError: as `read` raises.
        """
        kind, _ = kind_of(path)
        try:
            self._relation(path, kind, kinds).project(_cast(kinds)).write_parquet(str(target), row_group_size=20_480)
        except (OSError, ValueError, duckdb.Error) as error:
            raise _unreadable(path, error) from error

    def staged(self, table: StagedTable, names: Mapping[str, str], first_row: int) -> dict[str, NDArray]:
        """Columns of staged rows from one row on, as arrays; `names` has their names among the staged columns."""
        listed = ", ".join(f"{quoted(ours)} as {quoted(theirs)}" for theirs, ours in names.items())
        source = table.source(dict.fromkeys(names.values()))
        answer = self._connection.sql(f"select {listed} from {source}").fetchnumpy()
        return {name: _unmasked(values)[first_row:] for name, values in answer.items()}

    def _relation(self, path: Path, kind: Format, kinds: Mapping[str, str] | None = None) -> duckdb.DuckDBPyRelation:
        if kind is Format.feather:
            return self._connection.from_arrow(_feather(path))
        if kind is Format.parquet:
            return self._connection.sql(f"select * from read_parquet($path, {AS_NAMED})", params=_one_file(path))
        if kind is Format.csv:
            return self._connection.sql(
                f"select * from read_csv($path, {AS_NAMED}, {AS_WRITTEN})", params=_one_file(path)
            )
        # Texts of numbers and times alike: what they are is the cast's to say.
        columns = dict.fromkeys(kinds or {}, "varchar")
        return self._connection.sql(
            f"select * from read_json($path, {AS_NAMED}, columns = $columns)",
            params={**_one_file(path), "columns": columns},
        )

    def _keys(self, path: Path) -> list[str]:
        rows = self._connection.execute(
            f"select distinct json_keys(json) from read_json_objects($path, {AS_NAMED})", _one_file(path)
        ).fetchall()
        if len(rows) > 1:
            raise ValueError(f"its rows have {len(rows)} different sets of columns")
        return rows[0][0] if rows else []


def _cast(kinds: Mapping[str, str]) -> str:
    return ", ".join(f"{quoted(name)}::{READ_AS[kind]} as {quoted(name)}" for name, kind in kinds.items())


def _one_file(path: Path) -> dict[str, str]:
    """The parameter of a scan that reads this file, whatever characters its name has."""
    return {"path": glob.escape(str(path))}


def _feather(path: Path) -> Any:
    try:
        from arro3.io import read_ipc  # noqa: PLC0415 (an extra)
    except ImportError as error:
        raise ExportError(
            f"Feather files need a package that is not installed: {install_command('feather')}"
        ) from error
    with plain_errors():
        return read_ipc(path)


def _unmasked(values: Any) -> NDArray:
    if not np.ma.isMaskedArray(values):
        return values
    if values.dtype.kind == "M":
        return values.filled(np.datetime64("NaT"))
    if values.dtype.kind in "OU":
        return np.array(values.tolist(), dtype=object)
    return np.ma.filled(values.astype(np.float64), np.nan)


def _unreadable(path: Path, error: Exception) -> ExportError:
    return ExportError(f"{path}: not readable: {one_line(error)}; export it again")
