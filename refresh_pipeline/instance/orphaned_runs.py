"""Runs whose process is gone. A killed process reports nothing, so its run would count as going for ever.

On one machine the process itself is looked for. Where Dagster's records are in PostgreSQL, a run's process may be on
any machine: it holds a lock there, as `run_lock` says.
"""

import os
import socket
import time
from functools import lru_cache
from pathlib import Path
from uuid import uuid4

import dagster as dg
from dagster import DagsterRunStatus, RunRecord, RunsFilter

# The process that works on a run, written by the launcher or the run: boot id, process id and, where the system tells
# it, the process's start. A boot id outlives the machine's name, and a reboot changes it.
# Dagster's pages hide tags that begin with .dagster/.
PROCESS_TAG = ".dagster/refresh_process"
# Whether that process holds the run's lock in PostgreSQL.
LOCK_TAG = ".dagster/refresh_lock"

# Linux writes a new id at each boot. Other systems get one id for all boots, stored in the user's folder.
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
STORED_ID = Path.home() / ".refresh" / "instance_id"

# Seconds from a run's start within which its first step must have written the tag.
UNCLAIMED_AT_MOST = 180.0

GOING = [
    DagsterRunStatus.QUEUED,
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
]


def this_process() -> str:
    """The tag's value for the process that asks."""
    return process_named(os.getpid())


def process_named(pid: int) -> str:
    """The tag's value for a process of this machine."""
    return f"{boot_id()}:{pid}:{_began(pid)}"


@lru_cache(maxsize=1)
def boot_id() -> str:
    """The id of this boot of this machine; of the machine alone where the system has no boot ids."""
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        STORED_ID.parent.mkdir(parents=True, exist_ok=True)
        # Late: with it come Dagster's storages, which loading the definitions does not need.
        from refresh_pipeline.instance.run_files import write_if_absent  # noqa: PLC0415

        write_if_absent(STORED_ID, uuid4().hex.encode())
        return STORED_ID.read_text()


def claim(context: dg.AssetExecutionContext | dg.OpExecutionContext) -> None:
    """Write into the run's tags that this process works on it, and hold its lock where there are locks."""
    # Late: with it comes SQLAlchemy, which loading the definitions does not need.
    from refresh_pipeline.instance import run_lock  # noqa: PLC0415

    tags = {PROCESS_TAG: this_process()}
    if run_lock.hold(context.instance, context.run.run_id):
        tags[LOCK_TAG] = "held"
    if not tags.items() <= context.run.tags.items():
        context.instance.add_run_tags(context.run.run_id, tags)


def going_runs(instance: dg.DagsterInstance, job_name: str, now: float | None = None) -> list[dg.DagsterRun]:
    """The job's runs that are queued or at work; those whose process is gone are marked as failed first.

    `now` is in seconds since 1970, the machine's clock where it is left out.
    """
    going = []
    for record in instance.get_run_records(RunsFilter(job_name=job_name, statuses=GOING)):
        reason = _why_orphan(instance, record, time.time() if now is None else now)
        if not reason:
            going.append(record.dagster_run)
        elif _is_going_still(instance, record.dagster_run.run_id):
            instance.report_run_failed(record.dagster_run, reason)
    return going


def _is_going_still(instance: dg.DagsterInstance, run_id: str) -> bool:
    """Whether a run still counts as going after its process was found gone; a run that has just ended does not."""
    run = instance.get_run_by_id(run_id)
    return run is not None and run.status in GOING


def _why_orphan(instance: dg.DagsterInstance, record: RunRecord, now: float) -> str | None:
    run = record.dagster_run
    if _is_known(instance, run):
        return why_gone(instance, run)
    # Dagster's run monitor ends runs that wait or start for too long.
    since = record.start_time if run.status is DagsterRunStatus.STARTED else None
    # A start of the future is from a clock that was ahead.
    late = since is not None and abs(now - since) > UNCLAIMED_AT_MOST
    return f"No worker process registered for this run within {UNCLAIMED_AT_MOST:.0f} s of its start." if late else None


def why_gone(instance: dg.DagsterInstance, run: dg.DagsterRun) -> str:
    """The reason why a run's process is gone; empty where the process lives, or nothing is known of it."""
    # Late: as above.
    from refresh_pipeline.instance import run_lock  # noqa: PLC0415

    if not _is_known(instance, run):
        return ""
    machine, pid, began = _process_of(run)
    gone = f"The process that worked on this run ({machine}:{pid}:{began}) is gone."
    if LOCK_TAG in run.tags:
        is_held = run_lock.is_held(instance, run.run_id)
        return "" if is_held else f"{gone} Its lock in PostgreSQL is free: it or its machine has died."
    if not pid.isdigit() or process_here(run) is not None:
        return ""
    where = "" if _is_here(machine) else " It belongs to another boot of this machine, or to another machine."
    return f"{gone}{where}"


def _is_known(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether it can be said from here if a run's process lives; among several machines only a lock says it."""
    from refresh_pipeline.instance import run_lock  # noqa: PLC0415

    return LOCK_TAG in run.tags or (PROCESS_TAG in run.tags and not run_lock.postgres_url(instance))


def process_here(run: dg.DagsterRun) -> int | None:
    """The id of the process that works on a run; None where it is gone, unknown, or of another boot."""
    machine, pid, began = _process_of(run)
    is_alive = _is_here(machine) and pid.isdigit() and _began(int(pid)) == began
    return int(pid) if is_alive else None


def _is_here(machine: str) -> bool:
    # Runs that started before boot ids were written carry the machine's name.
    return machine in (boot_id(), socket.gethostname())


def _process_of(run: dg.DagsterRun) -> tuple[str, str, str]:
    machine, pid, began = (*run.tags.get(PROCESS_TAG, "").split(":"), "", "")[:3]
    return machine, pid, began


def _began(pid: int) -> str | None:
    """The start of a living process in clock ticks since boot, empty where the system hides it; None for a dead one.

    Another process may get the same id later, but not with the same start.
    """
    if not Path("/proc/self/stat").exists():
        return "" if _is_alive(pid) else None
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    # A zombie has ended; its parent has not collected its exit code.
    return None if state in "ZX" else fields[18]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
