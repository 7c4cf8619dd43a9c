"""Another process that wants a minute's indicators: it notes when the rows of all series of a minute can be read.

Opening the warehouse keeps its writer out, so it is opened only once the indicators' step of a run has begun, and only
where the file has changed since the last look. A try that finds it held takes no lock and costs the writer nothing.
"""

import sqlite3
import time
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb

MINUTE = 60


class Probe:
    """Looks at a market's files in DAGSTER_HOME and at its warehouse."""

    def __init__(self, home: Path, database: Path, market: str, series: int) -> None:
        self._history = home / "history"
        self._database = database
        self._market = market
        self._series = series
        self._began_in = ""
        self._state: tuple[tuple[int, int], ...] = ()
        self._waiting_for: list[int] = []
        # By minute (the boundary at which its candle closed, in seconds since 1970): when its rows were read.
        self.fresh: dict[int, float] = {}
        # What it cost the writer: how often the file was open for reading, how long in all, and how often it was held.
        self.opens, self.seconds_open, self.refused = 0, 0.0, 0

    def wait_for(self, boundary: int) -> None:
        """The rows of one more minute are wanted."""
        self._waiting_for.append(boundary)

    @property
    def is_waiting(self) -> bool:
        """Whether a minute that was asked for has not been read."""
        return bool(self._waiting_for)

    @property
    def is_near(self) -> bool:
        """Whether the step that writes them is at work."""
        return bool(self._began_in)

    def look(self) -> None:
        """Read what is new, if anything can be."""
        if not self._waiting_for or not self._has_begun():
            return
        state = self._file_state()
        if state == self._state:
            return
        with suppress(duckdb.IOException):
            self._read()
            self._state = state
            return
        self.refused += 1

    def refreshes(self) -> int:
        """How many runs of the market's refresh have succeeded."""
        job = f"{self._market}_refresh"
        rows = _ask(
            self._history / "runs.db", "select count(*) from runs where pipeline_name = ? and status = 'SUCCESS'", job
        )
        return rows[0][0] if rows else 0

    def _has_begun(self) -> bool:
        newest = "select run_id from runs where pipeline_name = ? order by id desc limit 1"
        runs = _ask(self._history / "runs.db", newest, f"{self._market}_refresh")
        run_id = runs[0][0] if runs else ""
        if self._began_in != run_id:
            begun = "select 1 from event_logs where dagster_event_type = 'STEP_START' and step_key = ? limit 1"
            found = run_id and _ask(self._history / "runs" / f"{run_id}.db", begun, f"{self._market}__indicators")
            self._began_in = run_id if found else ""
            # What was written before is older than the rows that are wanted.
            self._state = self._file_state()
        return bool(self._began_in)

    def _file_state(self) -> tuple[tuple[int, int], ...]:
        files = (self._database, self._database.with_name(f"{self._database.name}.wal"))
        stats = [file.stat() for file in files if file.exists()]
        return tuple((stat.st_mtime_ns, stat.st_size) for stat in stats)

    def _read(self) -> None:
        first = datetime.fromtimestamp(self._waiting_for[0], UTC).replace(tzinfo=None) - timedelta(seconds=MINUTE)
        began = time.monotonic()
        with duckdb.connect(str(self._database), read_only=True) as connection:
            rows = connection.execute(
                f"select open_time, count(*) from {self._market}.indicators where open_time >= ? group by all", [first]
            ).fetchall()
            read_at = time.time()
        self.opens += 1
        self.seconds_open += time.monotonic() - began
        for open_time, count in rows:
            boundary = int(open_time.replace(tzinfo=UTC).timestamp()) + MINUTE
            if count == self._series and boundary in self._waiting_for:
                self._waiting_for.remove(boundary)
                self.fresh[boundary] = read_at


def _ask(file: Path, statement: str, *values: str) -> list[tuple]:
    """What one of Dagster's files says; nothing where it is not there yet, or held."""
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=0.1)) as connection:
        return connection.execute(statement, values).fetchall()
    return []
