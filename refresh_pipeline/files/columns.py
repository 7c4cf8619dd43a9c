"""Columns of export files: numpy arrays as SQL types and expressions."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from refresh_pipeline.market.export_spec import Format

ISO_SECONDS = "%Y-%m-%dT%H:%M:%SZ"
ISO_MICROSECONDS = "%Y-%m-%dT%H:%M:%S.%fZ"
TIME_LETTER = "M"
# By the kind of an array's dtype; the text of times depends on the format.
SQL_TYPES = {"f": "double", "i": "bigint", "b": "boolean", "O": "varchar", "U": "varchar", TIME_LETTER: "timestamp"}
TEXTS = (Format.csv, Format.json)


@dataclass(frozen=True, slots=True)
class ColumnKind:
    """The letter of a column's dtype, and whether all of its times are whole seconds."""

    letter: str
    is_whole: bool = True

    @classmethod
    def of_all(cls, kinds: "Iterable[ColumnKind]") -> "ColumnKind":
        """The kind of pieces behind one another.

        >>> ColumnKind.of_all([ColumnKind("b"), ColumnKind("f")])
        ColumnKind(letter='f', is_whole=True)
        """
        pieces = list(kinds)
        letters = {piece.letter for piece in pieces}
        letter = letters.pop() if len(letters) == 1 else "f" if letters <= {"f", "i", "b"} else "O"
        return cls(letter, all(piece.is_whole for piece in pieces))


def kinds_of(columns: Mapping[str, np.ndarray]) -> dict[str, ColumnKind]:
    """The kind of each column.

    Raises:
        ValueError: a dtype is unknown here.
    """
    kinds = {}
    for name, values in columns.items():
        if values.dtype.kind not in SQL_TYPES:
            allowed = "datetime64, float64, whole numbers, truths and texts"
            raise ValueError(f"column {name!r}: found dtype {values.dtype}, allowed: {allowed}")
        times = plain_values(values) if values.dtype.kind == TIME_LETTER else None
        is_whole = times is None or np.array_equal(times, times.astype("datetime64[s]"), equal_nan=True)
        kinds[name] = ColumnKind(values.dtype.kind, is_whole)
    return kinds


def plain_values(values: np.ndarray) -> np.ndarray:
    """The array without its mask: DuckDB 1.5 writes what lies under it."""
    if values.dtype.kind == TIME_LETTER:
        values = values.astype("datetime64[us]")
    if not isinstance(values, np.ma.MaskedArray):
        return values
    null: Any = {"f": np.nan, TIME_LETTER: np.datetime64("NaT", "us")}.get(values.dtype.kind)
    return np.where(np.ma.getmaskarray(values), null, values.data)


def stored(name: str, kind: ColumnKind) -> str:
    """SQL for a column in the type of its kind."""
    return f"{quoted(name)}::{SQL_TYPES[kind.letter]}"


def expression(name: str, column: ColumnKind, kind: Format, time_format: str) -> str:
    """SQL for a column as a file of this format holds it."""
    if column.letter != TIME_LETTER:
        return stored(name, column)
    if kind not in TEXTS:
        return f"{quoted(name)} at time zone 'UTC'"
    return f"strftime({quoted(name)}, '{time_format or (ISO_SECONDS if column.is_whole else ISO_MICROSECONDS)}')"


def quoted(name: str) -> str:
    """A name as an SQL identifier, whatever characters it has."""
    escaped = name.replace('"', '""')
    return f'"{escaped}"'
