"""Programs as somebody types them: started where the test stands, with its environment, ended in time."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Far above what any of them takes on a busy machine.
PATIENCE = 120


def installed(name: str) -> str:
    """A program that was installed beside this Python: refresh or dagster."""
    return str(Path(sys.executable).with_name(name))


def free_port() -> int:
    """A port on loopback that nobody listens on."""
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return door.getsockname()[1]


def finished(*command: str) -> subprocess.CompletedProcess[str]:
    """A program, run to its end."""
    return subprocess.run(
        [installed(command[0]), *command[1:]], capture_output=True, text=True, timeout=PATIENCE, check=False
    )


@contextmanager
def running(*command: str) -> Iterator[subprocess.Popen[str]]:
    """A program at work, and whatever it starts; all of it is gone afterwards."""
    process = subprocess.Popen(
        [installed(command[0]), *command[1:]],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with process:
            end_session(process)


def end_session(process: subprocess.Popen[str]) -> None:
    """Kill a program and everything that it has started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
