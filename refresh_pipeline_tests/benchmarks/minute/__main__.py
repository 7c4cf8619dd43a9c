"""Runs the minute, shows and keeps what it found: `make bench-minute MINUTES=15 SERIES=487`."""

import argparse
import json
import multiprocessing
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import dagster as dg
from rich.console import Console

from refresh_pipeline.instance.run_retention import retention_of_timeframe
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.settings import load_settings
from refresh_pipeline.warehouse.connection import connect
from refresh_pipeline_tests.benchmarks.minute import report
from refresh_pipeline_tests.benchmarks.minute.probe import MINUTE, Probe
from refresh_pipeline_tests.benchmarks.minute.processes import Watch, tree
from refresh_pipeline_tests.benchmarks.minute.report import IN_USE, WAREHOUSE, Disturbance, Found
from refresh_pipeline_tests.benchmarks.minute.timeline import told_by
from refresh_pipeline_tests.benchmarks.report import RESULTS, commit, machine
from refresh_pipeline_tests.benchmarks.venue import venue
from refresh_pipeline_tests.end_to_end.programs import end_session, free_port, installed
from refresh_pipeline_tests.isolated_env import inside

REPOSITORY = Path(__file__).resolve().parents[3]
MARKET = "wide"
# Seconds: until the first refresh has fetched and computed the history and a second one has followed; after the last
# measured minute for its rows to come.
FIRST_REFRESHES = 1800.0
LAST_ROWS = 120.0
# Seconds between two looks at processes, at memory, at files while rows are far and while they are near.
CPU_EVERY, MEMORY_EVERY, FAR, NEAR = 0.5, 1.0, 0.05, 0.01
# What lies where in DAGSTER_HOME; a file counts for the first pattern that fits. The first four are pruned with runs.
PARTS = {
    "event index": "history/runs/index.db*",
    "events of each run": "history/runs/*.db*",
    "runs": "history/runs.db*",
    "compute logs": "storage/**/*",
    "ticks": "schedules/*",
    "all else in DAGSTER_HOME": "**/*",
}


@contextmanager
def pipeline(folder: Path) -> Iterator[int]:
    """`refresh up` as somebody types it, its output in a file; the process's id. All of it is gone afterwards."""
    with (folder / "up.log").open("w") as log:
        command = [installed("refresh"), "up", "--port", str(free_port()), "--no-api"]
        process = subprocess.Popen(command, stdout=log, stderr=log, text=True, start_new_session=True)
        try:
            yield process.pid
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=60)
            end_session(process)
            process.wait()


def set_up(folder: Path, series: int, base_url: str) -> None:
    """What a user writes: a market's YAML, and two settings."""
    (folder / "home").mkdir()
    (folder / "markets").mkdir()
    (folder / ".env").write_text(f"REFRESH_MARKETS={MARKET}\nREFRESH_MARKETS_DIR=markets\n")
    (folder / "markets" / f"{MARKET}.yaml").write_text(
        f'{{name: {MARKET}, source: {{kind: binance, base_url: "{base_url}"}}, calendar: crypto,\n'
        f"instruments: [{', '.join(f'S{number:04d}USDT' for number in range(series))}], timeframes: [m1],\n"
        "history: 1d}\n"
    )


class Bench:
    """The pipeline at work in a folder, watched."""

    def __init__(self, folder: Path, root: int, series: int, console: Console) -> None:
        self._folder, self._root, self._series = folder, root, series
        self._console = console
        self._home, self._database = folder / "data" / "dagster", load_settings().database
        self._probe = Probe(self._home, self._database, MARKET, series)
        self._watch = Watch(root)
        self._next_cpu, self._next_memory = 0.0, 0.0

    def first_refreshes(self) -> None:
        """Wait until history is there and computed, and a tick has followed."""
        deadline = time.monotonic() + FIRST_REFRESHES
        while self._probe.refreshes() < 2:
            if time.monotonic() > deadline or not tree(self._root):
                raise SystemExit(f"No two refreshes in {FIRST_REFRESHES:.0f} s:\n{self._said()}")
            time.sleep(1)

    def measure(self, minutes: int) -> Found:
        """So many minutes from the next whole one on."""
        first = int(time.time() // MINUTE + 1) * MINUTE
        wanted = [first + MINUTE * number for number in range(minutes)]
        time.sleep(first - 1 - time.time() if first - 1 > time.time() else 0)
        before, own = self._sizes(), self._own_cpu()
        self._until(first)
        cpu, memory = {}, {}
        for boundary in wanted:
            self._watch.begin()
            self._probe.wait_for(boundary)
            self._until(boundary + MINUTE)
            cpu[boundary], memory[boundary] = self._watch.seconds(), self._watch.peak
            self._tell(boundary)
        after, own = self._sizes(), self._own_cpu() - own
        deadline = time.time() + LAST_ROWS
        while self._probe.is_waiting and time.time() < deadline:
            self._until(time.time() + 1)
        with dg.DagsterInstance.get() as instance:
            told = told_by(instance, MARKET, wanted)
        probe = self._probe
        return Found(
            series=self._series,
            minutes=wanted,
            fresh={boundary: read_at - boundary for boundary, read_at in probe.fresh.items()},
            told=told,
            cpu=cpu,
            memory=memory,
            growth_a_tick={what: (after[what] - before[what]) / minutes for what in after},
            sizes=after,
            pruned=list(PARTS)[:4],
            # Until the next hour's maintenance.
            runs_kept=int(retention_of_timeframe(Timeframe.m1) / timedelta(minutes=1)) + 60,
            disturbance=Disturbance(probe.opens, probe.seconds_open, probe.refused, own),
        )

    def _until(self, moment: float) -> None:
        """Look at whatever is due until then."""
        while (now := time.time()) < moment:
            self._probe.look()
            if now >= self._next_cpu:
                self._watch.look(memory=now >= self._next_memory)
                self._next_cpu = now + CPU_EVERY
                self._next_memory = now + MEMORY_EVERY if now >= self._next_memory else self._next_memory
            time.sleep(NEAR if self._probe.is_near and self._probe.is_waiting else FAR)

    def _tell(self, boundary: int) -> None:
        fresh = self._probe.fresh.get(boundary)
        said = f"{fresh - boundary:.2f} s" if fresh else "not yet"
        self._console.print(f"{datetime.fromtimestamp(boundary, UTC):%H:%M} fresh after {said}", highlight=False)

    def _sizes(self) -> dict[str, int]:
        """Bytes of Dagster's files by what they hold, and of the warehouse."""
        counted: set[Path] = set()
        sizes = {}
        for part, pattern in PARTS.items():
            files = {file for file in self._home.glob(pattern) if file.is_file()} - counted
            sizes[part] = sum(_bytes(file) for file in files)
            counted |= files
        warehouse = self._database.parent.glob(f"{self._database.name}*")
        with connect(str(self._database), read_only=True) as connection:
            size = connection.execute(
                "select block_size * used_blocks from pragma_database_size() where database_name = current_database()"
            ).fetchall()
        return {**sizes, WAREHOUSE: sum(_bytes(file) for file in warehouse), IN_USE: size[0][0]}

    def _own_cpu(self) -> float:
        own = os.times()
        venues = [tree(each.pid or 0) for each in multiprocessing.active_children()]
        return own.user + own.system + sum(each.seconds for processes in venues for each in processes)

    def _said(self) -> str:
        return "\n".join((self._folder / "up.log").read_text().splitlines()[-20:])


def _bytes(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        # SQLite's and DuckDB's logs come and go.
        return 0


def measured(folder: Path, series: int, minutes: int, console: Console) -> Found:
    """The whole of it in a folder of its own and without anybody's settings."""
    with inside(folder), venue(now=None) as source:
        set_up(folder, series, source.base_url)
        with pipeline(folder) as root:
            # For the reading of Dagster's files at the end; `refresh up` finds the same by itself.
            os.environ["DAGSTER_HOME"] = str(folder / "data" / "dagster")
            bench = Bench(folder, root, series, console)
            began = time.monotonic()
            bench.first_refreshes()
            console.print(f"History fetched and computed after {time.monotonic() - began:.0f} s.", highlight=False)
            return bench.measure(minutes)


def keep(found: Found, on: Mapping[str, str], at: datetime, console: Console, folder: Path = RESULTS) -> Path:
    """What was printed, and every figure as JSON, side by side, named after the commit; gives the latter's path."""
    folder.mkdir(exist_ok=True)
    name = commit()
    path = folder / f"{at:%Y%m%dT%H%M%SZ}-{name}-minute.json"
    path.write_text(json.dumps({"commit": name, "machine": on, **report.as_json(found)}, indent=1), encoding="utf-8")
    console.save_text(str(path.with_suffix(".txt")))
    return path


def main() -> None:
    """Measure, show, keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=int, default=15)
    parser.add_argument("--series", type=int, default=487)
    chosen = parser.parse_args()
    console, on = Console(width=120, record=True), machine()
    facts = ", ".join(f"{name} {value}" for name, value in on.items())
    console.print(
        f"commit {commit()}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC; {facts}", highlight=False, soft_wrap=True
    )
    console.print(f"{chosen.series} series: fetching and computing a day of history, then {chosen.minutes} minutes ...")
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        found = measured(Path(folder), chosen.series, chosen.minutes, console)
    report.show(console, found)
    print(f"Text and JSON: {keep(found, on, datetime.now(UTC), console)}")


if __name__ == "__main__":
    main()
