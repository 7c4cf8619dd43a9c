"""Dagster's run launcher, which forks runs from a process that has imported everything. Named in dagster.yaml.

`fork_server` is the process that forks. Runs that cannot be forked start in a new process, as Dagster starts them:
those of another code location, another Python or a remote code server, and all where forking is not safe.
"""

import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from dagster import DagsterRun, DefaultRunLauncher
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.launcher import CheckRunHealthResult, LaunchRunContext, WorkerStatus
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin, ManagedGrpcPythonEnvCodeLocationOrigin
from dagster._core.storage.tags import GRPC_INFO_TAG
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import ConfigurableClassData

from refresh_pipeline.instance.file_states import file_states
from refresh_pipeline.instance.orphaned_runs import PROCESS_TAG, process_here, process_named, why_gone
from refresh_pipeline.instance.plain_log import use_plain_log
from refresh_pipeline.settings import DEFINITIONS, environment_with, keep_files_private

PACKAGE = Path(__file__).resolve().parents[1]
# On other systems a fork of a process that has imported numpy is not known to be safe.
CAN_FORK = sys.platform == "linux"
# Seconds in which the fork server must answer: its imports take 2 to 15 s, the second figure on a busy machine.
ANSWER_LIMIT = 60.0
# Seconds in which runs start in new processes after a fork server that hung, so that only one launch waits for it.
PAUSE_AFTER_HANG = 600.0
# numpy's OpenBLAS starts a pool of threads when it is imported, and a process with threads must not fork.
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1"}

log = logging.getLogger(__name__)


class WarmRunLauncher(DefaultRunLauncher):
    """Forks a warm process for each run of this project's code, where the shipped class imports all code anew.

    Figures: docs/decisions/0078 and 0085.
    """

    def __init__(self, inst_data: ConfigurableClassData | None = None) -> None:
        # Runs and their logs are this user's, whatever started the daemon.
        keep_files_private()
        use_plain_log()
        super().__init__(inst_data)
        self._fork_server: subprocess.Popen[bytes] | None = None
        self._paused_until = 0.0
        self._code: dict[str, tuple[int, int]] = {}
        self._lock = threading.Lock()

    def launch_run(self, context: LaunchRunContext) -> None:
        """Start the run, forked where that is possible."""
        run = context.dagster_run
        pid = self._fork(run) if can_be_forked(run) else None
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
        """Whether the process of a started run still exists."""
        gone = why_gone(self._instance, run)
        return CheckRunHealthResult(WorkerStatus.FAILED if gone else WorkerStatus.RUNNING, gone)

    def dispose(self) -> None:
        """End the fork server; runs go on."""
        with self._lock:
            self._end_fork_server()

    def _fork(self, run: DagsterRun) -> int | None:
        """Fork a process for the run and return its id; None where the fork server does not answer."""
        assert run.job_code_origin is not None
        arguments = ExecuteRunArgs(run.job_code_origin, run.run_id, self._instance.get_ref())
        line = arguments.get_command_args()[-1].encode() + b"\n"
        with self._lock:
            # The fork server may have been killed since the last run: a new one answers the second request.
            answer = self._request_fork(line) or self._request_fork(line)
        return int(answer) if answer else None

    def _request_fork(self, line: bytes) -> bytes:
        if time.monotonic() < self._paused_until:
            return b""
        server = self._running_fork_server()
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            server.stdin.write(line)
            server.stdin.flush()
            if not select.select([server.stdout], [], [], ANSWER_LIMIT)[0]:
                self._pause(server)
            answer = server.stdout.readline()
        except OSError:
            answer = b""
        if not answer:
            self._end_fork_server()
        return answer

    def _pause(self, server: "subprocess.Popen[bytes]") -> None:
        """Kill a fork server that hangs, and start runs in new processes for a while."""
        server.kill()
        self._paused_until = time.monotonic() + PAUSE_AFTER_HANG
        log.warning(
            "The fork server did not answer within %.0f s: runs start in new processes for the next %.0f s.",
            ANSWER_LIMIT,
            PAUSE_AFTER_HANG,
        )

    def _running_fork_server(self) -> "subprocess.Popen[bytes]":
        """The process to fork from; a new one where the code has changed since it started."""
        code = code_on_disk()
        if code != self._code:
            self._end_fork_server()
        if self._fork_server is None:
            command = [sys.executable, "-P", "-m", f"{PACKAGE.name}.instance.fork_server", DEFINITIONS]
            self._fork_server = subprocess.Popen(  # noqa: S603
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment_with(**ONE_THREAD)
            )
            self._code = code
        return self._fork_server

    def _end_fork_server(self) -> None:
        server, self._fork_server = self._fork_server, None
        if server is not None:
            # It holds no state, and one that hangs in an import would not notice the end of its input.
            server.kill()
            for pipe in (server.stdin, server.stdout):
                with suppress(OSError):
                    pipe.close()  # pyright: ignore[reportOptionalMemberAccess]
            server.wait()


def can_be_forked(run: DagsterRun) -> bool:
    """Whether a run is of this project's definitions, in this Python, loaded by a code server of this machine."""
    if not CAN_FORK or run.job_code_origin is None or run.remote_job_origin is None:
        return False
    code = run.job_code_origin.repository_origin
    server = run.remote_job_origin.repository_origin.code_location_origin
    is_here = isinstance(server, ManagedGrpcPythonEnvCodeLocationOrigin) or (
        isinstance(server, GrpcServerCodeLocationOrigin) and server.socket is not None
    )
    is_ours = isinstance(code.code_pointer, ModuleCodePointer) and code.code_pointer.module == DEFINITIONS
    return is_here and is_ours and code.executable_path == sys.executable and code.container_image is None


def code_on_disk() -> dict[str, tuple[int, int]]:
    """The state of the project's files: a process that imported other ones is not forked any more."""
    return file_states([PACKAGE])
