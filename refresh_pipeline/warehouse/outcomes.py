"""The results of attempts at series, and the table that keeps the last one of every asset and series."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Self

import duckdb
import numpy as np

from refresh_pipeline.market.series import Series
from refresh_pipeline.redaction import clean
from refresh_pipeline.warehouse.arrays import Arrays, numbered, registered, texts
from refresh_pipeline.warehouse.schema import Table, qualified


class Outcome(StrEnum):
    """The result of the last attempt at a series, as tables and people read it."""

    updated = "updated"
    unchanged = "unchanged"
    no_data = "no data"
    failed = "failed"


@dataclass(frozen=True, slots=True)
class Attempt:
    """The result of one attempt at one series.

    `reason` says why it failed, or which candles of a good answer were rejected; `transient` whether trying again could
    help. `seconds` is the time spent; `metadata` is
    shown by Dagster and not stored in the warehouse.
    """

    outcome: Outcome
    reason: str | None = None
    transient: bool = False
    rows_added: int = 0
    rows_revised: int = 0
    seconds: float = 0.0
    metadata: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # It is stored, printed and sent, whatever it quotes.
        if self.reason is not None:
            object.__setattr__(self, "reason", clean(self.reason))

    @classmethod
    def of(
        cls,
        *,
        reasons: Sequence[str] = (),
        remark: str | None = None,
        transient: bool = False,
        changed: bool,
        has_data: bool,
        rows_added: int = 0,
        rows_revised: int = 0,
        seconds: float = 0.0,
        metadata: Mapping[str, object] | None = None,
    ) -> Self:
        """An attempt from its results: failed where there is a reason, else updated, unchanged or without data.

        Args:
            reasons: why it failed, in order of importance.
            remark: what is to be said of an attempt that did not fail.
            transient: whether trying again could help.
            changed: whether anything was written.
            has_data: whether the series has anything at all.
            rows_added: rows that were not stored before.
            rows_revised: rows that were written again.
            seconds: the time spent.
            metadata: what Dagster shows beside the outcome.

        >>> Attempt.of(reasons=["no answer"], changed=True, has_data=True).outcome
        <Outcome.failed: 'failed'>
        >>> Attempt.of(changed=False, has_data=True).outcome
        <Outcome.unchanged: 'unchanged'>
        """
        idle = Outcome.unchanged if has_data else Outcome.no_data
        return cls(
            Outcome.failed if reasons else Outcome.updated if changed else idle,
            reason="; ".join(reasons) or remark,
            transient=transient,
            rows_added=rows_added,
            rows_revised=rows_revised,
            seconds=seconds,
            metadata=metadata or {},
        )


@dataclass(frozen=True, slots=True)
class SeriesStats:
    """The stored candles of one series: their number, and the open times of the first and the last."""

    candle_count: int = 0
    first_open_time: np.datetime64 | None = None
    last_open_time: np.datetime64 | None = None


def write_outcomes(
    connection: duckdb.DuckDBPyConnection,
    market: str,
    asset: str,
    attempts: Mapping[Series, Attempt],
    *,
    run_id: str,
    now: datetime,
) -> None:
    """Replace the last result of each series; counts the failures in a row. `now` is in UTC, without a zone."""
    outcomes = qualified(market, Table.outcomes)
    with registered(connection, "attempts", _columns(attempts)):
        connection.execute(
            "create temp table attempted as select a.*, "
            "case when a.outcome = $failed then coalesce(o.failures, 0) + 1 else 0 end as failures "
            f"from attempts a left join {outcomes} o on o.asset = $asset "
            "and o.instrument = a.instrument and o.timeframe = a.timeframe",
            {"asset": asset, "failed": Outcome.failed.value},
        )
    connection.execute(
        f"delete from {outcomes} o using attempted a where o.asset = ? "
        "and o.instrument = a.instrument and o.timeframe = a.timeframe",
        [asset],
    )
    connection.execute(
        f"insert into {outcomes} by name select * exclude (series_no), $asset as asset, $run_id as run_id, "
        "$now::timestamp as attempted_at from attempted order by series_no",
        {"asset": asset, "run_id": run_id, "now": now},
    )
    connection.execute("drop table attempted")


def record_appended(
    connection: duckdb.DuckDBPyConnection, market: str, asset: str, appended: str, *, run_id: str, now: datetime
) -> None:
    """Put on record that the series in a table (instrument, timeframe) got one row each. `now` is in UTC."""
    connection.execute(
        f"merge into {qualified(market, Table.outcomes)} o using {appended} m "
        "on o.asset = $asset and o.instrument = m.instrument and o.timeframe = m.timeframe "
        "when matched then update set outcome = $updated, reason = null, transient = false, failures = 0, "
        "rows_added = 1, rows_revised = 0, run_id = $run_id, attempted_at = $now::timestamp "
        "when not matched then insert (instrument, timeframe, asset, outcome, transient, failures, rows_added, "
        "rows_revised, run_id, attempted_at) values (m.instrument, m.timeframe, $asset, $updated, false, 0, 1, 0, "
        "$run_id, $now::timestamp)",
        {"asset": asset, "updated": Outcome.updated.value, "run_id": run_id, "now": now},
    )


def _columns(attempts: Mapping[Series, Attempt]) -> Arrays:
    results = attempts.values()
    return numbered(
        list(attempts),
        outcome=texts(attempt.outcome.value for attempt in results),
        reason=texts(attempt.reason for attempt in results),
        transient=np.array([attempt.transient for attempt in results], dtype=bool),
        rows_added=np.array([attempt.rows_added for attempt in results], dtype=np.int64),
        rows_revised=np.array([attempt.rows_revised for attempt in results], dtype=np.int64),
    )
