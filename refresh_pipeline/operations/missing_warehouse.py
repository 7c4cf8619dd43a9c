"""A warehouse that is missing although there was one: what tells of it, and what to do."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from refresh_pipeline.operations.backup import list_backups
from refresh_pipeline.operations.restore import Places
from refresh_pipeline.settings import Settings, dagster_home
from refresh_pipeline.warehouse.connection import connect, place_of

# Where Dagster's SQLite storage keeps the events that belong to assets, below DAGSTER_HOME.
EVENTS = Path("history") / "runs" / "index.db"
# A first refresh that was killed early leaves the file without tables.
HAS_EVENTS = "select 1 from sqlite_master where name = 'event_logs'"
MATERIALIZED = "select 1 from event_logs where dagster_event_type = 'ASSET_MATERIALIZATION' limit 1"


def why_missing(settings: Settings) -> str:
    """A sentence where the warehouse is missing although backups or a Dagster history exist; empty otherwise.

    A folder in which nothing was refreshed yet has neither.
    """
    place = place_of(settings.warehouse)
    # Of a lake nothing on this machine tells.
    if place.file is None or place.exists:
        return ""
    signs = list(_signs(settings))
    if not signs:
        return ""
    return (
        f"{place.name} is missing, although there is {' and '.join(signs)}: mount its disk or correct "
        "REFRESH_DATABASE, or restore a backup (refresh restore), or begin a new warehouse (refresh once --new)"
    )


def begin_warehouse(settings: Settings) -> None:
    """Create an empty warehouse; raises as `connect` does."""
    with connect(settings.warehouse):
        pass


def _signs(settings: Settings) -> Iterator[str]:
    home = dagster_home(settings)
    kept = Places.of(settings.database, home).old_database
    if kept.exists():
        yield f"{kept}, which a restore has replaced"
    if backups := list_backups(settings.backups, datetime.now(UTC)):
        yield f"a backup of {backups[0].instant:%Y-%m-%d %H:%M} UTC in {settings.backups}"
    if _has_materializations(home / EVENTS):
        yield f"a history of refreshes in {home}"


def _has_materializations(events: Path) -> bool:
    if not events.exists():
        return False
    try:
        # For writing: SQLite takes back what a killed process left half written.
        with closing(sqlite3.connect(f"{events.absolute().as_uri()}?mode=rw", uri=True, timeout=10)) as connection:
            return bool(connection.execute(HAS_EVENTS).fetchall() and connection.execute(MATERIALIZED).fetchall())
    except sqlite3.Error:
        # A file that does not read is no empty one.
        return events.stat().st_size > 0
