"""One SQL query of a user: it reads the warehouse, reaches no other file, and ends in time."""

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Timer
from types import MappingProxyType

import duckdb

from refresh_pipeline.files.atomic import replacing
from refresh_pipeline.warehouse.arrays import Arrays, registered
from refresh_pipeline.warehouse.column_versions import FOR_EVER
from refresh_pipeline.warehouse.connection import connect, place_of
from refresh_pipeline.warehouse.lake import read_on
from refresh_pipeline.warehouse.schema import Table

# DuckDB counts 16 MB pieces for each thread while it writes Parquet.
MEMORY = "1GB"
OF_EXTENSIONS = re.compile(r"(postgres|ducklake|pg_|__ducklake)\w*", re.IGNORECASE)
# A market's table, or a view of it, that does not hold every row.
_EXPIRING = re.compile(r"(\w+|\"[^\"]+\")\.(indicators|enhanced_candles_known|enhanced_candles|signals)\b")
Views = Mapping[str, Arrays]
# A text of SQL, and a call of `computed` with nothing but texts.
_TEXT = r"'((?:[^']|'')*)'"
_CALL = re.compile(rf"\bcomputed\s*\(\s*(?P<values>{_TEXT}(?:\s*,\s*{_TEXT})*)\s*\)", re.IGNORECASE)
COPY_OPTIONS = {"csv": "format csv, header", "parquet": "format parquet"}


class QueryError(ValueError):
    """The query is none, or DuckDB cannot run it; the message says why."""


def require_query(sql: str) -> None:
    """Refuse a text that is not one SELECT.

    >>> require_query("from demo.raw_candles limit 1")
    >>> require_query("drop table demo.raw_candles")
    Traceback (most recent call last):
    ...
    refresh_pipeline.warehouse.sql_query.QueryError: found a statement of type drop, allowed: one select

    Raises:
        QueryError: it is no SQL, several statements, or another one.
    """
    try:
        statements = duckdb.extract_statements(sql)
    except duckdb.Error as error:
        raise QueryError(_message(error)) from error
    if len(statements) != 1:
        raise QueryError(f"found {len(statements)} statements, allowed: one select")
    if statements[0].type != duckdb.StatementType.SELECT:
        hint = "; a pivot names its values: on x in (...)" if statements[0].type == duckdb.StatementType.MULTI else ""
        raise QueryError(f"found a statement of type {statements[0].type.name.lower()}, allowed: one select{hint}")


@dataclass(frozen=True, slots=True)
class ComputedCall:
    """A call of `computed` in a query: rows of a computed table, whether they are stored or not.

    `name` is the view that stands in its place.
    """

    name: str
    market: str
    table: str
    instrument: str
    timeframe: str
    since: str | None
    until: str | None


def computed_calls(sql: str) -> tuple[str, list[ComputedCall]]:
    """The query with a view in place of each call of `computed`, and the calls.

    >>> text, [call] = computed_calls("from computed('fx.indicators', 'EUR/USD', 'm1', '2026-01-05') select rsi_14")
    >>> text, call.market, call.instrument, call.since, call.until
    ('from computed_1 select rsi_14', 'fx', 'EUR/USD', '2026-01-05', None)

    Raises:
        QueryError: a call has other arguments.
    """
    calls: list[ComputedCall] = []

    def replaced(match: re.Match[str]) -> str:
        values = [value.replace("''", "'") for value in re.findall(_TEXT, match["values"])]
        market, dot, table = values[0].partition(".") if values else ("", "", "")
        if not 3 <= len(values) <= 5 or not dot:
            raise QueryError(
                f"found {match[0]}, allowed: computed('market.indicators' or 'market.enhanced_candles', 'instrument', "
                "'timeframe', and if wanted 'since', 'until')"
            )
        bounds = [*values[3:], None, None][:2]
        calls.append(ComputedCall(f"computed_{len(calls) + 1}", market, table, *values[1:3], *bounds))
        return calls[-1].name

    return _CALL.sub(replaced, sql), calls


def expiring_rows(database: str, sql: str) -> list[str]:
    """For each table of the query whose older rows are not stored: a sentence that says so, and how to read them."""
    named = {(market.strip('"'), table) for market, table in _EXPIRING.findall(sql)}
    with connect(database, read_only=True) as connection:
        return [
            f"{market}.{table} holds rows of {kept}; older ones: from computed('{market}.{source}', 'INSTRUMENT', "
            "'TIMEFRAME', 'SINCE', 'UNTIL')"
            for market, table in sorted(named)
            for source in [Table.indicators if table == Table.indicators else Table.enhanced_candles]
            if (kept := ", ".join(_kept(connection, market, source)))
        ]


def _kept(connection: duckdb.DuckDBPyConnection, market: str, table: Table) -> list[str]:
    """How long rows of each timeframe of a market are stored, of those that are not stored for ever."""
    try:
        rows = connection.execute(
            f'select v.timeframe, v.fingerprint from "{market}".{Table.column_versions} v '
            f'semi join "{market}".{Table.series} s using (timeframe) where v.asset = ? and v.fingerprint <> ? '
            "order by all",
            [table.value, FOR_EVER],
        ).fetchall()
    except duckdb.Error:
        read_on(connection)
        # Another schema than a market's, or a file of before: the query itself says what is wrong.
        return []
    return [f"{timeframe} of the last {length.split(',')[0]}" for timeframe, length in rows]


def print_table(
    database: str, sql: str, *, width: int, most_rows: int, seconds: float, views: Views = MappingProxyType({})
) -> None:
    """Print the query's rows as a table of at most `width` characters and `most_rows` rows, types included.

    `views` are tables of the query that lie in memory, by name.

    Raises:
        QueryError: it is not one SELECT, DuckDB cannot run it, or it takes more than `seconds`.
        WarehouseBusy: another process holds the file.
        WarehouseUnreadable: the file is missing or damaged.
    """
    require_query(sql)
    _require_tables_alone(database, sql)
    with _reading(database, seconds, views=views) as connection:
        connection.sql(sql).show(max_width=width, max_rows=most_rows)


def write_file(
    database: str, sql: str, path: Path, *, kind: str, seconds: float, views: Views = MappingProxyType({})
) -> None:
    """Write the query's rows to a file, whole or not at all; raises as `print_table` does.

    Args:
        database: the warehouse's file.
        sql: one SELECT.
        path: a file to write or replace.
        kind: csv or parquet.
        seconds: after which the query is ended.
        views: tables of the query that lie in memory, by name.

    Raises:
        OSError: the file cannot be written.
    """
    require_query(sql)
    _require_tables_alone(database, sql)
    # DuckDB's rights are a list of paths: the file is made in a folder of its own, and moved.
    with replacing(path) as part, TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder).absolute() / f"rows.{kind}"
        with _reading(database, seconds, made, views=views) as connection:
            # A line break ends a comment at the query's end.
            connection.execute(f"copy ({sql.strip().rstrip(';')}\n) to '{_quoted(made)}' ({COPY_OPTIONS[kind]})")
        made.rename(part)


def _require_tables_alone(database: str, sql: str) -> None:
    """A lake's extensions reach its catalogue, and any other PostgreSQL: a query of a user does not."""
    if place_of(database).file is None and (found := OF_EXTENSIONS.search(sql)):
        raise QueryError(f"found {found[0]}, allowed: tables and views; functions of the lake's catalogue are not")


@contextmanager
def _reading(
    database: str, seconds: float, output: Path | None = None, *, views: Views
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection that reads the warehouse alone; errors of the query in words."""
    outputs = [output] if output else []
    with connect(database, read_only=True, memory_limit=MEMORY, only_files=outputs) as connection:
        timer = Timer(seconds, connection.interrupt)
        timer.start()
        try:
            with ExitStack() as stack:
                for name, arrays in views.items():
                    stack.enter_context(registered(connection, name, arrays))
                yield connection
        except duckdb.InterruptException as error:
            raise QueryError(
                f"the query took more than {seconds:g} s; ask for fewer rows, or more --seconds"
            ) from error
        except duckdb.Error as error:
            raise QueryError(_message(error)) from error
        finally:
            timer.cancel()


def _message(error: BaseException) -> str:
    return "\n".join(line for line in str(error).strip().splitlines() if line.strip())


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")
