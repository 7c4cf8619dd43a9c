"""The hour itself: the real daemon against the venue, whatever is killed at random and started anew, and what is seen.

The daemon is started as a service would start it, by `dagster-daemon run`, and it alone starts runs. All moments are
drawn from a seed, but how far the work is by then is the machine's affair: what is proven must hold anyhow.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg

from refresh_pipeline.instance.orphaned_runs import GOING
from refresh_pipeline.market.model import Market
from refresh_pipeline.settings import shipped
from refresh_pipeline_tests.end_to_end.programs import installed
from refresh_pipeline_tests.project_folder import World
from refresh_pipeline_tests.soak import proof

REPOSITORY = Path(__file__).resolve().parents[2]
YAML = """
name: soak
source: {{kind: binance, base_url: "http://127.0.0.1:{port}"}}
calendar: crypto
instruments: [BTC/USDT, ETH/USDT, SOL/USDT, XRP/USDT]
timeframes: [m1, m5]
history: {{m1: 6h, m5: 1d}}
"""
HISTORY = timedelta(hours=6)
SHARE_OF_FAULTS = 0.15
# Seconds: between two kills on average, until what was killed comes back, between two samples of memory.
BETWEEN_KILLS = 45.0
AWAY = (2.0, 45.0)
BETWEEN_SAMPLES = 10.0
# A run is killed at some moment of its life, not at its first.
CHANCE_PER_LOOK = 0.15
# Everything at once is for when a run is at work: then nobody is left to tell that it is gone.
WEIGHTS = {"run": 10, "venue": 6, "daemon": 1, "everything": 3}
# After the last kill: a run that never started is given up after 3 minutes, and the venue is asked ever more rarely.
CATCHING_UP = 900.0
# A run that was killed before it had begun holds the next one up for so long; the rest is a busy machine's.
LONGEST_RUN = 600.0


@contextmanager
def venue_at(port: int, seed: int, share: float) -> Iterator[subprocess.Popen[str]]:
    """The venue in a process of its own, answering when the block begins and gone when it ends."""
    command = [sys.executable, "-m", "refresh_pipeline_tests.soak.venue", str(port), str(seed), str(share)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().strip() == f"http://127.0.0.1:{port}", "the venue did not start"
            yield process
        finally:
            process.kill()


def processes_of(home: Path) -> dict[int, str]:
    """Every living process with this DAGSTER_HOME that is the daemon, its code server or a run."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"DAGSTER_HOME={home}\0".encode() in (folder / "environ").read_bytes():
                found[int(folder.name)] = _role((folder / "cmdline").read_bytes().decode())
        except OSError:
            # Somebody else's, or just gone.
            continue
    return {pid: role for pid, role in found.items() if role}


def _role(command: str) -> str:
    for part, role in (("dagster-daemon", "daemon"), ("api\0grpc", "code server"), ("spawn_main", "run")):
        if part in command:
            return role
    return ""


def megabytes_of(pid: int) -> float:
    """A process's resident memory, 0 for one that is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS")), 0.0)


def kill(pid: int) -> None:
    """End a process without asking."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def longest_run(instance: dg.DagsterInstance) -> float:
    """How many seconds the longest run has been going, or went, since it was asked for."""
    now = time.time()
    records = instance.get_run_records()
    return max(((each.end_time or now) - each.create_timestamp.timestamp() for each in records), default=0.0)


@dataclass
class Hour:
    """A daemon and a venue at work in a folder, for as long as the block lasts."""

    world: World
    port: int
    seed: int
    say: Callable[[str], None]
    kills: Counter[str] = field(default_factory=Counter)
    megabytes: dict[str, list[float]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.home = self.world.root / "data" / "dagster"
        self._venue = venue_at(self.port, self.seed, SHARE_OF_FAULTS)
        self._daemon: subprocess.Popen[bytes] | None = None
        # What is away, and when it comes back.
        self._back: dict[str, float] = {}

    # ---- starting and ending

    @contextmanager
    def at_work(self) -> Iterator[dg.DagsterInstance]:
        """The venue and the daemon started; everything that came of them ended, whatever happens."""
        shutil.copy(shipped("workspace.yaml"), self.world.root)
        with self.world.dagster() as instance:
            try:
                self._venue.__enter__()
                self._start_daemon()
                yield instance
            finally:
                self._end()

    def _start_daemon(self) -> None:
        with (self.world.root / "daemon.log").open("ab") as log:
            self._daemon = subprocess.Popen(
                [installed("dagster-daemon"), "run", "-w", "workspace.yaml"],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _start_venue(self, share: float) -> None:
        self._venue.__exit__(None, None, None)
        self._venue = venue_at(self.port, self.random.randrange(2**31), share)
        self._venue.__enter__()

    def _end(self) -> None:
        for pid in processes_of(self.home):
            kill(pid)
        if self._daemon is not None:
            self._daemon.wait()
        self._venue.__exit__(None, None, None)

    # ---- the chaos

    def rage(self, instance: dg.DagsterInstance, minutes: float) -> None:
        """Kill at random for so many minutes; everything is back at the end, and the venue without faults."""
        began = time.monotonic()
        next_kill, next_sample, minute = began + self._pause(), began, 1
        target = self._draw()
        while (now := time.monotonic()) < began + 60 * minutes:
            self._bring_back(now)
            if now >= next_kill and self._strike(target, now):
                next_kill, target = now + self._pause(), self._draw()
            if now >= next_sample:
                self._sample()
                next_sample = now + BETWEEN_SAMPLES
            if now >= began + 60 * minute:
                self.say(f"minute {minute}: {self.told(instance)}")
                minute += 1
            time.sleep(self.random.uniform(0.3, 1.0))
        self._bring_back(float("inf"))
        self._start_venue(share=0.0)

    def _pause(self) -> float:
        return self.random.expovariate(1 / BETWEEN_KILLS)

    def _draw(self) -> str:
        return self.random.choices([*WEIGHTS], [*WEIGHTS.values()])[0]

    def _strike(self, target: str, now: float) -> bool:
        """Kill what is meant; False where it is not there now, or its moment has not come."""
        found = processes_of(self.home)
        runs = [pid for pid, role in found.items() if role == "run"]
        if target in ("run", "everything") and (not runs or self.random.random() > CHANCE_PER_LOOK):
            return False
        daemons = [pid for pid, role in found.items() if role == "daemon"]
        if target in ("daemon", "everything") and not daemons:
            return False
        if target == "venue":
            self._venue.__exit__(None, None, None)
        for pid in {"venue": [], "run": runs[:1], "daemon": daemons, "everything": [*found]}[target]:
            kill(pid)
        if target != "run":
            self._back["venue" if target == "venue" else "daemon"] = now + self.random.uniform(*AWAY)
        self.kills[target] += 1
        return True

    def _bring_back(self, now: float) -> None:
        if "daemon" not in self._back and self._daemon is not None and self._daemon.poll() is not None:
            self.faults.append(f"the daemon ended by itself with exit code {self._daemon.returncode}")
            self._back["daemon"] = now
        for name in [name for name, at in self._back.items() if at <= now]:
            del self._back[name]
            if name == "daemon":
                if self._daemon is not None:
                    self._daemon.wait()
                self._start_daemon()
            else:
                self._start_venue(SHARE_OF_FAULTS)

    # ---- what is seen

    def _sample(self) -> None:
        for pid, role in processes_of(self.home).items():
            if megabytes := megabytes_of(pid):
                self.megabytes.setdefault(f"{role} {pid}", []).append(megabytes)

    def told(self, instance: dg.DagsterInstance) -> str:
        """How it stands, on one line."""
        statuses = Counter(run.status.value.lower() for run in instance.get_runs())
        most = {
            role: max((max(own) for name, own in self.megabytes.items() if name.rpartition(" ")[0] == role), default=0)
            for role in ("daemon", "code server", "run")
        }
        parts = [
            "runs " + (", ".join(f"{count} {status}" for status, count in sorted(statuses.items())) or "none"),
            "kills " + (", ".join(f"{count} {name}" for name, count in sorted(self.kills.items())) or "none"),
            "memory at most " + ", ".join(f"{role} {megabytes:.0f} MB" for role, megabytes in most.items()),
            f"longest run {longest_run(instance):.0f} s",
            f"Dagster's databases {self.log_kilobytes} kB",
        ]
        return "; ".join(parts)

    @property
    def log_kilobytes(self) -> int:
        """What Dagster's databases take on the disk."""
        return sum(file.stat().st_size for file in self.home.rglob("*.db*") if file.is_file()) // 1024

    # ---- the end

    def prove(self, instance: dg.DagsterInstance, market: Market) -> list[str]:
        """Wait until everything that will have closed in a minute is there, and say what is wrong."""
        # So that at least one more tick has to come.
        now = datetime.now(UTC) + timedelta(minutes=1)
        faults = [*self.faults, *self._caught_up(instance, market, now)]
        self._let_runs_end(instance)
        runs = instance.get_runs_count()
        self._daemon_ends()
        faults += proof.run_faults(instance, time.time())
        if (longest := longest_run(instance)) > LONGEST_RUN:
            faults.append(f"a run was going for {longest:.0f} s, at most {LONGEST_RUN:.0f} are expected")
        faults += proof.memory_faults(self.megabytes)
        faults += proof.log_faults(self.log_kilobytes, runs)
        return faults

    def _caught_up(self, instance: dg.DagsterInstance, market: Market, now: datetime) -> Iterator[str]:
        deadline = time.monotonic() + CATCHING_UP
        warehouse = self.world.warehouse
        while time.monotonic() < deadline:
            time.sleep(5)
            self._bring_back(time.monotonic())
            self._sample()
            if not warehouse.exists:
                continue
            # As long as it is open nobody writes: what is proven is one state of everything.
            with warehouse.reader() as connection:
                if not proof.is_behind(connection, market, now):
                    self.say(f"caught up with {now:%H:%M} UTC at {datetime.now(UTC):%H:%M:%S}")
                    # The first refresh that got through may have been the last one, and history hangs on its time.
                    yield from proof.candle_faults(connection, market, datetime.now(UTC) - HISTORY, now)
                    yield from proof.table_faults(connection, market)
                    return
        yield f"{CATCHING_UP:.0f} s after the last kill not everything was there"

    def _let_runs_end(self, instance: dg.DagsterInstance) -> None:
        deadline = time.monotonic() + LONGEST_RUN
        while time.monotonic() < deadline and instance.get_runs_count(dg.RunsFilter(statuses=GOING)):
            time.sleep(0.5)

    def _daemon_ends(self) -> None:
        assert self._daemon is not None
        self._daemon.terminate()
        self._daemon.wait(timeout=120)
        deadline = time.monotonic() + 60
        while processes_of(self.home) and time.monotonic() < deadline:
            time.sleep(0.5)
        for pid, role in processes_of(self.home).items():
            self.faults.append(f"a {role} outlived the daemon by a minute")
            kill(pid)
