"""Faults of checks that a person knows and accepts: they are stored, listed, and no longer fail their check.

A fault is the same while its check, series, opening time and text are: a fault that grows or changes is a new one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import duckdb
import numpy as np

from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.warehouse.arrays import timestamp
from refresh_pipeline.warehouse.queries import Fault
from refresh_pipeline.warehouse.schema import Table, qualified
from refresh_pipeline.warehouse.stored_ranges import present_tables


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A fault that is accepted: of which check, why (`note`), and since when (UTC)."""

    check: str
    fault: Fault
    note: str
    acknowledged_at: datetime


def acknowledged(connection: duckdb.DuckDBPyConnection, market: str) -> list[Acknowledged]:
    """Every acknowledged fault of a market, in the order of check, series and time."""
    if Table.acknowledged_faults not in present_tables(connection, market):
        return []
    rows = connection.execute(
        "select check_name, instrument, timeframe, open_time, fault, note, acknowledged_at "
        f"from {qualified(market, Table.acknowledged_faults)} order by all"
    ).fetchall()
    return [
        Acknowledged(
            check,
            Fault(Series(instrument, Timeframe(timeframe)), open_time and np.datetime64(open_time, "us"), text),
            note,
            at,
        )
        for check, instrument, timeframe, open_time, text, note, at in rows
    ]


def acknowledge(
    connection: duckdb.DuckDBPyConnection, market: str, check: str, faults: Sequence[Fault], *, note: str, now: datetime
) -> None:
    """Store faults of a check as acknowledged, in the open transaction; a fault that is stored gets the new note."""
    withdraw(connection, market, check, faults)
    connection.executemany(
        f"insert into {qualified(market, Table.acknowledged_faults)} "
        "(check_name, instrument, timeframe, open_time, fault, note, acknowledged_at) values (?, ?, ?, ?, ?, ?, ?)",
        [[check, *_row(fault), note, timestamp(now)] for fault in faults],
    )


def withdraw(connection: duckdb.DuckDBPyConnection, market: str, check: str, faults: Sequence[Fault]) -> None:
    """Let faults fail their check again, in the open transaction."""
    for fault in faults:
        connection.execute(
            f"delete from {qualified(market, Table.acknowledged_faults)} where check_name = ? and instrument = ? "
            "and timeframe = ? and open_time is not distinct from ? and fault = ?",
            [check, *_row(fault)],
        )


def identity(fault: Fault) -> tuple[str, str, str]:
    """What makes two faults of one check the same."""
    at = "" if fault.open_time is None else str(fault.open_time.astype("datetime64[us]"))
    return fault.series.key, at, fault.what


def _row(fault: Fault) -> list[object]:
    opened = None if fault.open_time is None else fault.open_time.astype("datetime64[us]").astype(datetime)
    return [fault.series.instrument, fault.series.timeframe.value, opened, fault.what]
