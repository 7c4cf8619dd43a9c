"""One reader of the warehouse for all requests: it opens the file seldom and briefly, so that writers need not wait.

Questions that come while another is answered are answered in one opening. An opening ends after a fifth of a second,
the time that the file took to open included, and the next begins a tenth of a second later. A question that would not
fit any more, as the latest ones took long, is left for the next. A statement that runs at the end is interrupted.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import duckdb

from refresh_pipeline.api.problems import Problem, ProblemError
from refresh_pipeline.duckdb_connection import open_duckdb
from refresh_pipeline.warehouse.connection import WarehouseBusy, WarehouseUnreadable, connect, place_of
from refresh_pipeline.warehouse.lake import is_outage, read_on
from refresh_pipeline.warehouse.writers_first import is_wanted

Answer = TypeVar("Answer")
Question = Callable[[duckdb.DuckDBPyConnection], Any]

# Seconds of asking in one opening, and between two openings.
LONGEST_OPENING = 0.2
BETWEEN_OPENINGS = 0.1
# Seconds that writers who wait may keep it closed.
LONGEST_REST = 1.0
# The same of a lake, where a reader holds up nobody.
LONGEST_ON_A_LAKE = 2.0
# The share of it that is for asking, however long the file took to open.
LEAST_ASKING = 0.6
# How much the newest question counts among those that say how long one takes.
NEWEST_COUNTS = 0.5
# Openings that a question gets which does not fit into one: the first also reads the disk.
TRIES = 3
# The share of LONGEST_OPENING that this process must have worked, in seconds of processor time, to be interrupted, and
# the seconds after which it always is: on a machine that others keep busy, a small question takes long.
LEAST_SHARE, LONGEST_STARVED = 0.6, 1.0
# Seconds to wait for the file's lock, and those of one try.
PATIENCE, ONE_TRY = 5.0, 0.1
# Questions that may wait, and how many seconds each: who has waited so long is told to ask again.
MOST_WAITING, LONGEST_QUEUE = 64, 10.0
# DuckDB's names for a table or a column that a refresh is about to create.
NOT_YET = (duckdb.CatalogException, duckdb.BinderException)

# Two threads of a process that open and close one file at the same moment meet in DuckDB's list of files. A lake stays
# attached: its readers wait for nobody, not for the tails that the change feed reads either.
OPENING = threading.Lock()

log = logging.getLogger("refresh_pipeline.api")


@dataclass(slots=True)
class Timing:
    """Seconds that were spent, and how often."""

    seconds: float = 0.0
    count: int = 0
    longest: float = 0.0

    def add(self, seconds: float) -> None:
        """Count one more."""
        self.seconds += seconds
        self.count += 1
        self.longest = max(self.longest, seconds)


class TooLong(ProblemError):
    """A question that does not fit into an opening."""


@dataclass(slots=True)
class _Asked:
    question: Question
    tries: int = TRIES
    answer: "Future[Any]" = field(default_factory=Future)
    at: float = field(default_factory=time.monotonic)


class Reader:
    """Answers questions about the warehouse, functions of a connection, in a thread that starts with the first.

    `longest` are the seconds of asking in one opening.
    """

    def __init__(self, database: str | Path, patience: float = PATIENCE, longest: float = LONGEST_OPENING) -> None:
        self.database, self._patience = str(database), patience
        self._longest = longest if place_of(self.database).file else max(longest, LONGEST_ON_A_LAKE)
        self._waiting: deque[_Asked] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None
        # The seconds that a question of late took.
        self._usual = 0.0
        # How long questions waited, and how long the file was held.
        self.waits, self.holds = Timing(), Timing()

    async def ask(self, question: Callable[[duckdb.DuckDBPyConnection], Answer], tries: int = TRIES) -> Answer:
        """The answer of a function that gets a read-only connection; it must be brief and keep nothing of it.

        Args:
            question: the function; it is called again where it did not fit into an opening.
            tries: the openings that it gets.

        Raises:
            TooLong: it fits into no opening.
            ProblemError: busy, where a writer holds the file or too many questions wait.
        """
        asked = _Asked(question, tries)
        with self._changed:
            if len(self._waiting) >= MOST_WAITING:
                raise busy(f"{MOST_WAITING} questions wait for the warehouse already")
            self._waiting.append(asked)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="warehouse reader", daemon=True)
                self._thread.start()
            self._changed.notify()
        return await asyncio.wrap_future(asked.answer)

    def close(self) -> None:
        """End the thread; whoever waits is answered by busy."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while self._wait():
            started = time.monotonic()
            try:
                with opened(self.database, self._patience) as (connection, began):
                    took = time.monotonic() - started
                    # Where opening alone takes long, somebody is answered nevertheless.
                    left = max(self._longest - (time.monotonic() - began), self._longest * LEAST_ASKING)
                    with interrupted_after(connection, left):
                        self._answer(connection, time.monotonic() + left, took)
                self.holds.add(time.monotonic() - began)
            except (WarehouseBusy, WarehouseUnreadable) as error:
                self._fail(error)
            self._rest()
        self._fail(WarehouseBusy("the server ends"))

    def _rest(self) -> None:
        """Leave the file to others for a moment, and to a writer that waits until it has it."""
        time.sleep(BETWEEN_OPENINGS)
        until = time.monotonic() + LONGEST_REST
        while self._is_wanted() and time.monotonic() < until and not self._closed:
            time.sleep(BETWEEN_OPENINGS / 10)

    def _is_wanted(self) -> bool:
        """Whether a writer waits for the file; a lake's readers keep nobody waiting."""
        file = place_of(self.database).file
        return file is not None and is_wanted(file)

    def _wait(self) -> bool:
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            return not self._closed

    def _answer(self, connection: duckdb.DuckDBPyConnection, until: float, took: float) -> None:
        """Answer who waits; the seconds that the warehouse `took` to open were no waiting for others' questions."""
        is_first = True
        while is_first or (time.monotonic() + self._usual < until and not self._is_wanted()):
            with self._changed:
                if not self._waiting:
                    return
                asked = self._waiting.popleft()
            # Whoever asked may have gone.
            if asked.answer.cancelled():
                continue
            waited = time.monotonic() - asked.at
            self.waits.add(waited)
            if waited - took > LONGEST_QUEUE:
                _give(asked.answer, busy(f"too many questions wait for the warehouse, this one for {waited:.0f} s"))
                continue
            began = time.monotonic()
            if not _settle(asked, connection):
                # What others used of this opening is none of its own time: it is the first of the next.
                with self._changed:
                    self._waiting.appendleft(asked)
            self._usual += (time.monotonic() - began - self._usual) * NEWEST_COUNTS
            is_first = False

    def _fail(self, error: Exception) -> None:
        with self._changed:
            asked, self._waiting = list(self._waiting), deque()
        if asked:
            log.warning("the API could not read the warehouse: %s", error)
        for one in asked:
            _give(one.answer, busy("another program holds the warehouse, or it cannot be read"))


def _settle(asked: _Asked, connection: duckdb.DuckDBPyConnection) -> bool:
    """Answer a question; whether it is answered, which one is not that was interrupted and has tries left."""
    try:
        answer = asked.question(connection)
    except duckdb.InterruptException:
        read_on(connection)
        asked.tries -= 1
        if asked.tries > 0:
            return False
        _give(asked.answer, too_long())
    except NOT_YET as error:
        read_on(connection)
        log.warning("a table is not as this version knows it: %s", error)
        _give(asked.answer, busy("the market's tables are not as this version knows them; refresh it once"))
    except Exception as error:
        if is_outage(error):
            _give(asked.answer, busy("a server that the warehouse needs does not answer; the log says which"))
            # The lake is attached anew for the next opening.
            raise
        read_on(connection)
        _give(asked.answer, error)
    else:
        _give(asked.answer, answer)
    return True


def _give(future: "Future[Any]", answer: Any) -> None:
    # Whoever asked may have gone meanwhile.
    if not future.set_running_or_notify_cancel():
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)


@contextmanager
def interrupted_after(connection: duckdb.DuckDBPyConnection, seconds: float) -> Iterator[None]:
    """Interrupt the statement that runs on the connection after so many seconds, if one does.

    Where other programs have taken the processor for most of them, asking again would hold the file for longer in all:
    then it goes on, up to LONGEST_STARVED.
    """
    done, began, used = threading.Event(), time.monotonic(), time.process_time()

    def watch() -> None:
        pause = seconds
        while not done.wait(pause):
            pause = LONGEST_OPENING / 10
            worked, held = time.process_time() - used, time.monotonic() - began
            if worked >= LONGEST_OPENING * LEAST_SHARE or held >= max(seconds, LONGEST_STARVED):
                connection.interrupt()
                return

    alarm = threading.Thread(target=watch, name="alarm of the reader", daemon=True)
    alarm.start()
    try:
        yield
    finally:
        # Also wait for it: the connection must not be interrupted while it closes.
        done.set()
        alarm.join()


def busy(detail: str) -> ProblemError:
    """The problem of a warehouse that cannot be read now."""
    return ProblemError(Problem.busy, f"{detail}; ask again in a second", headers={"Retry-After": "1"})


def too_long() -> TooLong:
    """The problem of a question that takes longer than the file may be held."""
    detail = "the answer takes longer than the warehouse may be held; ask for fewer rows or columns, or ask again"
    return TooLong(Problem.busy, detail, headers={"Retry-After": "1"})


@contextmanager
def opened(database: str, patience: float) -> Iterator[tuple[duckdb.DuckDBPyConnection, float]]:
    """The warehouse to read, and since when it is held; an empty one in memory before the first refresh."""
    if not place_of(database).exists:
        with open_duckdb() as connection:
            yield connection, time.monotonic()
        return
    began = time.monotonic()
    with ExitStack() as stack:
        stack.enter_context(alone(database, patience))
        yield _entered(stack, database, began + patience)


@contextmanager
def alone(database: str, patience: float) -> Iterator[None]:
    """No other thread of this process that asks for it has the file open meanwhile; of a lake, nobody waits.

    Raises:
        WarehouseBusy: another had it for `patience` seconds.
    """
    if place_of(database).file is None:
        yield
        return
    if not OPENING.acquire(timeout=patience):
        raise WarehouseBusy(f"waited {patience:g} s for another reader of this process")
    try:
        yield
    finally:
        OPENING.release()


def _entered(stack: ExitStack, database: str, until: float) -> tuple[duckdb.DuckDBPyConnection, float]:
    """A connection, and the moment at which the try that succeeded began: opening counts as holding the file."""
    while True:
        began = time.monotonic()
        try:
            return stack.enter_context(connect(database, read_only=True, patience=ONE_TRY)), began
        except WarehouseBusy:
            if began >= until:
                raise
