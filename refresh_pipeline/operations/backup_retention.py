"""Which backups are kept, and the daily work: make a backup, record the result, delete what is old."""

import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from refresh_pipeline.files.atomic import replacing
from refresh_pipeline.operations.backup import (
    DATABASE,
    UNFINISHED,
    Backup,
    BackupError,
    back_up,
    list_backups,
)
from refresh_pipeline.operations.missing_warehouse import why_missing
from refresh_pipeline.settings import Settings, dagster_home
from refresh_pipeline.warehouse.connection import WarehouseBusy, place_of

log = logging.getLogger("refresh_pipeline")

# The result of the newest attempt, in the folder of backups.
LAST_ATTEMPT = "last_attempt.json"
# A backup with so many times the rows of the newest one holds history that was lost since.
FAR_MORE = 1.1
# The daily backup and what it takes.
OVERDUE = timedelta(hours=26)
# The schedule makes a backup a day; without one after so many days it is turned off.
DAYS_WITHOUT_BACKUP = 3.0
RAW_CANDLES = ".raw_candles"


@dataclass(frozen=True, slots=True)
class Made:
    """A new backup, the older ones that were deleted, and sentences on what is odd about the others."""

    backup: Backup
    deleted: Sequence[Path]
    warnings: Sequence[str]


def make_backup(settings: Settings, dagster_home: Path, now: datetime) -> Made:
    """Make a backup, and delete old ones where the new one is whole.

    Raises:
        BackupError: no backup was made; older ones are untouched. The error is recorded for the alerts.
        WarehouseBusy: another process held the warehouse's lock for longer than we wait.
    """
    try:
        _refuse_lake(settings)
        _require_warehouse(settings)
        backup = back_up(settings.backups, settings.database, dagster_home, now)
    except (BackupError, WarehouseBusy) as error:
        _record(settings.backups, now, str(error))
        raise
    _record(settings.backups, now, "; ".join(backup.faults))
    kept = (settings.backups_kept, settings.backups_kept_weekly, settings.backups_kept_monthly)
    deleted = [] if backup.faults else keep_newest(settings.backups, *kept, now=now)
    return Made(backup, deleted, _future_ones(settings.backups, now))


def _refuse_lake(settings: Settings) -> None:
    if settings.is_lake:
        raise BackupError(
            f"no backup is made of {place_of(settings.warehouse).name}: its tables are rows of PostgreSQL and files of "
            "its folder or bucket. Dump the database with pg_dump, then copy the files; docs/lake.md says how"
        )


def _require_warehouse(settings: Settings) -> None:
    if reason := why_missing(settings):
        raise BackupError(f"no backup is made, and older backups are kept: {reason}")


def keep_newest(
    folder: Path, count: int, weekly: int = 0, monthly: int = 0, *, now: datetime | None = None
) -> list[Path]:
    """Delete old backups, and what was never finished; gives what was deleted.

    It keeps the newest `count`, and the newest of each of the last `weekly` weeks and `monthly` months. It also keeps
    the newest one without a fault, those with far more rows than the newest one, and those dated in the future.
    """
    now = now or datetime.now(UTC)
    backups = list_backups(folder, now)
    past = [backup for backup in backups if not backup.is_from_the_future(now)]
    kept = {backup.folder for backup in _kept(past, max(count, 1), weekly, monthly)}
    deleted = [backup.folder for backup in past if backup.folder not in kept]
    newest = past[0].folder.name if past else ""
    deleted += [path for path in folder.glob(f"*{UNFINISHED}") if path.name < newest]
    for path in deleted:
        shutil.rmtree(path)
        log.info("deleted backup %s", path)
    return deleted


def _kept(backups: Sequence[Backup], count: int, weekly: int, monthly: int) -> Iterator[Backup]:
    yield from backups[:count]
    if not backups:
        return
    weeks, months = set[int](), set[int]()
    newest = backups[0]
    for backup in backups:
        week, month = _week(backup) - _week(newest), _month(backup) - _month(newest)
        if week > -weekly and week not in weeks:
            weeks.add(week)
            yield backup
        if month > -monthly and month not in months:
            months.add(month)
            yield backup
    yield from [backup for backup in backups if backup.verified and not backup.faults][:1]
    yield from _with_far_more_rows(backups)


def _week(backup: Backup) -> int:
    return (backup.instant.toordinal() - 1) // 7


def _month(backup: Backup) -> int:
    return backup.instant.year * 12 + backup.instant.month


def _with_far_more_rows(backups: Sequence[Backup]) -> Iterator[Backup]:
    """The backup with the most rows in all, and of each market's candles, where the newest one holds far less."""
    tables = {name for backup in backups for name in backup.rows if name.endswith(RAW_CANDLES)}
    for table in (None, *sorted(tables)):
        most = max(backups, key=lambda backup: (_rows(backup, table), backup.instant))
        if _rows(most, table) > FAR_MORE * _rows(backups[0], table):
            yield most


def _rows(backup: Backup, table: str | None) -> int:
    return sum(backup.rows.values()) if table is None else backup.rows.get(table, 0)


def _future_ones(folder: Path, now: datetime) -> list[str]:
    return [
        f"{backup.folder} is dated in the future ({backup.made_at}): it does not count as the newest backup; rename or "
        "delete it once you know why the clock was ahead"
        for backup in list_backups(folder, now)
        if backup.is_from_the_future(now)
    ]


def backup_faults(settings: Settings, now: datetime) -> Iterator[tuple[str, str]]:
    """What is wrong with the backups, as an item and a sentence: the last attempt, its copy, its age, its date."""
    if settings.is_lake:
        return
    if error := _last_error(settings.backups):
        yield "last backup", f"the last backup failed: {error}"
    backups = list_backups(settings.backups, now)
    yield from (("future", sentence) for sentence in _future_ones(settings.backups, now))
    if not backups:
        if place_of(settings.warehouse).exists and (days := _days_at_work(settings, now)) > DAYS_WITHOUT_BACKUP:
            yield "none", f"there is no backup in {settings.backups} after {days:.0f} days; run refresh backup"
        return
    newest = backups[0]
    path = newest.folder / DATABASE
    wanted, found = newest.files.get(DATABASE, (0, ""))[0], path.stat().st_size if path.is_file() else 0
    if wanted != found:
        yield "copy", f"{path} is damaged: wanted {wanted:,} bytes, found {found:,}; run refresh backup"
    if place_of(settings.warehouse).exists and now - newest.instant > OVERDUE:
        yield (
            "age",
            f"the newest backup is of {newest.instant:%Y-%m-%d %H:%M} UTC, older than a day; run refresh backup",
        )


def _days_at_work(settings: Settings, now: datetime) -> float:
    """The days since Dagster's folder was set up; its dagster.yaml is written once."""
    try:
        began = (dagster_home(settings) / "dagster.yaml").stat().st_mtime
    except OSError:
        return 0.0
    return (now.timestamp() - began) / 86_400


def _record(folder: Path, now: datetime, error: str) -> None:
    # Where even this cannot be written, the caller's error says why.
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / LAST_ATTEMPT) as part:
            part.write_text(json.dumps({"at": now.isoformat(timespec="seconds"), "error": error}), encoding="utf-8")


def _last_error(folder: Path) -> str:
    try:
        return str(json.loads((folder / LAST_ATTEMPT).read_text(encoding="utf-8"))["error"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
