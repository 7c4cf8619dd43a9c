"""Dagster's SQLite tables of runs and of schedules, opened and asked in less time. Named in dagster.yaml.

The code server opens both for every look of a schedule or sensor, and the daemon asks them twice a second. The events
are in `event_log`.
"""

import atexit
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote
from weakref import WeakSet

from dagster import Field, StringSource
from dagster._core.storage.runs import SqliteRunStorage
from dagster._core.storage.schedules import SqliteScheduleStorage
from dagster._core.storage.sqlite import create_db_conn_string
from dagster._serdes import ConfigurableClassData
from sqlalchemy import QueuePool, create_engine, event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.pool import ConnectionPoolEntry

from refresh_pipeline.settings import event_log_dir

# Runs, schedules, the index of events, and the events of runs that are written or read at the moment.
ENGINES = 10
# A writer waits so long for another one; as long as Dagster's event log does.
BUSY_SECONDS = 30
# SQLite would keep 2 MB of each file in each process; the system keeps them as well.
CACHE_KIB = 500
# The folder is optional: without it the files are in DAGSTER_HOME, where Dagster would put them.
FOLDER = Field(StringSource, is_required=False)


_made: WeakSet[Engine] = WeakSet()


@atexit.register
def close_files() -> None:
    """Close what is kept open, so that each file is whole by itself."""
    for engine in list(_made):
        engine.dispose()


@lru_cache(maxsize=ENGINES)
def engine_of(address: str) -> Engine:
    """The engine of a file, the same for every storage of this process.

    It compiles each statement once, and keeps one connection open. Whoever closes the last connection to a file writes
    its log into it, and waits for the disk twice more than for the commit.
    """
    options = {"timeout": BUSY_SECONDS}
    engine = create_engine(address, poolclass=QueuePool, pool_size=1, max_overflow=-1, connect_args=options)
    path = engine.url.database or ""
    _made.add(engine)

    @event.listens_for(engine, "connect")
    def note_file(connection: sqlite3.Connection, record: ConnectionPoolEntry) -> None:
        connection.execute(f"pragma cache_size = -{CACHE_KIB}")
        record.info["file"] = _number_of(path)

    @event.listens_for(engine, "checkout")
    def refuse_another_file(_connection: object, record: ConnectionPoolEntry, _proxy: object) -> None:
        # A file that was deleted and made anew is another one: SQLAlchemy connects again.
        if record.info["file"] != _number_of(path):
            raise DisconnectionError

    return engine


def _number_of(path: str) -> int:
    """The number of a file on its disk; 0 where there is none."""
    try:
        return os.stat(path).st_ino
    except FileNotFoundError:
        return 0


def is_stamped(path: Path, table: str = "alembic_version") -> bool:
    """Whether a SQLite file of Dagster's names the migrations that it has had, and has a table.

    Dagster reads ninety migration scripts to see whether a file needs any. A stamped file needs none.
    """
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as connection:
            stamps = connection.execute("select version_num from alembic_version").fetchall()
            tables = connection.execute("select 1 from sqlite_master where name = ?", (table,)).fetchall()
    except sqlite3.Error:
        return False
    return bool(stamps and tables)


class KeptRunStorage(SqliteRunStorage):
    """Runs, whose statements are compiled once a process."""

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """`base_dir` is optional."""
        return {"base_dir": FOLDER}

    # The shipped method returns the base class, whatever class it is called on.
    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> "KeptRunStorage":
        """Called by Dagster with the settings of dagster.yaml."""
        folder = Path(config_value.get("base_dir") or event_log_dir().parent)
        # The table that an older Dagster lacks, which the shipped class adds.
        address = _address_of(folder / "runs.db", table="instance_info")
        return cls(address, inst_data) if address else cls.from_local(str(folder), inst_data)

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        """A connection in a transaction, closed at the end."""
        with engine_of(self._conn_string).connect() as connection, connection.begin():
            yield connection


class KeptScheduleStorage(SqliteScheduleStorage):
    """Ticks and states of schedules and sensors, whose statements are compiled once a process."""

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """`base_dir` is optional."""
        return {"base_dir": FOLDER}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> "KeptScheduleStorage":
        """Called by Dagster with the settings of dagster.yaml."""
        folder = Path(config_value.get("base_dir") or event_log_dir().parents[1] / "schedules")
        address = _address_of(folder / "schedules.db")
        if address:
            return cls(address, inst_data)
        made = cls.from_local(str(folder), inst_data)
        assert isinstance(made, cls)
        return made

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        """A connection in a transaction, closed at the end."""
        with engine_of(self._conn_string).connect() as connection, connection.begin():
            yield connection


def _address_of(path: Path, table: str = "alembic_version") -> str:
    """The address of a file that Dagster has made, as Dagster writes it; empty where it has to look at the file."""
    if not is_stamped(path, table):
        return ""
    return create_db_conn_string(str(path.parent), path.stem)
