"""Runs whose process is gone. A killed process tells nobody; without this its run would count as going on for ever."""

import os
import socket
import time
from pathlib import Path

import dagster as dg
from dagster import DagsterRunStatus, RunRecord, RunsFilter

# Which process works on a run, written by the run itself: host, process id and, where the system tells, its beginning.
PROCESS_TAG = "refresh/process"

# Seconds from a run's start within which its process must have said so: its first step's first act.
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
    return f"{socket.gethostname()}:{pid}:{_began(pid)}"


def claim(context: dg.AssetExecutionContext | dg.OpExecutionContext) -> None:
    """Write down which process works on this run."""
    if context.run.tags.get(PROCESS_TAG) != this_process():
        context.instance.add_run_tags(context.run.run_id, {PROCESS_TAG: this_process()})


def going_runs(instance: dg.DagsterInstance, job_name: str, now: float | None = None) -> list[dg.DagsterRun]:
    """The job's runs that are queued or at work; those whose process is gone are marked as failed first.

    `now` is in seconds since 1970, the machine's clock where it is left out.
    """
    going = []
    for record in instance.get_run_records(RunsFilter(job_name=job_name, statuses=GOING)):
        reason = _why_orphan(record, time.time() if now is None else now)
        if not reason:
            going.append(record.dagster_run)
        elif _is_going_still(instance, record.dagster_run.run_id):
            instance.report_run_failed(record.dagster_run, reason)
    return going


def _is_going_still(instance: dg.DagsterInstance, run_id: str) -> bool:
    """Whether a run counts as going after its process was seen to be gone: one that has just ended does not."""
    run = instance.get_run_by_id(run_id)
    return run is not None and run.status in GOING


def _why_orphan(record: RunRecord, now: float) -> str | None:
    run = record.dagster_run
    if PROCESS_TAG in run.tags:
        return why_gone(run)
    # Of one that waits or is starting, Dagster's own monitor knows when to give up.
    since = record.start_time if run.status is DagsterRunStatus.STARTED else None
    late = since is not None and now - since > UNCLAIMED_AT_MOST
    return f"No process has said within {UNCLAIMED_AT_MOST:.0f} s that it works on this run." if late else None


def why_gone(run: dg.DagsterRun) -> str:
    """What there is to say of a run whose process is known and gone; nothing where it lives or may live."""
    host, pid, began = _process_of(run)
    # Of another machine's processes nothing is known here.
    gone = host == socket.gethostname() and pid.isdigit() and _began(int(pid)) != began
    return f"The process that worked on this run ({host}:{pid}:{began}) is gone." if gone else ""


def process_here(run: dg.DagsterRun) -> int | None:
    """The id of the process that works on a run; None where it is gone, not known, or another machine's."""
    host, pid, began = _process_of(run)
    is_here = host == socket.gethostname() and pid.isdigit() and _began(int(pid)) == began
    return int(pid) if is_here else None


def _process_of(run: dg.DagsterRun) -> tuple[str, str, str]:
    host, pid, began = (*run.tags.get(PROCESS_TAG, "").split(":"), "", "")[:3]
    return host, pid, began


def _began(pid: int) -> str | None:
    """When a living process began, in the system's own count, or nothing where it does not tell; None for a dead one.

    After a reboot another process may well have the same id, but it did not begin at the same moment.
    """
    if not Path("/proc/self/stat").exists():
        return "" if _is_alive(pid) else None
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    # A zombie is dead; its parent has not asked yet.
    return None if state in "ZX" else fields[18]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
