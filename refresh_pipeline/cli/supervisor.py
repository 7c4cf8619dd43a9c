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
import textwrap
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

from refresh_pipeline.cli.watchdog import Watchdog
from refresh_pipeline.instance.file_states import file_states

INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SECONDS_BETWEEN_LOOKS = 0.5
# How long the others wait for the first program at most.
SECONDS_TO_WAIT = 60.0
# Looks at the programs between two looks at the watched files.
LOOKS_AT_FILES = 10
# A companion that ran for so many seconds had started well: its next end is its first.
STARTED_WELL = 300.0
# Where Linux lists processes.
PROCESSES = Path("/proc")
# Seconds by which the clock must be set back at once to count as wrong before.
SET_BACK = 30.0

# The sessions of all programs that were started, restarts included; each is led by the program.
_sessions: list[int] = []


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
    # Programs that are restarted after they have ended by themselves: the others go on.
    companions: Sequence[str] = ()
    # Those of them that are restarted with the renewed one as well, unless only files changed that they follow.
    renewed_too: Sequence[str] = ()
    followed: Sequence[str] = ()
    # Seconds before each restart of a companion that ended soon after its start; after the last one it stays off.
    pauses: Sequence[float] = (3.0, 6.0, 12.0, 24.0, 48.0, 96.0, 192.0)
    # Seconds that a program may take to end: a code server waits for runs that it started, and starts no others.
    longest_end: float = 60.0
    # Where the web UI answers once it is ready.
    host: str = "127.0.0.1"
    port: int = 0
    # The command that exits with 0 once the web UI has loaded the markets, and prints why not otherwise.
    loaded: Sequence[str] = ()
    # Seconds between two times of running it.
    ask_again: float = 10.0
    # The command to run when the clock is set back, and the program to restart after it, which waits by that clock.
    clock: Sequence[str] = ()
    timed: str = ""
    # The command that ends runs, with the seconds they have and the sessions of all programs that were started.
    end_runs: Sequence[str] = ()
    # Dagster's folder, and the command that tells the alert channels a title and a text.
    home: str = ""
    alert: Sequence[str] = ()


def exec_supervisor(plan: Plan, environment: Mapping[str, str]) -> NoReturn:
    """Replace this process by one that runs the plan."""
    command = [sys.executable, "-P", "-m", "refresh_pipeline.cli.supervisor", json.dumps(asdict(plan))]
    sys.stdout.flush()
    sys.stderr.flush()
    # An interrupt waits until the new program can end in order.
    signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPTS)
    os.execve(command[0], command, dict(environment))  # noqa: S606 (our own program)


def supervise(plan: Plan) -> int:
    """Run the programs; when one ends by itself, when Dagster's files are gone, or on an interrupt, end them all.

    Returns:
        0 after an interrupt, 1 otherwise; the alert channels are told of it.
    """
    stopped = threading.Event()
    for number in INTERRUPTS:
        signal.signal(number, lambda *_: stopped.set())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, INTERRUPTS)
    # Before any program reads the files: a change while the programs start is a change.
    states = file_states(plan.watched)
    running = {plan.renewed: _started(plan.programs[plan.renewed])}
    _wait_for(Path(plan.ready), running[plan.renewed], stopped)
    running |= {name: _started(command) for name, command in plan.programs.items() if name != plan.renewed}
    watchdog = Watchdog(plan.home, plan.alert)
    reasons = _watch(plan, running, states, stopped, watchdog)
    if not reasons:
        _say("Stopping the programs.")
    # The others complain at length about a code server that is gone: it ends last.
    _end_all([process for name, process in running.items() if name != plan.renewed], plan.longest_end)
    _end_runs(plan, running[plan.renewed])
    _end_all([running[plan.renewed]], plan.longest_end)
    _kill_what_remains()
    shutil.rmtree(plan.temporary, ignore_errors=True)
    for reason in reasons:
        _say(reason)
    if reasons:
        watchdog.send("refresh up has ended", " ".join(reasons))
    watchdog.wait()
    return 1 if reasons else 0


class _Companions:
    """Restarts companions that ended by themselves, ever later, and gives one up that never starts well."""

    def __init__(self, plan: Plan, running: "dict[str, subprocess.Popen[bytes]]", watchdog: Watchdog) -> None:
        self._plan, self._running, self._watchdog = plan, running, watchdog
        self._started = dict.fromkeys(plan.companions, time.monotonic())
        # How often each ended soon after its start, and when it is started again; None where it stays off.
        self._ends = dict.fromkeys(plan.companions, 0)
        self._again: dict[str, float | None] = {}

    def forget(self) -> None:
        """All of them were started anew, for a reason that may mend what was wrong."""
        self._started = dict.fromkeys(self._plan.companions, time.monotonic())
        self._ends, self._again = dict.fromkeys(self._plan.companions, 0), {}

    def look(self) -> None:
        """Note which have ended, and restart those whose pause is over."""
        now = time.monotonic()
        for name in self._plan.companions:
            if self._running[name].poll() is None:
                continue
            if name not in self._again:
                self._again[name] = self._next_start(name, now)
            elif (at := self._again[name]) is not None and now >= at:
                del self._again[name]
                self._running[name], self._started[name] = _started(self._plan.programs[name]), now

    def _next_start(self, name: str, now: float) -> float | None:
        self._ends[name] = 1 if now - self._started[name] >= STARTED_WELL else self._ends[name] + 1
        ended = _end_of(name, self._running[name])
        if self._ends[name] > len(self._plan.pauses):
            last = f"{ended} It was started {self._ends[name]} times and stays off: mend it, then restart refresh up."
            _say(last)
            self._watchdog.send(f"the {name} stays off", last)
            return None
        pause = self._plan.pauses[self._ends[name] - 1]
        _say(f"{ended} Restarting it in {pause:g} s.")
        return now + pause


class _Readiness:
    """Says once that the web UI answers with the markets loaded; before that why they are not, each reason once."""

    def __init__(self, plan: Plan) -> None:
        self._plan, self._url = plan, f"http://{plan.host}:{plan.port}"
        self._is_ready = not plan.port
        self._question: subprocess.Popen[str] | None = None
        self._ask_at, self._reason = 0.0, ""

    def look(self) -> None:
        """Ask, or hear the answer to what was asked; never waits for it."""
        if self._is_ready:
            return
        if self._question is not None:
            if self._question.poll() is not None:
                reason, _ = self._question.communicate()
                self._hear(reason, self._question.returncode)
        elif time.monotonic() >= self._ask_at and _answers(self._plan.host, self._plan.port):
            if self._plan.loaded:
                command = self._plan.loaded
                self._question = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)  # noqa: S603
            else:
                self._ready()

    def renew(self) -> None:
        """The markets are being loaded anew: say how that ends."""
        self.close()
        # The web UI notices after a moment, and shows the former ones until then.
        self._is_ready, self._reason = not self._plan.loaded, ""
        self._ask_at = time.monotonic() + self._plan.ask_again

    def close(self) -> None:
        """Wait for no answer any more."""
        if self._question is not None:
            self._question.kill()
            self._question.communicate()
            self._question = None

    def _hear(self, reason: str, code: int) -> None:
        self._question, self._ask_at = None, time.monotonic() + self._plan.ask_again
        if code == 0:
            self._ready()
        elif reason and reason != self._reason:
            self._reason = reason
            _say(f"The web UI answers at {self._url}, but the markets are not loaded: {reason}")

    def _ready(self) -> None:
        self._is_ready = True
        _say(f"Ready: {self._url}")


def _end_all(running: "Sequence[subprocess.Popen[bytes]]", longest: float) -> None:
    for process in running:
        process.terminate()
    for process in running:
        try:
            process.wait(longest)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _end_runs(plan: Plan, renewed: "subprocess.Popen[bytes]") -> None:
    """Runs are processes of their own, which outlive the daemon that started them: cancel them."""
    if plan.end_runs and (not PROCESSES.exists() or _members() != [renewed.pid]):
        command = [*plan.end_runs, str(plan.longest_end), *map(str, _sessions)]
        # Opening Dagster's storages takes its time on a busy machine, besides the runs' ends.
        with suppress(subprocess.TimeoutExpired):
            subprocess.run(command, check=False, start_new_session=True, timeout=2 * plan.longest_end)  # noqa: S603


def _kill_what_remains() -> None:
    """No process of any program outlives this one."""
    remaining = _members()
    for pid in remaining:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    if remaining:
        _say(f"Killed processes that had not ended: {', '.join(map(str, remaining))}.")


def _members() -> list[int]:
    """The processes in the sessions of all programs, where the system lists processes."""
    members = []
    for folder in PROCESSES.glob("[0-9]*"):
        try:
            state, _, _, session, *_ = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        # A zombie has ended.
        if int(session) in _sessions and state not in "ZX":
            members.append(int(folder.name))
    return sorted(members)


def _watch(
    plan: Plan,
    running: "dict[str, subprocess.Popen[bytes]]",
    states: Mapping[str, tuple[int, int]],
    stopped: threading.Event,
    watchdog: Watchdog,
) -> list[str]:
    """Restart the renewed program at every change, until an interrupt or until there is a reason to end."""
    ended: list[str] = []
    looks, readiness, lead = 0, _Readiness(plan), _lead()
    companions = _Companions(plan, running, watchdog)
    while not ended and not stopped.wait(timeout=SECONDS_BETWEEN_LOOKS):
        looks += 1
        companions.look()
        ended = [
            _end_of(name, process)
            for name, process in running.items()
            if process.poll() is not None and name not in plan.companions
        ]
        if not ended and looks % LOOKS_AT_FILES == 0 and (reason := watchdog.look()):
            ended = [reason]
        readiness.look()
        before, lead = lead, _lead()
        if not ended and plan.timed and before - lead > SET_BACK:
            _say(f"The clock was set back by {before - lead:.0f} s: restarting the {plan.timed}.")
            if not _has_ended(running[plan.timed], plan.longest_end, stopped):
                break
            subprocess.run(plan.clock, check=False)  # noqa: S603 (our own program)
            running[plan.timed] = _started(plan.programs[plan.timed])
        if not ended and looks % LOOKS_AT_FILES == 0 and (now := file_states(plan.watched)) != states:
            changed = {path for path, _ in now.items() ^ states.items()}
            states = now
            names = [plan.renewed, *(plan.renewed_too if changed - set(plan.followed) else ())]
            _say(f"Files have changed: restarting the {' and the '.join(names)}.")
            for name in names:
                if not _has_ended(running[name], plan.longest_end, stopped):
                    break
                running[name] = _started(plan.programs[name])
            companions.forget()
            readiness.renew()
    readiness.close()
    return ended


def _lead() -> float:
    """The lead of the machine's clock over the one that nobody sets."""
    return time.time() - time.monotonic()


def _end_of(name: str, process: "subprocess.Popen[bytes]") -> str:
    return f"The {name} ended by itself with exit code {process.returncode}."


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=SECONDS_BETWEEN_LOOKS).close()
    except OSError:
        return False
    return True


def _say(text: str) -> None:
    # Whoever read the messages may be gone, as after Ctrl-C in a pipe; the programs are ended in order all the same.
    with suppress(OSError):
        if sys.stderr.isatty():
            width = shutil.get_terminal_size().columns
            text = textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False)
        print(text, file=sys.stderr, flush=True)


def _started(command: Sequence[str]) -> "subprocess.Popen[bytes]":
    # In a session of its own: Ctrl-C reaches the parent alone, which ends the others in order.
    process = subprocess.Popen(command, start_new_session=True)  # noqa: S603 (our own programs, never a user's text)
    _sessions.append(process.pid)
    return process


def _wait_for(file: Path, process: "subprocess.Popen[bytes]", stopped: threading.Event) -> None:
    end = time.monotonic() + SECONDS_TO_WAIT
    while not file.exists() and process.poll() is None and time.monotonic() < end and not stopped.wait(timeout=0.05):
        pass


def _has_ended(process: "subprocess.Popen[bytes]", longest: float, stopped: threading.Event) -> bool:
    """End a program that is to be restarted, by force after so many seconds; False after an interrupt."""
    process.terminate()
    end = time.monotonic() + longest
    while process.poll() is None and not stopped.wait(timeout=0.05):
        if time.monotonic() >= end:
            process.kill()
            process.wait()
    return not stopped.is_set()


if __name__ == "__main__":
    sys.exit(supervise(Plan(**json.loads(sys.argv[1]))))
