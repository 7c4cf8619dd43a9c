"""Programs side by side until one ends or somebody interrupts: what `refresh up` turns into once all is prepared.

Only the standard library: it waits for days and should take as little memory as that needs.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

SECONDS_BETWEEN_LOOKS = 0.5
# How long the others wait for the first program at most.
SECONDS_TO_WAIT = 60.0
# Looks between two at the watched files.
LOOKS_AT_FILES = 10
# Folders that nobody writes code or YAML in.
SKIPPED = {"__pycache__", ".git", ".venv"}


@dataclass(frozen=True)
class Plan:
    """What to run, and which of the programs is started anew when a watched file or folder changes.

    That one is started first, and the others once the file `ready` is there: who looks for it in vain would look
    again a minute later.
    """

    programs: Mapping[str, Sequence[str]]
    renewed: str
    ready: str
    watched: Sequence[str]
    # A folder that is of no use once they have ended.
    temporary: str


def exec_supervisor(plan: Plan, environment: Mapping[str, str]) -> NoReturn:
    """Let this process run a plan, and be nothing else any more."""
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
    # Before anything reads them: what changes while the programs start is a change.
    looks, seen = 0, state_of(plan.watched)
    running = {plan.renewed: _started(plan.programs[plan.renewed])}
    _wait_for(Path(plan.ready), running[plan.renewed], stopped)
    running |= {name: _started(command) for name, command in plan.programs.items() if name != plan.renewed}
    ended: list[str] = []
    while not ended and not stopped.wait(timeout=SECONDS_BETWEEN_LOOKS):
        ended = [name for name, process in running.items() if process.poll() is not None]
        looks += 1
        if not ended and looks % LOOKS_AT_FILES == 0 and (now := state_of(plan.watched)) != seen:
            seen = now
            print(f"Changed on disk: the {plan.renewed} is started anew.", file=sys.stderr, flush=True)
            _end(running[plan.renewed])
            running[plan.renewed] = _started(plan.programs[plan.renewed])
    for process in running.values():
        process.terminate()
    for process in running.values():
        process.wait()
    shutil.rmtree(plan.temporary, ignore_errors=True)
    for name in ended:
        print(f"The {name} ended by itself with exit code {running[name].returncode}.", file=sys.stderr)
    return 1 if ended else 0


def _started(command: Sequence[str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(command)  # noqa: S603 (our own programs, never a user's text)


def _wait_for(file: Path, process: "subprocess.Popen[bytes]", stopped: threading.Event) -> None:
    end = time.monotonic() + SECONDS_TO_WAIT
    while not file.exists() and process.poll() is None and time.monotonic() < end and not stopped.wait(timeout=0.05):
        pass


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    process.wait()


def state_of(watched: Sequence[str]) -> dict[str, tuple[int, int]]:
    """When each watched file, or file in a watched folder, was last written, and how long it is."""
    found = {}
    for path in (file for name in watched for file in _files(Path(name))):
        try:
            about = path.stat()
        except OSError:
            continue
        found[str(path)] = (about.st_mtime_ns, about.st_size)
    return found


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = []
    for folder, folders, names in os.walk(path):
        folders[:] = [name for name in folders if name not in SKIPPED]
        found += [Path(folder) / name for name in names if not name.endswith(".pyc")]
    return found


if __name__ == "__main__":
    sys.exit(supervise(Plan(**json.loads(sys.argv[1]))))
