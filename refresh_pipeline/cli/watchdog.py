"""Who watches the watcher: the process of `refresh up` looks at Dagster's files, as alerts come from a sensor.

It reads the newest heartbeat of the daemon and the newest tick from Dagster's SQLite files, and sends alerts by a short
process of its own. Only the standard library; other storages than SQLite are not looked at.
"""

import sqlite3
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

# Seconds between two looks into the files, and between two looks whether the folder exists.
SECONDS_BETWEEN_READINGS = 60.0
# Seconds without a new heartbeat or tick. The daemon writes a heartbeat every 30 s; sensors tick twice a minute.
LONGEST_SILENCE = 600.0
# Seconds that the alert of an end may take.
LAST_ALERT = 30.0

HEARTBEAT = ("history/runs.db", "select max(timestamp) from daemon_heartbeats")
TICK = ("schedules/schedules.db", "select max(id), max(update_timestamp) from job_ticks")
SIGNS = {
    "heartbeat": (*HEARTBEAT, "The daemon hangs: restart refresh up."),
    "tick": (*TICK, "No schedule or sensor was evaluated. Restart refresh up, or turn schedules on in the web UI."),
}

# The instants of the newest signs, in seconds since 1970.
NEWEST = {
    "heartbeat": (HEARTBEAT[0], "select cast(strftime('%s', max(timestamp)) as integer) from daemon_heartbeats"),
    "tick": (TICK[0], "select cast(strftime('%s', max(timestamp)) as integer) from job_ticks"),
}


class Watchdog:
    """Looks at Dagster's folder, and tells the alert channels when nothing moves there."""

    def __init__(self, home: str, alert: Sequence[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._home, self._alert, self._clock = Path(home) if home else None, alert, clock
        self._existed = False
        self._read_at = clock()
        self._seen: dict[str, object] = {}
        self._moved = dict.fromkeys(SIGNS, clock())
        self._alerted: set[str] = set()
        self._sending: list[subprocess.Popen[bytes]] = []

    def look(self) -> str:
        """Look once, and send what is due; the reason to end everything, or an empty text."""
        if self._home is None:
            return ""
        exists = (self._home / SIGNS["tick"][0]).exists()
        self._existed = self._existed or exists
        if self._existed and not exists:
            return f"Dagster's files are gone from {self._home}. Restore a backup with refresh restore."
        now = self._clock()
        if exists and now - self._read_at >= SECONDS_BETWEEN_READINGS:
            self._read_at = now
            for name in SIGNS:
                self._read(name, now)
        return ""

    def _read(self, name: str, now: float) -> None:
        assert self._home is not None
        file, query, remedy = SIGNS[name]
        sign = newest(self._home / file, query)
        if sign != self._seen.get(name):
            self._seen[name], self._moved[name] = sign, now
            if name in self._alerted:
                self._alerted.discard(name)
                self.send(f"{name}s are back", f"The daemon of {self._home} writes {name}s again.")
        elif now - self._moved[name] >= LONGEST_SILENCE and name not in self._alerted:
            self._alerted.add(name)
            minutes = (now - self._moved[name]) / 60
            self.send(f"no {name} for {minutes:.0f} minutes", f"{remedy} Dagster's folder: {self._home}.")

    def send(self, title: str, text: str) -> None:
        """Start a process that tells every alert channel."""
        self._sending = [process for process in self._sending if process.poll() is None]
        if self._alert:
            command = [*self._alert, f"Refresh Pipeline: {title}", text]
            self._sending.append(subprocess.Popen(command, start_new_session=True))  # noqa: S603

    def wait(self) -> None:
        """Wait until what was sent has arrived, for a while."""
        for process in self._sending:
            try:
                process.wait(LAST_ALERT)
            except subprocess.TimeoutExpired:
                process.kill()


def newest(file: Path, query: str) -> object:
    """The newest sign of life in one of Dagster's SQLite files; the error's text where it cannot be read."""
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=1.0)) as connection:
            return connection.execute(query).fetchone()
    except sqlite3.Error as error:
        return str(error)


def silences(home: Path, now: float) -> list[str]:
    """A sentence for each sign of life of the daemon that is missing or older than ten minutes.

    Args:
        home: Dagster's folder, with SQLite files.
        now: seconds since 1970.
    """
    sentences = []
    for name, (file, query) in NEWEST.items():
        answer = newest(home / file, query)
        at = answer[0] if isinstance(answer, tuple) else None
        if at is None:
            reason = "" if isinstance(answer, tuple) else f" ({answer})"
            sentences.append(f"no {name} was ever written to {home / file}{reason}: start the daemon")
        elif now - at > LONGEST_SILENCE:
            sentences.append(f"no {name} for {(now - at) / 60:.0f} minutes; {SIGNS[name][2]}")
    return sentences
