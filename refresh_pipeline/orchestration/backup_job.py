"""The daily backup of all markets: a job and its schedule."""

from datetime import UTC, datetime
from pathlib import Path

import dagster as dg

from refresh_pipeline.instance.queues import ON_FILES
from refresh_pipeline.operations.backup import BackupError
from refresh_pipeline.operations.backup_retention import make_backup
from refresh_pipeline.orchestration.schedules import utc_schedule
from refresh_pipeline.pipeline.job_names import BACKUP
from refresh_pipeline.settings import load_settings
from refresh_pipeline.warehouse.connection import WarehouseBusy, place_of

# Between two publishing times, when most markets are quiet.
DAILY = "40 3 * * *"


@dg.op(description="Copies the warehouse and Dagster's files, verifies the copies, deletes the oldest ones.")
def back_up_everything(context: dg.OpExecutionContext) -> None:
    """Make one backup and delete the oldest ones."""
    settings = load_settings()
    home = Path(context.instance.root_directory)
    try:
        made = make_backup(settings, home, datetime.now(UTC))
    except (BackupError, WarehouseBusy) as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    backup = made.backup
    context.log.info(
        "%s: %s bytes, %s files; deleted %s older", backup.folder, backup.bytes, len(backup.files), len(made.deleted)
    )
    for warning in made.warnings:
        context.log.warning(warning)
    if backup.faults:
        raise dg.Failure(f"{backup.folder} lacks files of Dagster: {'; '.join(backup.faults)}", allow_retries=False)


@dg.job(
    name=BACKUP,
    description="Backs up the warehouse and Dagster's files.",
    executor_def=dg.in_process_executor,
    tags=ON_FILES,
)
def backup_job() -> None:
    """A backup is one step."""
    back_up_everything()


def _request(_now: datetime) -> dg.RunRequest | dg.SkipReason:
    settings = load_settings()
    if settings.is_lake:
        return dg.SkipReason("a lake is backed up with pg_dump and a copy of its files; docs/lake.md says how")
    if place_of(settings.warehouse).exists:
        return dg.RunRequest()
    return dg.SkipReason("there is no warehouse yet: no market was refreshed")


backup_schedule = utc_schedule(
    backup_job, DAILY, "Makes one backup a day and keeps the newest REFRESH_BACKUPS_KEPT.", _request
)
