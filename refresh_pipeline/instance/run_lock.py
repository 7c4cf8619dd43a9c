"""A run's lock in PostgreSQL, which tells every machine that the run's process lives.

The process that works on a run holds an advisory lock on the run's id, on a session of its own. PostgreSQL drops the
lock with the session: at once when the process dies, within 25 s when its machine or its network is gone. Where
Dagster's records are not in PostgreSQL there is no such lock; `orphaned_runs` then asks this machine for the process.
"""

import hashlib
import logging
import os
import signal
import socket
import threading
from contextlib import suppress
from typing import Any

import dagster as dg
import sqlalchemy as db
from dagster import DagsterRunStatus
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

# Seconds between two looks at the session, and between two attempts to restore a lost one.
BEAT = 5.0
# Seconds after the server's start in which no lock counts as lost: every holder has to connect again first.
RESTORED_WITHIN = 60.0
# How soon the server notices a client that vanished without a word: 10 s of silence, then three probes of 5 s.
KEEPALIVES = {
    "tcp_keepalives_idle": 10,
    "tcp_keepalives_interval": 5,
    "tcp_keepalives_count": 3,
    "tcp_user_timeout": 25_000,
}
NAMED = db.text("select set_config('application_name', left(:name, 63), false)")
ATTEMPT = db.text("select pg_try_advisory_lock(:key)")
# The two halves of a key are two columns. Locks of other databases do not count.
HELD = db.text(
    "select exists (select from pg_locks where locktype = 'advisory' and granted and objsubid = 1 "
    "and classid = :high and objid = :low "
    "and database = (select oid from pg_database where datname = current_database())) "
    "or now() - pg_postmaster_start_time() < :restored_within * interval '1 second'"
)

log = logging.getLogger(__name__)


def hold(instance: dg.DagsterInstance, run_id: str) -> bool:
    """Hold the lock of a run for as long as this process works on it; False where the records are not in PostgreSQL.

    A process works on one run at a time: the lock of the run before is released.
    """
    global _holder  # noqa: PLW0603 (one session for the process)
    url = postgres_url(instance)
    if not url:
        return False
    with _guard:
        if _holder is None or _holder.run_id != run_id:
            if _holder is not None:
                _holder.release()
            _holder = RunLock(instance, url, run_id)
            _holder.take()
    return True


def is_held(instance: dg.DagsterInstance, run_id: str) -> bool:
    """Whether any process holds the run's lock, or may not have had the time to restore it since the server's start."""
    key = lock_key(run_id) % 2**64
    values = {"high": key >> 32, "low": key % 2**32, "restored_within": RESTORED_WITHIN}
    engine = _engine(postgres_url(instance))
    with engine.connect() as connection:
        return bool(connection.execute(HELD, values).scalar())


def postgres_url(instance: dg.DagsterInstance) -> str:
    """Where Dagster keeps its runs; empty where that is not PostgreSQL."""
    url = getattr(instance.run_storage, "postgres_url", "")
    return url if isinstance(url, str) else ""


def lock_key(run_id: str) -> int:
    """The number that PostgreSQL knows a run's lock by: 64 bits, signed."""
    return int.from_bytes(hashlib.sha256(f"refresh run {run_id}".encode()).digest()[:8], signed=True)


class RunLock:
    """The lock of one run, restored by a thread when the session is lost."""

    def __init__(self, instance: dg.DagsterInstance, url: str, run_id: str) -> None:
        self.run_id = run_id
        self._dagster = instance
        self._engine = _engine(url)
        self._session: db.Connection | None = None
        self._released = threading.Event()

    def take(self) -> None:
        """Take the lock and keep it until `release`."""
        with suppress(DBAPIError):
            self._connect()
        threading.Thread(target=self._keep, name="run lock", daemon=True).start()

    def release(self) -> None:
        """Give the lock back."""
        self._released.set()

    def _connect(self) -> bool:
        session = self._engine.connect()
        for name, value in KEEPALIVES.items():
            session.exec_driver_sql(f"set {name} = {value}")
        # For people: pg_stat_activity names the machine that works on a run.
        session.execute(NAMED, {"name": f"refresh {self.run_id} {socket.gethostname()}"})
        # The server may not have noticed the end of our last session yet: the next beat tries again.
        if not session.execute(ATTEMPT, {"key": lock_key(self.run_id)}).scalar():
            session.close()
            return False
        self._session = session
        return True

    def _keep(self) -> None:
        while not self._released.wait(BEAT):
            try:
                if self._session is not None:
                    self._session.exec_driver_sql("select 1")
                elif self._connect():
                    self._end_if_given_up()
            except DBAPIError as error:
                log.warning("The lock of run %s is lost, and is taken again: %s", self.run_id, type(error).__name__)
                self._close()
        self._close()

    def _close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            with suppress(DBAPIError):
                session.invalidate()
                session.close()

    def _end_if_given_up(self) -> None:
        """End this process if others took it for dead meanwhile: another run may do its work already."""
        run = self._dagster.get_run_by_id(self.run_id)
        if run is not None and run.status is DagsterRunStatus.FAILURE:
            log.error("Run %s was marked as failed while its lock was lost: its process ends.", self.run_id)
            os.kill(os.getpid(), signal.SIGTERM)


def _engine(url: str) -> Any:
    keepalives = {"connect_timeout": 10, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
    # Keepalives do not end a session whose question was sent and is never acknowledged; this does, in milliseconds.
    keepalives |= {"tcp_user_timeout": 25_000}
    return db.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool, connect_args=keepalives)


_guard = threading.Lock()
_holder: RunLock | None = None
