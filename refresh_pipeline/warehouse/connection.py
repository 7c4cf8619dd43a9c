"""The one place that opens a DuckDB connection. It waits for the file's lock and always closes the connection."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import duckdb
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

from refresh_pipeline.duckdb_connection import SessionValue, open_duckdb, require_path
from refresh_pipeline.redaction import clean

# How a function that opens and closes connections itself gets them.
Connect = Callable[[], AbstractContextManager[duckdb.DuckDBPyConnection]]

# DuckDB fails at once where another process holds the file. Measured: these bounds carry 60 writes a second from eight
# processes; a minute is far above any transaction of ours.
SHORTEST_WAIT = 0.002
LONGEST_WAIT = 0.2
LONGEST_COMMAND = 120
PATIENCE = 60.0
# Every array of objects in this package is text: guessing the type from a sample fails in DuckDB 1.5 where the sample
# holds nulls alone. A missing table is an error, never the Python variable of that name. DuckDB takes a process started
# by multiprocessing, such as Dagster's runs, for a terminal: progress bars would fill their logs.
CONFIG = {"pandas_analyze_sample": 0, "python_enable_replacements": "false"}
SESSION = {"enable_progress_bar": False}
# DuckDB's default is four fifths of the machine's memory. This is enough to write whole row groups of the widest table
# at full speed; the rest spills to disk beside the file.
MEMORY = "512MB"
# DuckDB's messages where another process has the file open, and where this process has it open in the other mode (read
# or write). Whole phrases: a damaged block is no lock, nor is a folder of that name.
LOCKED = (
    *("Could not set lock on file", "with a different configuration than existing connections"),
    # Two threads of this process open it at the same moment.
    "Unique file handle conflict",
)

# DuckDB's messages where a block that a statement needs is not what was written.
DAMAGED = ("Corrupt database file", "Could not read enough bytes from file", "database has been invalidated")


class WarehouseBusy(TimeoutError):
    """Another process kept the database file locked for longer than we wait."""


class WarehouseUnreadable(RuntimeError):
    """DuckDB cannot open the database file, and waiting does not help."""


class WarehouseMissing(WarehouseUnreadable):
    """There is no database file although there was one; a new one is begun on request alone."""


class WarehouseDamaged(WarehouseUnreadable):
    """The database file opens, and one of its blocks does not read."""


@contextmanager
def connect(
    database: str,
    *,
    read_only: bool = False,
    patience: float = PATIENCE,
    memory_limit: str = MEMORY,
    time_zone: str | None = None,
    only_file: Path | None = None,
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection to the database file, closed when the block ends, however it ends.

    Its configuration is locked: `memory_limit` (the rest spills to disk) and `time_zone` (default: the machine's) are
    chosen here or not at all. With `only_file`, statements reach that file and the database's, and no other.

    Raises:
        WarehouseBusy: another process held the file's lock for `patience` seconds.
        WarehouseUnreadable: the file is damaged, of a newer DuckDB, missing (to read), or not to be opened.
        ValueError: the database's path has a scheme.
        WarehouseDamaged: a statement of the block met a damaged part of the file.
    """
    session: dict[str, SessionValue] = {**SESSION, **({"TimeZone": time_zone} if time_zone else {})}
    if only_file is not None:
        session = {**session, "allowed_paths": [str(only_file)], "enable_external_access": False}
    connection = _opened(database, read_only, patience, {**CONFIG, "memory_limit": memory_limit}, session)
    try:
        yield connection
    except duckdb.Error as error:
        if any(phrase in str(error) for phrase in DAMAGED):
            raise WarehouseDamaged(
                f"{database} is damaged: {_first_line(error)}. Stop refresh up, and restore a backup: refresh restore."
            ) from error
        raise
    finally:
        connection.close()


@contextmanager
def transaction(connection: duckdb.DuckDBPyConnection) -> Iterator[duckdb.DuckDBPyConnection]:
    """Everything in the block, or nothing of it."""
    connection.execute("begin transaction")
    try:
        yield connection
    except BaseException:
        # Where the failure itself ended the transaction there is nothing left to roll back.
        with suppress(duckdb.Error):
            connection.execute("rollback")
        raise
    connection.execute("commit")


def _opened(
    database: str,
    read_only: bool,
    patience: float,
    config: Mapping[str, str | int],
    session: Mapping[str, SessionValue],
) -> duckdb.DuckDBPyConnection:
    require_path(database)
    if not read_only:
        Path(database).parent.mkdir(parents=True, exist_ok=True)
    waiting = Retrying(
        retry=retry_if_exception(_is_locked),
        wait=wait_random_exponential(multiplier=SHORTEST_WAIT, max=LONGEST_WAIT),
        stop=stop_after_delay(patience),
        reraise=True,
    )
    try:
        return waiting(open_duckdb, database, read_only=read_only, config=config, session=session)
    except duckdb.Error as error:
        if _is_locked(error):
            raise WarehouseBusy(
                f"wanted to open {database}, waited {patience:g} s, and it is still held: {_holder(error)}. "
                "Close the program that keeps the file open; readers must close it between questions, too."
            ) from error
        raise WarehouseUnreadable(
            f"wanted to open {database}, DuckDB {duckdb.__version__} says: {_first_line(error)}. "
            "If the file was written by a newer DuckDB, install that one; if it is damaged, restore a backup: refresh "
            "restore."
        ) from error


def _is_locked(error: BaseException) -> bool:
    return isinstance(error, duckdb.Error) and any(phrase in str(error) for phrase in LOCKED)


def _holder(error: BaseException) -> str:
    """The process that holds the file, by its id and command; DuckDB's own words where they name none."""
    named = re.search(r"\(PID (\d+)\)", str(error))
    if named is None:
        return _first_line(error)
    try:
        command = Path(f"/proc/{named[1]}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return _first_line(error)
    shown = " ".join(command.split("\0")).strip()
    return f"by PID {named[1]} ({clean(shown)[:LONGEST_COMMAND]})" if shown else _first_line(error)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".!")
