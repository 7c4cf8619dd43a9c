"""Dagster's run launcher, with runs forked from a process that has its imports behind it. Named in dagster.yaml.

What is forked is `starter`'s part. Runs that cannot be forked (another code location, another Python, a code server
elsewhere, a system where forking is not safe) are started as Dagster starts them.
"""

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

from dagster import DagsterRun
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.launcher import CheckRunHealthResult, DefaultRunLauncher, LaunchRunContext, WorkerStatus
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin, ManagedGrpcPythonEnvCodeLocationOrigin
from dagster._core.storage.tags import GRPC_INFO_TAG
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import ConfigurableClassData

from refresh_pipeline.instance.file_states import file_states
from refresh_pipeline.instance.orphaned_runs import PROCESS_TAG, process_here, process_named, why_gone

PACKAGE = Path(__file__).resolve().parents[1]
MODULE = f"{PACKAGE.name}.definitions"
# Elsewhere a fork of a process with numpy in it is not known to be safe.
CAN_FORK = sys.platform == "linux"


class WarmRunLauncher(DefaultRunLauncher):
    """A fork of a warm process for each run of this project's own code, where the shipped class imports all of it anew.

    The figures are in docs/decisions/0078.
    """

    def __init__(self, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__(inst_data)
        self._starter: subprocess.Popen[bytes] | None = None
        self._code: dict[str, tuple[int, int]] = {}
        self._lock = threading.Lock()

    def launch_run(self, context: LaunchRunContext) -> None:
        """Start the run, forked where that is possible."""
        run = context.dagster_run
        pid = self._forked(run) if can_be_forked(run) else None
        if pid is None:
            super().launch_run(context)
        else:
            self._instance.add_run_tags(run.run_id, {PROCESS_TAG: process_named(pid)})

    def terminate(self, run_id: str) -> bool:
        """Ask the run's process to end; a run that was not forked is ended as Dagster does it."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished or GRPC_INFO_TAG in run.tags or PROCESS_TAG not in run.tags:
            return super().terminate(run_id)
        self._instance.report_run_canceling(run)
        process = process_here(run)
        if process is None:
            return False
        os.kill(process, signal.SIGTERM)
        return True

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Dagster's run monitor asks each minute."""
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Whether the process of a run that is at work is still there."""
        gone = why_gone(run)
        return CheckRunHealthResult(WorkerStatus.FAILED if gone else WorkerStatus.RUNNING, gone)

    def dispose(self) -> None:
        """End the process that runs are forked from; runs go on."""
        with self._lock:
            self._end_starter()

    def _forked(self, run: DagsterRun) -> int | None:
        """The id of the process that works on the run; None where there is nothing to fork from."""
        assert run.job_code_origin is not None
        wanted = ExecuteRunArgs(run.job_code_origin, run.run_id, self._instance.get_ref())
        line = wanted.get_command_args()[-1].encode() + b"\n"
        with self._lock:
            # It may have been killed since the last run; a second one is as good.
            answer = self._answer(line) or self._answer(line)
        return int(answer) if answer else None

    def _answer(self, line: bytes) -> bytes:
        starter = self._warm_starter()
        assert starter.stdin is not None
        assert starter.stdout is not None
        try:
            starter.stdin.write(line)
            starter.stdin.flush()
            answer = starter.stdout.readline()
        except OSError:
            answer = b""
        if not answer:
            self._end_starter()
        return answer

    def _warm_starter(self) -> "subprocess.Popen[bytes]":
        """The process to fork from; a new one where the code has changed since it was started."""
        code = code_on_disk()
        if code != self._code:
            self._end_starter()
        if self._starter is None:
            command = [sys.executable, "-P", "-m", f"{PACKAGE.name}.instance.fork_server", MODULE]
            self._starter = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # noqa: S603
            self._code = code
        return self._starter

    def _end_starter(self) -> None:
        starter, self._starter = self._starter, None
        if starter is not None:
            for pipe in (starter.stdin, starter.stdout):
                with suppress(OSError):
                    pipe.close()  # pyright: ignore[reportOptionalMemberAccess]
            starter.wait()


def can_be_forked(run: DagsterRun) -> bool:
    """Whether a run is of this project's definitions, in this Python, loaded by a code server of this machine."""
    if not CAN_FORK or run.job_code_origin is None or run.remote_job_origin is None:
        return False
    code = run.job_code_origin.repository_origin
    server = run.remote_job_origin.repository_origin.code_location_origin
    is_here = isinstance(server, ManagedGrpcPythonEnvCodeLocationOrigin) or (
        isinstance(server, GrpcServerCodeLocationOrigin) and server.socket is not None
    )
    is_ours = isinstance(code.code_pointer, ModuleCodePointer) and code.code_pointer.module == MODULE
    return is_here and is_ours and code.executable_path == sys.executable and code.container_image is None


def code_on_disk() -> dict[str, tuple[int, int]]:
    """The state of the project's files: a process that imported other ones is not forked any more."""
    return file_states([PACKAGE])
