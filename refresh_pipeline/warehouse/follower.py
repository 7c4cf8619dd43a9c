"""Follows the change feed from another process: looks at the warehouse's signature, opens it only after a change.

Looking at a file costs a few microseconds and keeps nobody out. One opening reads every change since the last one.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import duckdb

from refresh_pipeline.warehouse.connection import Signature, WarehouseUnreadable, connect, place_of
from refresh_pipeline.warehouse.versions import Changes, changes

# Seconds between two looks; a file that is still for so long is between two transactions.
LOOK_EVERY = 0.25
# A file that changes all the time is read so many seconds after its first change.
LONGEST_WAIT = 2.0
# Another process may hold the file for longer; the next look tries again.
PATIENCE = 5.0

# Called in the opening that read the changes: further questions need no second one.
OnChanges = Callable[[duckdb.DuckDBPyConnection, Changes], None]


@dataclass(slots=True)
class FileWatch:
    """Decides when a file that changed is to be read: once it is still, or a while after its first change.

    >>> watch = FileWatch()
    >>> watch.is_due(((1,),), 0.0), watch.is_due(((1,),), 0.25)
    (False, True)
    """

    read: Signature | None = None
    seen: Signature | None = None
    changed_at: float = 0.0
    first_changed_at: float | None = None

    def is_due(self, signature: Signature, now: float) -> bool:
        """Whether to read the file, which looks like this at `now` (seconds of any steady clock)."""
        if signature == self.read:
            self.seen, self.first_changed_at = signature, None
            return False
        if signature != self.seen:
            self.seen, self.changed_at = signature, now
            self.first_changed_at = now if self.first_changed_at is None else self.first_changed_at
        since_first = now - (self.changed_at if self.first_changed_at is None else self.first_changed_at)
        return now - self.changed_at >= LOOK_EVERY or since_first >= LONGEST_WAIT

    def was_read(self, signature: Signature) -> None:
        """Remember what the file looked like before it was opened: what is written meanwhile is a change."""
        self.read, self.first_changed_at = signature, None


class Follower:
    """Gives the changes of a warehouse, each once; all of them again where the file is another one.

    Args:
        database: the warehouse's address; it need not exist yet.
        on_changes: what to do with changes, in the opening that read them; it should take a fraction of a second.
        after: the newest version that is known; 0 for all of them.
        epoch: the epoch of that version.
    """

    def __init__(self, database: str | Path, on_changes: OnChanges, *, after: int = 0, epoch: str | None = None):
        self.database, self.version, self.epoch = str(database), after, epoch
        self._on_changes, self._watch = on_changes, FileWatch()

    @property
    def signature(self) -> Signature | None:
        """What the file looked like when it was read last; None before that."""
        return self._watch.read

    def look(self, now: float | None = None) -> Changes | None:
        """Look at the file once; read it and pass its changes on where it is due. None where nothing changed.

        Raises:
            WarehouseBusy: another process holds the file; the next look tries again.
            WarehouseUnreadable: the file cannot be read.
        """
        signature = place_of(self.database).signature()
        if not signature[0] or not self._watch.is_due(signature, time.monotonic() if now is None else now):
            return None
        with connect(self.database, read_only=True, patience=PATIENCE) as connection:
            read = changes(connection, self.version, epoch=self.epoch)
            if read.changes or read.reset:
                self._on_changes(connection, read)
        self._watch.was_read(signature)
        self.version, self.epoch = read.version, read.epoch or None
        return read if read.changes or read.reset else None

    def run(self, stop: threading.Event, on_error: Callable[[Exception], None] = lambda error: None) -> None:
        """Look until `stop` is set; a file that is busy or unreadable is reported and looked at again."""
        while not stop.wait(LOOK_EVERY):
            try:
                self.look()
            except (TimeoutError, WarehouseUnreadable) as error:
                on_error(error)
