"""The hour itself: the real daemon against the venue, processes killed at random and started anew, and what is seen.

The daemon is started as a service would start it, by `dagster-daemon run`, and it alone starts runs. Targets and
moments are drawn from a seed, but how far the work is by then is the machine's affair: what is proven must hold anyhow.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import typer

from refresh_pipeline.cli.app import app
from refresh_pipeline.instance.orphaned_runs import GOING, process_here
from refresh_pipeline.market.model import Market
from refresh_pipeline.settings import shipped
from refresh_pipeline_tests.end_to_end.programs import free_port, installed
from refresh_pipeline_tests.project_folder import World
from refresh_pipeline_tests.soak import proof
from refresh_pipeline_tests.soak.crowd import Crowd
from refresh_pipeline_tests.soak.processes import (
    API,
    CHORE,
    CODE_SERVER,
    DAEMON,
    FORK_SERVER,
    ROLES,
    RUN,
    kill,
    megabytes_of,
    processes_of,
    run_processes,
)

REPOSITORY = Path(__file__).resolve().parents[2]
YAML = """
name: soak
source: {{kind: binance, base_url: "http://127.0.0.1:{port}"}}
calendar: crypto
instruments: [BTC/USDT, ETH/USDT, SOL/USDT, XRP/USDT]
timeframes: [m1, m5]
history: {{m1: 6h, m5: 1d}}
publish: 5m
"""
# With this line the market is streamed, and refreshed once an hour.
LIVE, LIVE_JOB = "live: true\n", "soak_live"
HISTORY = timedelta(hours=6)
SHARE_OF_FAULTS = 0.15
# Seconds: between two kills on average, until a killed program comes back, between two samples of memory.
BETWEEN_KILLS = 15.0
AWAY = (2.0, 30.0)
BETWEEN_SAMPLES = 10.0
# A run is killed at some moment of its life, not at its first.
CHANCE_PER_LOOK = 0.25
VENUE, EVERYTHING = "venue", "everything"
# One round of kills, in random order. Everything at once is for when a run is at work: no process is left to report it.
ROUND = (RUN, RUN, VENUE, VENUE, DAEMON, CODE_SERVER, FORK_SERVER, CHORE, EVERYTHING)
# A run is at work for a part of each minute only: then it is the next one's turn.
RARE = (RUN, CHORE, EVERYTHING)
# Seconds without a kill after which everything is killed without a run: on a busy machine runs start rarely.
LONGEST_WAIT = 60.0
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


def has_api() -> bool:
    """Whether this version has the command that serves the API."""
    return "serve" in typer.main.get_group(app).commands


def longest_run(instance: dg.DagsterInstance) -> float:
    """How many seconds the longest run has been going, or went, since it was asked for; a live run lasts an hour."""
    now = time.time()
    records = [record for record in instance.get_run_records() if record.dagster_run.job_name != LIVE_JOB]
    return max(((record.end_time or now) - record.create_timestamp.timestamp() for record in records), default=0.0)


class KillPlan:
    """The order of kills: rounds in random order, in which a target that is not there waits for its turn."""

    def __init__(self, random: random.Random, targets: Sequence[str]) -> None:
        self._random, self._targets = random, targets
        self._waiting: list[str] = []

    def next(self, present: Collection[str]) -> str | None:
        """The next target out of those that are present now; None where the rest of the round is absent."""
        if not self._waiting:
            drawn = self._random.sample(self._targets, len(self._targets))
            self._waiting = sorted(drawn, key=lambda target: target not in RARE)
        target = next((target for target in self._waiting if target in present), None)
        if target:
            self._waiting.remove(target)
        return target


@dataclass
class Hour:
    """A daemon, the API if there is one, and a venue at work in a folder, for as long as the block lasts."""

    world: World
    port: int
    seed: int
    say: Callable[[str], None]
    # Killed processes by role, and how often everything was killed at once.
    kills: Counter[str] = field(default_factory=Counter)
    megabytes: dict[str, list[float]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.home = self.world.root / "data" / "dagster"
        self.roles = [role for role in ROLES if role != API or has_api()]
        self._plan = KillPlan(self.random, [*ROUND, *({API} & {*self.roles})])
        self._venue = venue_at(self.port, self.seed, SHARE_OF_FAULTS)
        self._commands = {DAEMON: [installed("dagster-daemon"), "run", "-w", "workspace.yaml"]}
        port = free_port()
        if API in self.roles:
            self._commands[API] = [installed("refresh"), "serve", "--port", str(port)]
        self._crowd = Crowd(port, self.world.root, self.world.market, self.seed, datetime.now(UTC))
        self._programs: dict[str, subprocess.Popen[bytes]] = {}
        self._killed_at = time.monotonic()
        # The programs that are away, and when they come back.
        self._back: dict[str, float] = {}

    # ---- starting and ending

    @contextmanager
    def at_work(self) -> Iterator[dg.DagsterInstance]:
        """The venue and the programs started; everything that came of them ended, whatever happens."""
        shutil.copy(shipped("workspace.yaml"), self.world.root)
        with self.world.dagster() as instance:
            try:
                self._venue.__enter__()
                for name in self._commands:
                    self._start(name)
                with self._crowd.at_work():
                    yield instance
            finally:
                self._end()

    def _start(self, name: str) -> None:
        with (self.world.root / f"{name}.log").open("ab") as log:
            self._programs[name] = subprocess.Popen(
                self._commands[name], stdout=log, stderr=log, start_new_session=True
            )

    def _start_venue(self, share: float) -> None:
        self._venue.__exit__(None, None, None)
        self._venue = venue_at(self.port, self.random.randrange(2**31), share)
        self._venue.__enter__()

    def _end(self) -> None:
        for pid in processes_of(self.home):
            kill(pid)
        for program in self._programs.values():
            program.wait()
        self._venue.__exit__(None, None, None)

    # ---- the chaos

    def rage(self, instance: dg.DagsterInstance, minutes: float) -> None:
        """Kill at random for so many minutes; everything is back at the end, and the venue without faults.

        On a busy machine that starts runs too rarely to kill enough of them, for up to twice as long.
        """
        began = time.monotonic()
        next_kill, next_sample, minute = began + self._pause(), began, 1
        while (now := time.monotonic()) < began + 60 * (minutes if not self._kill_faults(minutes) else 2 * minutes):
            self._bring_back(now)
            if now >= next_kill and self._strike(instance, now):
                next_kill = now + self._pause()
            if now >= next_sample:
                self._sample(instance)
                next_sample = now + BETWEEN_SAMPLES
            if now >= began + 60 * minute:
                self.say(f"minute {minute}: {self.state(instance)}")
                minute += 1
            time.sleep(self.random.uniform(0.3, 1.0))
        self._bring_back(float("inf"))
        self._start_venue(share=0.0)
        self.faults += self._kill_faults(minutes)

    def _kill_faults(self, minutes: float) -> list[str]:
        return proof.kill_faults(self.kills, [*self.roles, VENUE, EVERYTHING], minutes)

    def _pause(self) -> float:
        return self.random.expovariate(1 / BETWEEN_KILLS)

    def _strike(self, instance: dg.DagsterInstance, now: float) -> bool:
        """Kill the next target; False where none is there now, or its moment has not come."""
        processes = processes_of(self.home, run_processes(instance))
        present = {*processes.values()}
        if self.random.random() > CHANCE_PER_LOOK:
            present.discard(RUN)
        is_late = now - self._killed_at > LONGEST_WAIT
        if present >= {RUN, DAEMON} or (is_late and DAEMON in present):
            present.add(EVERYTHING)
        if VENUE not in self._back:
            present.add(VENUE)
        target = self._plan.next(present)
        if target == VENUE:
            self._venue.__exit__(None, None, None)
        pids = [pid for pid, role in processes.items() if target in (role, EVERYTHING)]
        for pid in pids[:1] if target == RUN else pids:
            kill(pid)
            self.kills[processes[pid]] += 1
        if target in (VENUE, EVERYTHING):
            self.kills[target] += 1
        away = {VENUE: [VENUE], EVERYTHING: [*self._commands]}.get(target or "", {str(target)} & {*self._commands})
        self._back |= {name: now + self.random.uniform(*AWAY) for name in away}
        if target:
            self._killed_at = now
        return target is not None

    def _bring_back(self, now: float) -> None:
        for name, program in self._programs.items():
            if name not in self._back and program.poll() is not None:
                self.faults.append(f"the {name} ended by itself with exit code {program.returncode}")
                self._back[name] = now
        for name in [name for name, at in self._back.items() if at <= now]:
            del self._back[name]
            if name == VENUE:
                self._start_venue(SHARE_OF_FAULTS)
            else:
                self._programs[name].wait()
                self._start(name)

    # ---- what is seen

    def _sample(self, instance: dg.DagsterInstance) -> None:
        for pid, role in processes_of(self.home, run_processes(instance)).items():
            if megabytes := megabytes_of(pid):
                self.megabytes.setdefault(f"{role} {pid}", []).append(megabytes)

    def state(self, instance: dg.DagsterInstance) -> str:
        """The state of runs, kills, memory and disk, on one line."""
        statuses = Counter(run.status.value.lower() for run in instance.get_runs())
        most = proof.most_memory(self.megabytes, self.roles)
        parts = [
            "runs " + (", ".join(f"{count} {status}" for status, count in sorted(statuses.items())) or "none"),
            "kills " + (", ".join(f"{count} {name}" for name, count in sorted(self.kills.items())) or "none"),
            "memory at most " + ", ".join(f"{role} {megabytes:.0f} MB" for role, megabytes in most.items()),
            f"longest run {longest_run(instance):.0f} s",
            f"Dagster's databases {self.log_kilobytes} kB",
            self._crowd.state(),
        ]
        return "; ".join(parts)

    @property
    def log_kilobytes(self) -> int:
        """The size of Dagster's databases on the disk."""
        return sum(file.stat().st_size for file in self.home.rglob("*.db*") if file.is_file()) // 1024

    # ---- the end

    def prove(self, instance: dg.DagsterInstance, market: Market) -> list[str]:
        """Wait until everything that will have closed in a minute is there, and say what is wrong."""
        # So that at least one more tick has to come.
        now = datetime.now(UTC) + timedelta(minutes=1)
        faults = [*self._crowd.prove(), *self._caught_up(instance, market, now)]
        self._let_runs_end(instance)
        runs = instance.get_runs_count()
        successes = instance.get_runs_count(dg.RunsFilter(statuses=[dg.DagsterRunStatus.SUCCESS]))
        self._programs_end(instance)
        faults += proof.run_faults(instance, time.time())
        if (longest := longest_run(instance)) > LONGEST_RUN:
            faults.append(f"a run was going for {longest:.0f} s, at most {LONGEST_RUN:.0f} are expected")
        faults += proof.measurement_faults(self.megabytes, self.roles, successes)
        faults += proof.memory_faults(self.megabytes)
        faults += proof.log_faults(self.log_kilobytes, runs)
        return [*self.faults, *faults]

    def _caught_up(self, instance: dg.DagsterInstance, market: Market, now: datetime) -> Iterator[str]:
        deadline = time.monotonic() + CATCHING_UP
        warehouse = self.world.warehouse
        while time.monotonic() < deadline:
            time.sleep(5)
            self._bring_back(time.monotonic())
            self._sample(instance)
            if not warehouse.exists:
                continue
            # As long as it is open nobody writes: what is proven is one state of everything.
            with warehouse.reader() as connection:
                if not proof.is_behind(connection, market, now):
                    self.say(f"caught up with {now:%H:%M} UTC at {datetime.now(UTC):%H:%M:%S}")
                    # The first refresh that got through may have been the last one, and history hangs on its time.
                    yield from proof.candle_faults(connection, market, datetime.now(UTC) - HISTORY, now)
                    yield from proof.depth_faults(connection, market, self._crowd.filled_since)
                    yield from proof.table_faults(connection, market)
                    return
        yield f"{CATCHING_UP:.0f} s after the last kill not everything was there"

    def _let_runs_end(self, instance: dg.DagsterInstance) -> None:
        deadline = time.monotonic() + LONGEST_RUN
        while time.monotonic() < deadline and any(
            run.job_name != LIVE_JOB for run in instance.get_runs(dg.RunsFilter(statuses=GOING))
        ):
            time.sleep(0.5)

    def _programs_end(self, instance: dg.DagsterInstance) -> None:
        for program in self._programs.values():
            program.terminate()
        for program in self._programs.values():
            program.wait(timeout=120)
        for run in instance.get_runs(dg.RunsFilter(job_name=LIVE_JOB, statuses=GOING)):
            # It ends after its present wave.
            if (pid := process_here(run)) is not None:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + 60
        while processes_of(self.home) and time.monotonic() < deadline:
            time.sleep(0.5)
        for pid, role in processes_of(self.home).items():
            self.faults.append(f"a {role} outlived the daemon by a minute")
            kill(pid)
