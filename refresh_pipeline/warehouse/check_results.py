"""The newest result of every check, so that readers without Dagster know it. What a check examines is no part of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import duckdb
import numpy as np

from refresh_pipeline.redaction import clean
from refresh_pipeline.warehouse.arrays import registered, texts
from refresh_pipeline.warehouse.schema import Table


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One result: `description` is the sentence that is true where it passed, `detail` what failed, in words.

    `run_id` and `checked_at` (UTC, no zone) are those of the run that checked.
    """

    asset: str
    check: str
    description: str
    passed: bool
    severity: str
    detail: str | None
    examined: int
    faults: int
    run_id: str
    checked_at: datetime


def record_checks(connection: duckdb.DuckDBPyConnection, schema: str, results: Sequence[CheckResult]) -> None:
    """Replace the results of these checks in the schema of a market or a collection."""
    table = f'"{schema}".{Table.check_results.value}'
    rows = {
        "asset": texts(one.asset for one in results),
        "check_name": texts(one.check for one in results),
        "description": texts(one.description for one in results),
        "passed": np.array([one.passed for one in results], dtype=bool),
        "severity": texts(one.severity for one in results),
        "detail": texts(None if one.detail is None else clean(one.detail) for one in results),
        "examined": np.array([one.examined for one in results], dtype=np.int64),
        "faults": np.array([one.faults for one in results], dtype=np.int64),
        "run_id": texts(one.run_id for one in results),
        "checked_at": np.array([one.checked_at for one in results], dtype="datetime64[us]"),
    }
    with registered(connection, "checked", rows):
        connection.execute(
            f"delete from {table} t using checked c where t.asset = c.asset and t.check_name = c.check_name"
        )
        connection.execute(f"insert into {table} by name select * from checked")


def recorded_checks(connection: duckdb.DuckDBPyConnection, schema: str) -> list[CheckResult]:
    """The newest result of each check by asset and name; none where nothing was checked yet."""
    known = connection.execute(
        "select 1 from duckdb_tables() where schema_name = ? and table_name = ? and database_name = current_database()",
        [schema, Table.check_results.value],
    ).fetchall()
    if not known:
        return []
    rows = connection.execute(
        "select asset, check_name, description, passed, severity, detail, examined, faults, run_id, checked_at "
        f'from "{schema}".{Table.check_results.value} order by asset, check_name'
    ).fetchall()
    return [CheckResult(*row) for row in rows]
