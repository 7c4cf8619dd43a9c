"""Rows as bytes: JSON by rows or by columns, CSV, NDJSON, Arrow, Parquet; and the tags of answers."""

import gzip
import hashlib
import tempfile
from collections.abc import Mapping
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from refresh_pipeline.api.frames import Frame
from refresh_pipeline.api.problems import Problem, ProblemError
from refresh_pipeline.duckdb_connection import open_duckdb
from refresh_pipeline.files.columns import plain_values
from refresh_pipeline.files.writer import TableWriter

WHOLE = {"tinyint", "smallint", "integer", "bigint"}
# Bytes from which a text is packed where the client takes gzip.
PACKED_FROM = 4096
GZIP_LEVEL = 4
NUMPY = orjson.OPT_SERIALIZE_NUMPY


class Format(StrEnum):
    """The formats of an answer."""

    json = "json"
    columns = "columns"
    csv = "csv"
    ndjson = "ndjson"
    arrow = "arrow"
    parquet = "parquet"


class TimeStyle(StrEnum):
    """How times are written: ISO 8601 in UTC, or seconds or milliseconds since 1970."""

    iso = "iso"
    s = "s"
    ms = "ms"


MEDIA_TYPES = {
    Format.json: "application/json",
    Format.columns: "application/json",
    Format.csv: "text/csv; charset=utf-8",
    Format.ndjson: "application/x-ndjson",
    Format.arrow: "application/vnd.apache.arrow.stream",
    Format.parquet: "application/vnd.apache.parquet",
}
# What Accept may ask for, the first of them where it does not care.
ACCEPTED = {
    "application/json": Format.json,
    "text/csv": Format.csv,
    "application/x-ndjson": Format.ndjson,
    "application/ndjson": Format.ndjson,
    "application/vnd.apache.arrow.stream": Format.arrow,
    "application/vnd.apache.parquet": Format.parquet,
}
BINARY = (Format.arrow, Format.parquet)


def format_of(accept: str) -> Format:
    """The format that a header Accept prefers.

    >>> format_of("text/csv, application/json;q=0.5").value, format_of("text/html, */*;q=0.8").value
    ('csv', 'json')

    Raises:
        ProblemError: not-acceptable.
    """
    ranked = sorted(((_quality(part), part.split(";")[0].strip().lower()) for part in accept.split(",")), key=_rank)
    for quality, kind in ranked:
        if quality <= 0:
            continue
        if kind in ("", "*/*", "application/*"):
            return Format.json
        if kind == "text/*":
            return Format.csv
        if kind in ACCEPTED:
            return ACCEPTED[kind]
    allowed = list(ACCEPTED)
    raise ProblemError(
        Problem.not_acceptable, f"Accept: found {accept!r}; allowed: {', '.join(allowed)}", allowed=allowed
    )


def _rank(item: tuple[float, str]) -> float:
    return -item[0]


def _quality(part: str) -> float:
    for parameter in part.split(";")[1:]:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0


def takes_gzip(accept_encoding: str) -> bool:
    """Whether a client takes gzip.

    >>> takes_gzip("gzip, deflate"), takes_gzip("gzip;q=0"), takes_gzip("")
    (True, False, False)
    """
    parts = {part.split(";")[0].strip().lower(): _quality(part) for part in accept_encoding.split(",")}
    return parts.get("gzip", parts.get("*", 0.0)) > 0


def packed(body: bytes) -> bytes:
    """The same in gzip; the same bytes for the same body."""
    return gzip.compress(body, GZIP_LEVEL, mtime=0)


def encoded(frame: Frame, head: Mapping[str, Any], kind: Format, style: TimeStyle, *, fx_refresh: bool) -> bytes:
    """The body of an answer.

    Args:
        frame: the rows.
        head: the members of a JSON body besides `columns`, `data` and what `tail` holds.
        kind: the format.
        style: how times are written, but in Parquet and Arrow, which have a type for them.
        fx_refresh: whether times look as in the files of the broker service before this.

    Raises:
        ProblemError: not-acceptable, where the format needs a package that is not installed.
    """
    if kind is Format.parquet:
        return _file_bytes(frame.arrays, "rows.parquet", frame.types)
    if kind is Format.arrow:
        return _arrow(frame)
    shown = {name: shown_times(array, style, fx_refresh) for name, array in frame.arrays.items()}
    if kind is Format.csv:
        types = {name: kind for name, kind in frame.types.items() if shown[name] is frame.arrays[name]}
        return _file_bytes(_csv_arrays(shown), "rows.csv", types)
    lists = {name: json_values(array, frame.types[name]) for name, array in shown.items()}
    if kind is Format.ndjson:
        return b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in _rows(lists))
    names = list(lists)
    next_url = head.get("next")
    body = {name: value for name, value in head.items() if name != "next"} | {"columns": names}
    data = lists if kind is Format.columns else _rows(lists)
    return orjson.dumps(body | {"data": data, "next": next_url}, option=NUMPY)


def shown_times(array: NDArray, style: TimeStyle, fx_refresh: bool = False) -> NDArray:
    """Times as they are written; other arrays as they are."""
    if array.dtype.kind != "M":
        return array
    if style is not TimeStyle.iso:
        unit = "datetime64[s]" if style is TimeStyle.s else "datetime64[ms]"
        numbers = array.astype(unit).astype(np.int64)
        if not np.isnat(array).any():
            return numbers
        nullable = numbers.astype(object)
        nullable[np.isnat(array)] = None
        return nullable
    return iso_times(array, fx_refresh)


def iso_times(array: NDArray, fx_refresh: bool = False) -> NDArray:
    """ISO 8601 in UTC, with a fraction where a column has one; None for no time."""
    missing = np.isnat(array)
    present = array[~missing]
    seconds = present.astype("datetime64[s]")
    texts = np.datetime_as_string(seconds if (seconds == present).all() else present)
    shown = np.char.replace(texts, "T", " ") if fx_refresh else np.char.add(texts, "Z")
    result = np.full(len(array), None, dtype=object)
    result[~missing] = shown.tolist()
    return result


def json_values(array: NDArray, sql_type: str) -> Any:
    """A column as JSON holds it: numbers as stored, null where a value is unknown, never NaN."""
    if array.dtype.kind == "f":
        if sql_type in WHOLE or sql_type == "boolean":
            convert = bool if sql_type == "boolean" else int
            return [None if value != value else convert(value) for value in array.tolist()]  # noqa: PLR0124 (NaN)
        # A column of a reversed answer is no contiguous one, which orjson needs.
        return np.ascontiguousarray(array)
    return array.tolist()


def _rows(lists: Mapping[str, Any]) -> list[dict[str, Any]]:
    columns = [values.tolist() if isinstance(values, np.ndarray) else values for values in lists.values()]
    names = list(lists)
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _csv_arrays(shown: Mapping[str, NDArray]) -> dict[str, NDArray]:
    return {name: array.astype(object) if array.dtype.kind == "U" else array for name, array in shown.items()}


def _file_bytes(arrays: Mapping[str, NDArray], name: str, types: Mapping[str, str]) -> bytes:
    """The bytes of an export file of these arrays: a file and an answer are written by the same code."""
    kinds = {column: kind for column, kind in types.items() if kind in WHOLE or kind == "boolean"}
    with tempfile.TemporaryDirectory(prefix="refresh-") as folder, TableWriter() as writer:
        path = Path(folder) / name
        writer.write(_copies(arrays), path, types=kinds)
        return path.read_bytes()


def _copies(arrays: Mapping[str, NDArray]) -> dict[str, NDArray]:
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def _arrow(frame: Frame) -> bytes:
    if find_spec("arro3") is None or find_spec("arro3.io") is None:
        raise ProblemError(
            Problem.not_acceptable,
            "format: found arrow, which needs the extra feather on the server",
            allowed=[kind.value for kind in Format if kind is not Format.arrow],
        )
    from arro3.io import write_ipc_stream  # noqa: PLC0415 (an extra)

    sql_types = {name: kind for name, kind in frame.types.items() if kind in WHOLE or kind == "boolean"}
    listed = ", ".join(_arrow_column(name, array, sql_types.get(name)) for name, array in frame.arrays.items())
    with open_duckdb(config={"threads": 1}) as connection, tempfile.TemporaryFile() as file:
        connection.register("rows", {name: plain_values(array) for name, array in _copies(frame.arrays).items()})
        write_ipc_stream(connection.sql(f"select {listed} from rows"), file)
        file.seek(0)
        return file.read()


def _arrow_column(name: str, array: NDArray, sql_type: str | None) -> str:
    quoted = '"' + name.replace('"', '""') + '"'
    if array.dtype.kind == "M":
        return f"{quoted} at time zone 'UTC' as {quoted}"
    if array.dtype.kind == "O":
        return f"{quoted}::varchar as {quoted}"
    return f"{quoted}::{sql_type or 'double'} as {quoted}"


def tag_of(*parts: object) -> str:
    """A strong entity tag of these parts.

    >>> tag_of("a", 1) == tag_of("a", 1), tag_of("a", 1) == tag_of("a", 2)
    (True, False)
    """
    return f'"{digest(*parts)}"'


def digest(*parts: object) -> str:
    """Sixteen letters that stand for these parts."""
    text = "\x1f".join(part.hex() if isinstance(part, bytes) else repr(part) for part in parts)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def matches(if_none_match: str, tag: str) -> bool:
    """Whether a header If-None-Match names this tag; a proxy may have marked it as weak.

    >>> matches('W/"a", "b"', '"a"'), matches("*", '"a"'), matches('"b"', '"a"')
    (True, True, False)
    """
    listed = [part.strip().removeprefix("W/") for part in if_none_match.split(",")]
    return tag in listed or "*" in listed
