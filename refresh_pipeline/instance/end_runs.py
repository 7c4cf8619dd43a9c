"""Ends the runs that a daemon and a code server leave behind: `refresh up` calls it when it is interrupted.

An interrupted run is canceled, not failed: nobody is alerted. A run that works inside a library hears no signal before
the library returns; after the limit it is killed. The next refresh goes on from what is stored.
"""

import os
import signal
import sys
import time
from collections.abc import Collection
from contextlib import suppress

import dagster as dg
from dagster import DagsterRun, RunsFilter

from refresh_pipeline.instance.orphaned_runs import GOING, process_here

SECONDS_BETWEEN_LOOKS = 0.1
REASON = "Interrupted: refresh up was stopped."


def main() -> None:
    """Arguments: the seconds in which runs must end, and the session of each program that may have left some."""
    limit, *sessions = sys.argv[1:]
    with dg.DagsterInstance.get() as instance:
        end_runs(instance, {int(session) for session in sessions}, float(limit))


def end_runs(instance: dg.DagsterInstance, sessions: Collection[int], limit: float) -> None:
    """Cancel every run whose process belongs to one of these sessions, and kill what has not ended after the limit.

    Args:
        instance: where the runs are recorded.
        sessions: ids of sessions (POSIX).
        limit: in seconds.
    """
    processes = _processes(instance, sessions)
    for run, pid in processes.items():
        instance.report_run_canceling(instance.get_run_by_id(run))  # pyright: ignore[reportArgumentType]
        _send(pid, signal.SIGTERM)
    if processes:
        _say(f"Canceling runs that are at work: {_named(processes)}.")
    end = time.monotonic() + limit
    while (going := _going(instance, processes)) and time.monotonic() < end:
        time.sleep(SECONDS_BETWEEN_LOOKS)
    for pid in going.values():
        _send(pid, signal.SIGKILL)
    if going:
        _say(f"Killing runs that did not end within {limit:.0f} s: {_named(going)}.")
    for run in map(instance.get_run_by_id, processes):
        if run is not None and not run.is_finished:
            instance.report_run_canceled(run, REASON)


def _processes(instance: dg.DagsterInstance, sessions: Collection[int]) -> dict[str, int]:
    """The process of each run that is at work in one of the sessions."""
    runs = instance.get_runs(RunsFilter(statuses=GOING))
    pids = {run.run_id: pid for run in runs if (pid := process_here(run)) is not None}
    return {run: pid for run, pid in pids.items() if _session_of(pid) in sessions}


def _going(instance: dg.DagsterInstance, processes: dict[str, int]) -> dict[str, int]:
    runs: list[DagsterRun] = [run for run in map(instance.get_run_by_id, processes) if run is not None]
    return {run.run_id: pid for run in runs if (pid := process_here(run)) is not None}


def _session_of(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return -1


def _send(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _named(processes: dict[str, int]) -> str:
    return ", ".join(f"{run[:8]} (process {pid})" for run, pid in processes.items())


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
