"""Runs whose process is gone. A killed process tells nobody; without this its run would count as going on for ever."""

import os
import socket
from pathlib import Path

import dagster as dg
from dagster import DagsterRunStatus, RunsFilter

# Which process works on a run, written by the run itself: host, process id and, where the system tells, its beginning.
PROCESS_TAG = "refresh/process"

GOING = [
    DagsterRunStatus.QUEUED,
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
]


def this_process() -> str:
    """The tag's value for the process that asks."""
    return f"{socket.gethostname()}:{os.getpid()}:{_began(os.getpid())}"


def claim(context: dg.AssetExecutionContext) -> None:
    """Write down which process works on this run."""
    if context.run.tags.get(PROCESS_TAG) != this_process():
        context.instance.add_run_tags(context.run.run_id, {PROCESS_TAG: this_process()})


def going_runs(instance: dg.DagsterInstance, job_name: str) -> list[dg.DagsterRun]:
    """The job's runs that are queued or at work; those whose process is gone are marked as failed first."""
    runs = instance.get_runs(RunsFilter(job_name=job_name, statuses=GOING))
    orphans = {run.run_id for run in runs if _is_orphan(run)}
    for run in runs:
        if run.run_id in orphans:
            instance.report_run_failed(run, f"The process that worked on this run ({run.tags[PROCESS_TAG]}) is gone.")
    return [run for run in runs if run.run_id not in orphans]


def _is_orphan(run: dg.DagsterRun) -> bool:
    host, pid, began = (*run.tags.get(PROCESS_TAG, "").split(":"), "", "")[:3]
    # Of another machine's processes nothing is known here.
    return host == socket.gethostname() and pid.isdigit() and _began(int(pid)) != began


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
