"""The process of `refresh up` once all is prepared: it runs programs side by side until one ends or it is interrupted.

Only the standard library: it waits for days, in 9 MB of memory (docs/decisions/0086).
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

from refresh_pipeline.instance.file_states import file_states

SECONDS_BETWEEN_LOOKS = 0.5
# How long the others wait for the first program at most.
SECONDS_TO_WAIT = 60.0
# Looks at the programs between two looks at the watched files.
LOOKS_AT_FILES = 10
# Seconds by which the clock must be set back at once to count as wrong before.
SET_BACK = 30.0


@dataclass(frozen=True)
class Plan:
    """The programs to run, and the one that is restarted when a watched file or folder changes.

    That one starts first, and the others once the file `ready` exists: a program that does not find it looks again only
    a minute later.
    """

    programs: Mapping[str, Sequence[str]]
    renewed: str
    ready: str
    watched: Sequence[str]
    # A folder to delete at the end.
    temporary: str
    # Where the web UI answers once it is ready.
    host: str = "127.0.0.1"
    port: int = 0
    # The command to run when the clock is set back, and the program to restart after it, which waits by that clock.
    clock: Sequence[str] = ()
    timed: str = ""


def exec_supervisor(plan: Plan, environment: Mapping[str, str]) -> NoReturn:
    """Replace this process by one that runs the plan."""
    command = [sys.executable, "-P", "-m", "refresh_pipeline.cli.supervisor", json.dumps(asdict(plan))]
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(command[0], command, dict(environment))  # noqa: S606 (our own program)


def supervise(plan: Plan) -> int:
    """Run the programs; when one ends by itself, or on an interrupt, end them all.

    Returns:
        0 after an interrupt, 1 when one ended by itself.
    """
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    # Before any program reads the files: a change while the programs start is a change.
    states = file_states(plan.watched)
    running = {plan.renewed: _started(plan.programs[plan.renewed])}
    _wait_for(Path(plan.ready), running[plan.renewed], stopped)
    running |= {name: _started(command) for name, command in plan.programs.items() if name != plan.renewed}
    ended = _watch(plan, running, states, stopped)
    for process in running.values():
        process.terminate()
    for process in running.values():
        process.wait()
    shutil.rmtree(plan.temporary, ignore_errors=True)
    for name in ended:
        _say(f"The {name} ended by itself with exit code {running[name].returncode}.")
    return 1 if ended else 0


def _watch(
    plan: Plan,
    running: "dict[str, subprocess.Popen[bytes]]",
    states: Mapping[str, tuple[int, int]],
    stopped: threading.Event,
) -> list[str]:
    """Restart the renewed program at every change, until an interrupt or until programs end: their names."""
    ended: list[str] = []
    looks, ready, lead = 0, not plan.port, _lead()
    while not ended and not stopped.wait(timeout=SECONDS_BETWEEN_LOOKS):
        ended = [name for name, process in running.items() if process.poll() is not None]
        looks += 1
        if not ready and (ready := _answers(plan.host, plan.port)):
            _say(f"Ready: http://{plan.host}:{plan.port}")
        before, lead = lead, _lead()
        if not ended and plan.timed and before - lead > SET_BACK:
            _say(f"The clock was set back by {before - lead:.0f} s: restarting the {plan.timed}.")
            _end(running[plan.timed])
            subprocess.run(plan.clock, check=False)  # noqa: S603 (our own program)
            running[plan.timed] = _started(plan.programs[plan.timed])
        if not ended and looks % LOOKS_AT_FILES == 0 and (now := file_states(plan.watched)) != states:
            states = now
            _say(f"Files have changed: restarting the {plan.renewed}.")
            _end(running[plan.renewed])
            running[plan.renewed] = _started(plan.programs[plan.renewed])
    return ended


def _lead() -> float:
    """The lead of the machine's clock over the one that nobody sets."""
    return time.time() - time.monotonic()


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=SECONDS_BETWEEN_LOOKS).close()
    except OSError:
        return False
    return True


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _started(command: Sequence[str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(command)  # noqa: S603 (our own programs, never a user's text)


def _wait_for(file: Path, process: "subprocess.Popen[bytes]", stopped: threading.Event) -> None:
    end = time.monotonic() + SECONDS_TO_WAIT
    while not file.exists() and process.poll() is None and time.monotonic() < end and not stopped.wait(timeout=0.05):
        pass


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    process.wait()


if __name__ == "__main__":
    sys.exit(supervise(Plan(**json.loads(sys.argv[1]))))
