"""What a program and everything it started take of processors and memory, by kind of process, read from /proc."""

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
# Which arguments of a command line, each of them whole, tell the kind of process; what none of them tells is `other`.
STARTER, OTHER = "starter of runs", "other"
KINDS = (
    (("refresh_pipeline.cli.supervisor",), "refresh up"),
    (("refresh_pipeline.front_door",), "web UI"),
    (("dagster_webserver",), "web UI"),
    (("dagster._daemon",), "daemon"),
    (("api", "grpc"), "code server"),
    (("refresh_pipeline.api.serving",), "API"),
    (("refresh_pipeline.instance.fork_server",), STARTER),
    # Where runs are started as Dagster does it.
    (("--multiprocessing-fork",), "run"),
    (("execute_run",), "run"),
)
UNSEEN = "ended between two looks"


@dataclass(frozen=True, slots=True)
class Process:
    """One living process: seconds of processor time of its own, and of children that it has waited for."""

    pid: int
    parent: int
    kind: str
    seconds: float
    waited: float


def tree(root: int) -> list[Process]:
    """A process and everything that came of it and lives, parents first."""
    parents: dict[int, list[int]] = {}
    stats = dict(_all_stats())
    for pid, stat in stats.items():
        parents.setdefault(int(stat[1]), []).append(pid)
    found: list[Process] = []
    waiting = [(root, "")]
    while waiting:
        pid, above = waiting.pop(0)
        if pid in stats:
            found.append(_process(pid, stats[pid], above))
            waiting += [(child, found[-1].kind) for child in parents.get(pid, [])]
    return found


def _process(pid: int, stat: list[str], above: str) -> Process:
    user, system, waited_user, waited_system = (int(each) / TICKS_A_SECOND for each in stat[11:15])
    return Process(pid, int(stat[1]), kind_of(_command(pid), above), user + system, waited_user + waited_system)


def kind_of(command: str, above: str) -> str:
    r"""The kind of a process by its command line, its parts apart by NUL, and by the kind of its parent.

    >>> kind_of("python\0-m\0dagster\0api\0grpc\0", above="refresh up"), kind_of("git\0status\0", above="daemon")
    ('code server', 'other')
    >>> kind_of("python\0-m\0refresh_pipeline.instance.fork_server\0", above="starter of runs")
    'run'
    """
    arguments = set(command.split("\0"))
    kind = next((kind for parts, kind in KINDS if arguments.issuperset(parts)), OTHER if command else "")
    # A fork of the starter has its command line.
    return "run" if kind == above == STARTER else kind


def _all_stats() -> Iterator[tuple[int, list[str]]]:
    for folder in os.listdir("/proc"):
        if folder.isdigit():
            try:
                text = Path(f"/proc/{folder}/stat").read_text()
            except OSError:
                continue
            # The name of the program, in brackets, may hold anything.
            yield int(folder), text.rpartition(")")[2].split()


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


@dataclass(frozen=True, slots=True)
class ChannelState:
    """Megabytes of all processes at one moment: their own share of pages (PSS), and with shared pages counted anew."""

    pss: Mapping[str, float] = field(default_factory=dict)
    rss: Mapping[str, float] = field(default_factory=dict)

    @property
    def pss_sum(self) -> float:
        """Of all kinds."""
        return sum(self.pss.values())

    @property
    def rss_sum(self) -> float:
        """Of all kinds."""
        return sum(self.rss.values())


def memory_of(processes: list[Process]) -> ChannelState:
    """By kind; a process that is gone by now has none."""
    pss, rss = defaultdict[str, float](float), defaultdict[str, float](float)
    for process in processes:
        said = _rollup(process.pid)
        pss[process.kind] += said.get("Pss", 0.0)
        rss[process.kind] += said.get("Rss", 0.0)
    return ChannelState(dict(pss), dict(rss))


def _rollup(pid: int) -> dict[str, float]:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return {}
    fields = (line.split() for line in lines if line.startswith(("Pss:", "Rss:")))
    return {name.rstrip(":"): int(kilobytes) / 1024 for name, kilobytes, *_ in fields}


class Watch:
    """Processor time and memory of a program and its children, seen from look to look."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._seen: dict[int, Process] = {}
        self._before: dict[int, float] = {}
        self._total_before = 0.0
        self.peak = ChannelState()

    def begin(self) -> None:
        """From here on it counts."""
        now = tree(self._root)
        self._before = {each.pid: each.seconds for each in now}
        self._seen = {each.pid: each for each in now}
        self._total_before = _total(now)
        self.peak = ChannelState()

    def look(self, memory: bool) -> None:
        """See who is there and what they have used; memory costs some milliseconds more."""
        now = self._seen_now()
        if memory:
            seen = memory_of(now)
            self.peak = max(self.peak, seen, key=lambda each: each.pss_sum)

    def seconds(self) -> dict[str, float]:
        """Processor time by kind since the beginning, with what no look has seen as a kind of its own."""
        now = self._seen_now()
        spent = defaultdict[str, float](float)
        for pid, process in self._seen.items():
            spent[process.kind] += process.seconds - self._before.get(pid, 0.0)
        spent[UNSEEN] = max(_total(now) - self._total_before - sum(spent.values()), 0.0)
        return dict(spent)

    def _seen_now(self) -> list[Process]:
        now = [self._known(each) for each in tree(self._root)]
        self._seen |= {each.pid: each for each in now}
        return now

    def _known(self, process: Process) -> Process:
        # One that has ended and is not waited for yet has no command line any more.
        before = self._seen.get(process.pid)
        return replace(process, kind=before.kind) if before and not process.kind else process


def _total(processes: list[Process]) -> float:
    return sum(each.seconds + each.waited for each in processes)
