"""The one place that opens the warehouse, and that knows what it is: a DuckDB file, or a lake (`lake.py`).

It waits for other writers and always closes the connection. Whoever asks whether there is a warehouse, what it is
called, or whether it changed, asks its `Place`: nobody else looks at a path.
"""

import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import duckdb
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

from refresh_pipeline.duckdb_connection import SessionValue, attach_duckdb, open_duckdb, require_path
from refresh_pipeline.redaction import clean
from refresh_pipeline.warehouse.writers_first import wanted

log = logging.getLogger("refresh_pipeline")
T = TypeVar("T")
# How a function that opens and closes connections itself gets them.
Connect = Callable[[], AbstractContextManager[duckdb.DuckDBPyConnection]]

# DuckDB fails at once where another process holds the file. A try costs a millisecond. Readers of ours leave the file
# alone for longer than these bounds; a minute is far above any transaction of ours.
SHORTEST_WAIT = 0.002
LONGEST_WAIT = 0.05
LONGEST_COMMAND = 120
PATIENCE = 60.0
# Whoever waits for longer than so many seconds is told what for.
SAYS_AFTER = 5.0
# Every array of objects in this package is text: guessing the type from a sample fails in DuckDB 1.5 where the sample
# holds nulls alone. A missing table is an error, never the Python variable of that name. DuckDB takes a process started
# by multiprocessing, such as Dagster's runs, for a terminal: progress bars would fill their logs.
CONFIG = {"pandas_analyze_sample": 0, "python_enable_replacements": "false"}
SESSION = {"enable_progress_bar": False}
# DuckDB's default is four fifths of the machine's memory. So much for each core (DuckDB works on as many row groups) is
# enough to write the widest table at full speed; the rest spills to disk.
MEMORY_OF_A_CORE = 256
MEMORY = f"{MEMORY_OF_A_CORE * max(os.cpu_count() or 2, 2)}MB"
# DuckDB's default is nine tenths of the free disk. The largest rewrite that was measured spills a tenth of this; a plan
# that runs away ends with an error before the disk is full.
LARGEST_SPILL = "20GB"
# A transaction that changes more is written to the file as it is committed, not to a log first: whoever closes the file
# writes it there anyway. DuckDB's default of 16 MB suits those who keep a file open.
LARGEST_LOG = "100KB"
# Of a file that is new. DuckDB's default is twice that: it leaves up to a fifth of a small file empty, a twentieth of a
# large one, and reads and writes no faster.
BYTES_OF_A_BLOCK = 128 * 1024
# DuckDB's messages where another process has the file open, and where this process has it open in the other mode (read
# or write). Whole phrases: a damaged block is no lock, nor is a folder of that name.
LOCKED = (
    *("Could not set lock on file", "with a different configuration than existing connections"),
    # Two threads of this process open it at the same moment.
    "Unique file handle conflict",
)

# DuckDB's messages where a block that a statement needs is not what was written.
DAMAGED = ("Corrupt database file", "Could not read enough bytes from file", "database has been invalidated")


# What is to be done when a connection's transaction has ended, by the connection's id.
AFTER_TRANSACTION: dict[int, Callable[[], None]] = {}


class WarehouseBusy(TimeoutError):
    """Another process kept the database file locked for longer than we wait."""


class WarehouseUnreadable(RuntimeError):
    """DuckDB cannot open the database file, and waiting does not help."""


class WarehouseMissing(WarehouseUnreadable):
    """There is no database file although there was one; a new one is begun on request alone."""


class WarehouseDamaged(WarehouseUnreadable):
    """The database file opens, and one of its blocks does not read."""


# What a place looked like when it was asked: differs after every transaction of any process; empty where there is none.
Signature = tuple[tuple[int | str, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """How a warehouse is to be opened.

    `patience` is in seconds. `market` is the one whose tables are written, None for several: in a lake writers of
    different markets do not wait for each other. The others are as `connect` says. A lake takes no `threads`.
    """

    read_only: bool = False
    patience: float = PATIENCE
    memory_limit: str = MEMORY
    time_zone: str | None = None
    only_files: Sequence[Path] | None = None
    market: str | None = None
    threads: int | None = None


class Place(Protocol):
    """Where a warehouse is."""

    @property
    def name(self) -> str:
        """What people know it by, without credentials."""
        ...

    @property
    def file(self) -> Path | None:
        """The DuckDB file; None where the warehouse is no file."""
        ...

    @property
    def folder(self) -> Path | None:
        """The folder of this machine whose disk it fills; None where it is elsewhere."""
        ...

    @property
    def exists(self) -> bool:
        """Whether there is a warehouse."""
        ...

    @property
    def identity(self) -> object:
        """Equal for as long as it is the same warehouse; call it where it exists."""
        ...

    @property
    def bytes(self) -> int:
        """Its size; 0 where there is none."""
        ...

    def signature(self) -> Signature:
        """What differs after every transaction."""
        ...

    def opened(self, opening: Opening) -> AbstractContextManager[duckdb.DuckDBPyConnection]:
        """A connection, closed when the block ends; raises as `connect` does."""
        ...


@dataclass(frozen=True, slots=True)
class FilePlace:
    """A DuckDB file of this machine. A writer holds its lock, and everybody else waits."""

    path: Path

    @property
    def name(self) -> str:
        """The path."""
        return str(self.path)

    @property
    def file(self) -> Path:
        """The path."""
        return self.path

    @property
    def folder(self) -> Path:
        """The folder the file is in."""
        return self.path.parent

    @property
    def exists(self) -> bool:
        """Whether the file exists."""
        return self.path.exists()

    @property
    def identity(self) -> object:
        """The file's number on its disk: another one after a restore."""
        return self.path.stat().st_ino

    @property
    def bytes(self) -> int:
        """The file's size."""
        return self.path.stat().st_size if self.path.exists() else 0

    def signature(self) -> Signature:
        """Device, number, size and time of the database and of its log; an empty first part where there is none."""
        return tuple(_stat(path) for path in (self.path, self.path.with_name(f"{self.path.name}.wal")))

    @contextmanager
    def opened(self, opening: Opening) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection of its own; the file is let go when the last of this process ends."""
        config = {
            **CONFIG,
            "memory_limit": opening.memory_limit,
            "max_temp_directory_size": LARGEST_SPILL,
            "checkpoint_threshold": LARGEST_LOG,
            "default_block_size": BYTES_OF_A_BLOCK,
        }
        config |= {} if opening.threads is None else {"threads": opening.threads}
        if opening.time_zone is None and opening.only_files is None:
            file = _waiting(self, opening, attach_duckdb, config=config)
            failed = False
            try:
                yield file.connection
            except duckdb.Error:
                failed = True
                raise
            finally:
                file.close(failed=failed)
            return
        session: dict[str, SessionValue] = dict(SESSION)
        if opening.time_zone:
            session["TimeZone"] = opening.time_zone
        if opening.only_files is not None:
            session |= {"allowed_paths": [*map(str, opening.only_files)], "enable_external_access": False}
        # What is set for a session holds for the whole of an instance.
        with _waiting(self, opening, open_duckdb, config=config, session=session) as connection:
            yield connection


def place_of(address: str | Path) -> Place:
    """The place of an address: the path of a DuckDB file, or a lake's `ducklake:postgresql://...?data=...`.

    >>> place_of("data/refresh.duckdb").name
    'data/refresh.duckdb'

    Raises:
        ValueError: the address has another scheme.
    """
    if str(address).startswith("ducklake:"):
        # Loads the driver of PostgreSQL's part; whoever keeps a file needs none of it.
        from refresh_pipeline.warehouse.lake import LakePlace  # noqa: PLC0415 (it imports this module)

        return LakePlace(str(address))
    require_path(str(address))
    return FilePlace(Path(address))


@contextmanager
def connect(
    database: str,
    *,
    read_only: bool = False,
    patience: float = PATIENCE,
    memory_limit: str = MEMORY,
    time_zone: str | None = None,
    only_files: Sequence[Path] | None = None,
    market: str | None = None,
    threads: int | None = None,
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection to the warehouse of an address, closed when the block ends, however it ends.

    Its configuration is locked: `memory_limit` (the rest spills to disk) and `time_zone` (default: the machine's) are
    chosen here or not at all. With `only_files`, statements reach those files and the warehouse's, and no others.
    A writer names the `market` whose tables it writes, or waits for the writers of all. `threads` is how many DuckDB
    works with, by default as many as there are cores.

    Raises:
        WarehouseBusy: another process held the lock for `patience` seconds.
        WarehouseUnreadable: the file is damaged, of a newer DuckDB, missing (to read), or not to be opened.
        ValueError: the address is no path, and no lake's.
        WarehouseDamaged: a statement of the block met a damaged part of the file.
    """
    opening = Opening(
        read_only=read_only,
        patience=patience,
        memory_limit=memory_limit,
        time_zone=time_zone,
        only_files=only_files,
        market=market,
        threads=threads,
    )
    place = place_of(database)
    with place.opened(opening) as connection:
        try:
            yield connection
        except duckdb.Error as error:
            if any(phrase in str(error) for phrase in DAMAGED):
                raise WarehouseDamaged(
                    f"{place.name} is damaged: {_first_line(error)}. Stop refresh up, and restore a backup: refresh "
                    "restore."
                ) from error
            raise


@contextmanager
def transaction(connection: duckdb.DuckDBPyConnection) -> Iterator[duckdb.DuckDBPyConnection]:
    """Everything in the block, or nothing of it."""
    connection.execute("begin transaction")
    try:
        yield connection
        connection.execute("commit")
    except BaseException:
        # Where the failure itself ended the transaction there is nothing left to roll back.
        with suppress(duckdb.Error):
            connection.execute("rollback")
        raise
    finally:
        if finish := AFTER_TRANSACTION.pop(id(connection), None):
            finish()


def _stat(path: Path) -> tuple[int, ...]:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _waiting(place: FilePlace, opening: Opening, opened: Callable[..., T], **options: Any) -> T:
    """What opens the file, called until no other holds it; readers are told of a writer that waits."""
    if not opening.read_only:
        place.folder.mkdir(parents=True, exist_ok=True)
    telling = ExitStack()
    said = False

    def tell(state: RetryCallState) -> None:
        nonlocal said
        if state.attempt_number == 1 and not opening.read_only:
            telling.enter_context(wanted(place.path))
        error = state.outcome.exception() if state.outcome else None
        if not said and error and (state.seconds_since_start or 0) > SAYS_AFTER:
            log.warning("waiting for %s, at most %g s: it is held %s", place.name, opening.patience, _holder(error))
            said = True

    waiting = Retrying(
        retry=retry_if_exception(_is_locked),
        wait=wait_random_exponential(multiplier=SHORTEST_WAIT, max=LONGEST_WAIT),
        stop=stop_after_delay(opening.patience),
        before_sleep=tell,
        reraise=True,
    )
    try:
        with telling:
            return waiting(opened, place.name, read_only=opening.read_only, **options)
    except duckdb.Error as error:
        if _is_locked(error):
            raise WarehouseBusy(
                f"wanted to open {place.name}, waited {opening.patience:g} s, and it is still held: {_holder(error)}. "
                "Close the program that keeps the file open; readers must close it between questions, too."
            ) from error
        if opening.read_only and not place.exists:
            raise WarehouseUnreadable(f"{place.name}: not found; refresh once creates it") from error
        raise WarehouseUnreadable(
            f"wanted to open {place.name}, DuckDB {duckdb.__version__} says: {_first_line(error)}. "
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
