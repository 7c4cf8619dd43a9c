"""How a tick grows with the number of series: the same cycle for few and for many, and for several timeframes at once.

Each size has a process that stores a history and another one that measures ticks on it, so that the peak of memory is a
tick's. What stands where the floor does elsewhere is the cost of the usual size in proportion: a ratio of 1 is linear.
"""

import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from statistics import median

import dagster as dg

from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.orchestration.build import build
from refresh_pipeline.pipeline.job_names import refresh_job_name
from refresh_pipeline.settings import load_settings, prepare_dagster
from refresh_pipeline.warehouse.warehouse import Warehouse
from refresh_pipeline_tests.benchmarks import cycle
from refresh_pipeline_tests.benchmarks.children import Apart, in_child
from refresh_pipeline_tests.benchmarks.measuring import Comparison, Findings, Size
from refresh_pipeline_tests.benchmarks.venue import MINUTE, market_at, venue

# Each of these closes at BEGIN + MINUTE.
TIMEFRAMES = (Timeframe.m1, Timeframe.m5, Timeframe.m15, Timeframe.H1, Timeframe.H4)
FILLED = datetime.fromisoformat("2026-01-07T03:59:00+00:00")
WHOLE_RUN, PROCESSOR = "the whole run", "its processor time"
# Of thousands of series a round takes a minute.
ROUNDS = 3
# As many candles as a tick reads: more would be read by nobody.
STORED = 2 * 512 + 256
# A day's rows of indicators of one series would be two megabytes; half an hour's, kept to the day, are 240.
KEEP = "30m"


@dataclass(frozen=True, slots=True)
class Case:
    """A number of instruments on a number of timeframes."""

    instruments: int
    timeframes: int = 1

    @property
    def series(self) -> int:
        """How many series that makes."""
        return self.instruments * self.timeframes

    def __str__(self) -> str:
        names = ", ".join(TIMEFRAMES[: self.timeframes])
        return f"{self.instruments:,} instruments x {names}"


# The first is the one that the others stand beside.
CASES = (Case(487), Case(50), Case(2_000), Case(5_000), Case(487, len(TIMEFRAMES)))


@dataclass(frozen=True, slots=True)
class Ticks:
    """Seconds of each stage, a figure a tick."""

    stages: Mapping[str, Sequence[float]]
    megabytes: float


def measure(size: Size, folder: Path, cases: Sequence[Case] = CASES, apart: Apart = in_child) -> Findings:
    """Each number of series beside the first of them in proportion."""
    found: dict[Case, tuple[Ticks, float]] = {}
    for case in cases:
        place = folder / f"{case.instruments}-{case.timeframes}"
        place.mkdir()
        print(f"{case} ...", file=sys.stderr)
        apart(filled, place, case, place)
        found[case] = apart(ticked, place, case, place, size.rounds)
        shutil.rmtree(place)
    usual = cases[0]
    return {
        f"{case}, {case.series:,} series of {STORED:,} candles, beside {usual.series:,} in proportion": [
            *compared(ticks, found[usual][0], case.series, case.series / usual.series),
            Comparison("peak memory", [peak], note="of the run's process", unit="MB"),
            Comparison("the warehouse's file", [ticks.megabytes], unit="MB"),
        ]
        for case, (ticks, peak) in found.items()
    }


def filled(case: Case, folder: Path) -> None:
    """Store a history."""
    settings = load_settings(data_dir=folder)
    # Nobody is asked: where the venue is does not matter yet.
    market = market_at("http://127.0.0.1:1", case.instruments, STORED, timeframes=TIMEFRAMES[: case.timeframes])
    cycle.fill(Warehouse(database=str(settings.database)), market, STORED, FILLED)


def ticked(case: Case, folder: Path, rounds: int) -> Ticks:
    """Some ticks: minute by minute, or of several timeframes the same one again and again from the same history."""
    settings = load_settings(data_dir=folder)
    prepare_dagster(settings)
    timeframes = TIMEFRAMES[: case.timeframes]
    with venue() as there, dg.DagsterInstance.get() as instance:
        market = market_at(there.base_url, case.instruments, STORED, timeframes=timeframes, keep=KEEP)
        job = build(settings, [market]).resolve_job_def(refresh_job_name(market))
        before = shutil.copy(settings.database, folder / "before.duckdb")
        taken = []
        # The first one warms everything up and is thrown away.
        for number in range(min(rounds, ROUNDS) + 1):
            again = len(timeframes) > 1
            now = FILLED + MINUTE * (1 if again else number + 1)
            if again:
                shutil.copy(before, settings.database)
            there.at(now + timedelta(seconds=1))
            watch, spent = cycle.Watch(keeps=False), time.process_time()
            run = cycle.run_job(instance, job, market, now, watch)
            taken.append({**_by_stage(watch, run), PROCESSOR: time.process_time() - spent})
        megabytes = settings.database.stat().st_size / 1e6
    return Ticks({stage: [each[stage] for each in taken[1:]] for stage in taken[0]}, megabytes)


def _by_stage(watch: cycle.Watch, run: cycle.Run) -> dict[str, float]:
    stages = watch.stages.seconds
    parts = {"fetch": [cycle.FETCH], "store": [cycle.STORE]}
    parts |= {str(table): [each for each in stages if each.startswith(f"{table}:")] for table in cycle.COMPUTED}
    parts |= {"remembering": [*cycle.REMEMBERING, cycle.REST], "checks": [cycle.CHECKS]}
    taken = {name: sum(stages[each] for each in some) for name, some in parts.items()}
    taken |= {f"Dagster's share of {name}": run.steps[name] - run.work[name] for name in run.steps}
    return {**taken, "around the steps": run.around, WHOLE_RUN: run.total}


def compared(ticks: Ticks, usual: Ticks, series: int, times: float) -> list[Comparison]:
    """The stages of one number of series beside those of another one, so many times as dear."""
    found = []
    for stage, ours in ticks.stages.items():
        in_proportion = median(usual.stages[stage]) * times
        note = f"{median(ours) / series * 1e3:.2f} ms a series"
        found.append(Comparison(stage, ours, (in_proportion,) * len(ours), note))
    return found
