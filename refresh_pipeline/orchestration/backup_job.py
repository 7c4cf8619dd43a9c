"""Backups on a clock: a job and its schedule, once a day, for all markets together."""

from datetime import UTC, datetime
from pathlib import Path

import dagster as dg

from refresh_pipeline.instance.orphaned_runs import going_runs
from refresh_pipeline.operations.backup import BackupError, back_up, keep_newest
from refresh_pipeline.pipeline.job_names import BACKUP
from refresh_pipeline.settings import load_settings

# Between two publishings, when most markets are quiet.
DAILY = "40 3 * * *"


@dg.op(description="Copies the warehouse and Dagster's files, verifies the copies, deletes the oldest ones.")
def back_up_everything(context: dg.OpExecutionContext) -> None:
    """One backup, and the newest ones kept."""
    settings = load_settings()
    home = Path(context.instance.root_directory)
    try:
        backup = back_up(settings.backups, settings.database, home, datetime.now(UTC))
    except BackupError as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    gone = keep_newest(settings.backups, settings.backups_kept)
    context.log.info(
        "%s: %s bytes, %s files; deleted %s older", backup.folder, backup.bytes, len(backup.files), len(gone)
    )


@dg.job(name=BACKUP, description="Backs up the warehouse and Dagster's files.", executor_def=dg.in_process_executor)
def backup_job() -> None:
    """All of it is one step."""
    back_up_everything()


@dg.schedule(
    name=BACKUP,
    job=backup_job,
    cron_schedule=DAILY,
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="One backup a day; REFRESH_BACKUPS_KEPT of them are kept.",
)
def backup_schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """A backup, unless there is nothing to back up or one is being made."""
    if not load_settings().database.exists():
        return dg.SkipReason("no market was refreshed yet")
    if going := going_runs(context.instance, BACKUP):
        return dg.SkipReason(f"the previous run is still going: {going[0].run_id}")
    return dg.RunRequest()
