"""The processes of one DAGSTER_HOME by their role, read from /proc.

A forked run has the command line of the fork server, so a run is known by its parent or by the tag of its run.
"""

import os
import signal
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import dagster as dg

from refresh_pipeline.instance.orphaned_runs import GOING, process_here

DAEMON, CODE_SERVER, FORK_SERVER, RUN, API = "daemon", "code server", "fork server", "run", "API"
# A program of somebody at the machine, which ends by itself.
CHORE = "chore"
ROLES = (DAEMON, CODE_SERVER, FORK_SERVER, RUN, API, CHORE)


def processes_of(home: Path, runs: Collection[int] = ()) -> dict[int, str]:
    """The role of every living process that has this DAGSTER_HOME and a role.

    Args:
        home: Dagster's folder.
        runs: ids of processes that work on runs, by the runs' tags: an orphaned run has no parent to be known by.
    """
    commands = dict(_commands(f"DAGSTER_HOME={home}\0".encode()))
    roles = {pid: role_of(command) for pid, command in commands.items()}
    forks = {pid for pid, role in roles.items() if role == FORK_SERVER and (pid in runs or _is_fork(pid, roles))}
    return {pid: RUN if pid in forks else role for pid, role in roles.items() if role}


def role_of(command: str) -> str:
    r"""The role that a command line names, its arguments separated by NUL; empty for every other program.

    >>> role_of("python\0-m\0dagster\0api\0grpc\0"), role_of("/venv/bin/python\0/venv/bin/refresh\0serve\0")
    ('code server', 'API')
    >>> role_of("/venv/bin/python\0/venv/bin/refresh\0backfill\0--since\x002026-06-01\0")
    'chore'
    """
    arguments = command.split("\0")
    names = {argument.rpartition("/")[2] for argument in arguments}
    if names & {"dagster-daemon", "dagster._daemon"}:
        return DAEMON
    if {"api", "grpc"} <= names:
        return CODE_SERVER
    if "refresh_pipeline.instance.fork_server" in names:
        return FORK_SERVER
    if names & {"--multiprocessing-fork", "execute_run"}:
        return RUN
    if "refresh" in names and names & {"publish", "backfill", "backup"}:
        return CHORE
    serves = {"refresh", "serve"} <= names or any(name.startswith("refresh_pipeline.api") for name in names)
    return API if serves else ""


def run_processes(instance: dg.DagsterInstance) -> set[int]:
    """The ids of the living processes that work on runs, by the runs' tags."""
    runs = instance.get_runs(dg.RunsFilter(statuses=GOING))
    return {pid for run in runs if (pid := process_here(run)) is not None}


def megabytes_of(pid: int) -> float:
    """A process's resident memory, 0 for one that is gone."""
    return _status(pid).get("VmRSS", 0) / 1024


def kill(pid: int) -> None:
    """End a process without asking."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _is_fork(pid: int, roles: Mapping[int, str]) -> bool:
    """Whether a process with the fork server's command line was forked by it."""
    return roles.get(_status(pid).get("PPid", 0)) == FORK_SERVER


def _commands(variable: bytes) -> Iterator[tuple[int, str]]:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if variable in (folder / "environ").read_bytes():
                yield int(folder.name), (folder / "cmdline").read_bytes().decode()
        except OSError:
            # Another user's, or just gone.
            continue


def _status(pid: int) -> dict[str, int]:
    """The numbers of a process's status, memory in kilobytes; empty for one that is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    fields = (line.split() for line in lines if line.startswith(("VmRSS:", "PPid:")))
    return {name.rstrip(":"): int(number) for name, number, *_ in fields}
