"""The sums of measured minutes, and how they are told: as text beside their targets, and as JSON."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from refresh_pipeline_tests.benchmarks.minute.processes import ChannelState

MINUTES_A_DAY = 1440
READABLE = "indicators of all series can be read"
# A file has room left over that the next rows go into; what is in use tells how much they take.
WAREHOUSE, IN_USE = "warehouse, the file", "warehouse, in use"
# Issue 8 of the design: seconds, seconds, seconds of processor time a tick, megabytes.
TARGETS = {"median": 8.0, "worst": 12.0, "cpu": 15.0, "memory": 700.0}


@dataclass(frozen=True, slots=True)
class Told:
    """What Dagster's files say of the measured minutes."""

    # By minute: seconds after it of each moment of the run that its tick asked for.
    ticks: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    # Why a minute's tick asked for no run.
    skipped: Mapping[int, str] = field(default_factory=dict)
    # Runs in that time that no tick of the refresh asked for, by job, and the minutes in which they were at work.
    other_runs: Mapping[str, int] = field(default_factory=dict)
    busy: Collection[int] = ()
    # Runs that did not succeed.
    unsuccessful: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Disturbance:
    """What the probe did to whom it watched."""

    # How often it read, how long it had the file open for that in all, and how often the file was held.
    opens: int
    seconds_open: float
    refused: int
    # Processor time of probe and venue, which is in no other figure.
    cpu: float


@dataclass(frozen=True, slots=True)
class Found:
    """What was measured in these minutes, each the boundary at which its candles closed, in seconds since 1970."""

    series: int
    minutes: Sequence[int]
    # Seconds after a minute until its rows were read; a minute that is missing was never complete.
    fresh: Mapping[int, float]
    told: Told
    # Seconds of processor time of each minute, by kind of process.
    cpu: Mapping[int, Mapping[str, float]]
    # The moment of each minute at which all processes had most, by their own shares.
    memory: Mapping[int, ChannelState]
    # Bytes on the disk, by what they hold: how many more with each tick, and how many at the end.
    growth_a_tick: Mapping[str, float]
    sizes: Mapping[str, int]
    # What of it leaves with old runs, and how many minutes' runs there are at most.
    pruned: Sequence[str]
    runs_kept: int
    disturbance: Disturbance

    @property
    def latencies(self) -> dict[str, float]:
        """Tick to fresh over all minutes, in seconds; a minute that was never complete is infinitely late."""
        taken = [self.fresh.get(minute, math.inf) for minute in self.minutes]
        return {"median": median(taken), "p95": percentile(taken, 0.95), "worst": max(taken)}

    @property
    def without_a_run(self) -> list[int]:
        """Minutes whose rows came with a later tick, or never."""
        return [minute for minute in self.minutes if minute not in self.told.ticks or minute not in self.fresh]

    @property
    def cpu_a_tick(self) -> dict[str, float]:
        """Seconds of processor time, by kind of process."""
        kinds = dict.fromkeys(kind for minute in self.minutes for kind in self.cpu[minute])
        return {
            kind: sum(self.cpu[minute].get(kind, 0.0) for minute in self.minutes) / len(self.minutes) for kind in kinds
        }

    @property
    def peak(self) -> ChannelState:
        """The moment at which all processes had most."""
        return max((self.memory[minute] for minute in self.minutes), key=lambda each: each.pss_sum)

    @property
    def quiet(self) -> "Found":
        """The same of those minutes in which no other job had a run; of all of them where there is none such."""
        return replace(self, minutes=[each for each in self.minutes if each not in self.told.busy] or self.minutes)

    def growth_in_a_day(self, pruned: bool) -> dict[str, float]:
        """Bytes, by what they hold; with runs pruned as shipped, or never."""
        ticks = {what: min(self.runs_kept, MINUTES_A_DAY) for what in self.pruned if pruned}
        return {what: grown * ticks.get(what, MINUTES_A_DAY) for what, grown in self.growth_a_tick.items()}

    @property
    def timeline(self) -> list[tuple[str, float, float]]:
        """Each moment of a tick, in order: seconds after the minute, median and worst over its ticks."""
        ticks = {minute: dict(self.told.ticks[minute]) for minute in self.minutes if minute in self.told.ticks}
        for minute in ticks.keys() & self.fresh.keys():
            ticks[minute][READABLE] = self.fresh[minute]
        names = dict.fromkeys(name for moments in ticks.values() for name in moments)
        seen = {name: [moments[name] for moments in ticks.values() if name in moments] for name in names}
        return sorted(((name, median(each), max(each)) for name, each in seen.items()), key=lambda row: row[1])


def percentile(values: Sequence[float], share: float) -> float:
    """The least value that so large a share of them does not exceed.

    >>> percentile([5.0, 1.0, 2.0, 3.0, 4.0], 0.95), percentile([2.0, 1.0], 0.5)
    (5.0, 1.0)
    """
    return sorted(values)[math.ceil(share * len(values)) - 1]


def as_json(found: Found) -> dict[str, Any]:
    """Every figure, and what it was worked out from; seconds, megabytes of memory, bytes of disk."""
    return {
        "series": found.series,
        **_figures_of(found),
        "tick_to_fresh_of_each_minute": [_finite(found.fresh.get(minute, math.inf)) for minute in found.minutes],
        "quiet_minutes": _figures_of(found.quiet),
        "minutes_without_a_run": len(found.without_a_run),
        "why_skipped": list(found.told.skipped.values()),
        "other_runs": found.told.other_runs,
        "unsuccessful_runs": found.told.unsuccessful,
        "bytes_a_tick": found.growth_a_tick,
        "bytes_a_day": found.growth_in_a_day(pruned=False),
        "bytes_a_day_with_retention": found.growth_in_a_day(pruned=True),
        "bytes_at_the_end": found.sizes,
        "timeline": [{"moment": name, "median": middle, "worst": worst} for name, middle, worst in found.timeline],
        "probe": {
            "readings": found.disturbance.opens,
            "seconds_open": found.disturbance.seconds_open,
            "refused": found.disturbance.refused,
            "cpu_of_probe_and_venue": found.disturbance.cpu,
        },
    }


def _figures_of(found: Found) -> dict[str, Any]:
    peak = found.peak
    return {
        "minutes": len(found.minutes),
        "tick_to_fresh": {name: _finite(value) for name, value in found.latencies.items()},
        "cpu_a_tick": {"all": sum(found.cpu_a_tick.values()), **found.cpu_a_tick},
        "memory_peak": {"pss": peak.pss_sum, "rss": peak.rss_sum, "pss_by_kind": peak.pss},
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def show(console: Console, found: Found) -> None:
    """Everything for people: figures beside their targets, then where they come from."""
    console.print(_figures(found))
    console.print(_timeline(found.quiet))
    console.print(_by_kind(found.quiet))
    console.print(_growth(found))
    for line in _remarks(found):
        console.print(line, highlight=False, soft_wrap=True, markup=False)


def _figures(found: Found) -> Table:
    """Of all minutes, and beside it of the quiet ones where others are among them."""
    columns = {"measured": _column(found)}
    if found.quiet != found:
        columns[f"{len(found.quiet.minutes)} without other runs"] = _column(found.quiet)
    table = _table(f"{found.series} series x m1, {len(found.minutes)} minutes", "what", *columns, "target")
    for rows in zip(*columns.values(), strict=True):
        what, _, target = rows[0]
        table.add_row(what, *(figure for _, figure, _ in rows), target)
    return table


def _column(found: Found) -> list[tuple[str, str, str]]:
    late, peak = found.latencies, found.peak
    return [
        ("tick to fresh, median", f"{late['median']:.2f} s", f"below {TARGETS['median']:g} s"),
        ("tick to fresh, p95", f"{late['p95']:.2f} s", ""),
        ("tick to fresh, worst", f"{late['worst']:.2f} s", f"below {TARGETS['worst']:g} s"),
        ("minutes without a run of their own", str(len(found.without_a_run)), "0"),
        ("CPU a tick, all processes", f"{sum(found.cpu_a_tick.values()):.1f} s", f"below {TARGETS['cpu']:g} s"),
        ("memory of all processes, peak (PSS)", f"{peak.pss_sum:.0f} MB", f"below {TARGETS['memory']:g} MB"),
        ("then, shared pages counted each time (RSS)", f"{peak.rss_sum:.0f} MB", ""),
    ]


def _timeline(found: Found) -> Table:
    title = f"a tick of {len(found.minutes)}, seconds after the minute"
    table = _table(title, "moment", "median", "since the line above", "worst")
    before = 0.0
    for name, middle, worst in found.timeline:
        table.add_row(name, f"{middle:.2f}", f"+{middle - before:.2f}", f"{worst:.2f}")
        before = middle
    return table


def _by_kind(found: Found) -> Table:
    title = f"by kind of process, {len(found.minutes)} minutes"
    table = _table(title, "kind", "CPU a tick, s", "PSS at the peak, MB", "RSS then, MB")
    cpu, peak = found.cpu_a_tick, found.peak
    for kind in sorted({*cpu, *peak.pss}, key=lambda kind: -cpu.get(kind, 0.0)):
        memory = [f"{each[kind]:.0f}" if kind in each else "" for each in (peak.pss, peak.rss)]
        table.add_row(kind, f"{cpu.get(kind, 0.0):.2f}", *memory)
    return table


def _growth(found: Found) -> Table:
    table = _table("on the disk", "what", "kB a tick", "MB in 24 h", "runs pruned as shipped", "MB at the end")
    kinds = [found.growth_a_tick, found.growth_in_a_day(pruned=False), found.growth_in_a_day(pruned=True)]
    columns = [*kinds, found.sizes]
    units = (1e3, 1e6, 1e6, 1e6)
    for what in found.sizes:
        table.add_row(what, *(f"{each[what] / unit:,.1f}" for each, unit in zip(columns, units, strict=True)))
    sums = [sum(each[what] for what in each if what not in (WAREHOUSE, IN_USE)) for each in columns]
    table.add_row("all of Dagster's", *(f"{each / unit:,.1f}" for each, unit in zip(sums, units, strict=True)))
    return table


def _remarks(found: Found) -> Iterator[str]:
    probe, ticks = found.disturbance, len(found.minutes)
    yield (
        f"The probe had the warehouse open {probe.opens / ticks:.1f} times a tick, for "
        f"{probe.seconds_open / ticks * 1000:.0f} ms in all, and was refused {probe.refused / ticks:.1f} times; it and "
        f"the venue took {probe.cpu / ticks:.1f} s of CPU a tick, which is in no figure above."
    )
    for reason in dict.fromkeys(found.told.skipped.values()):
        yield f"A tick was skipped: {reason}"
    for job, count in found.told.other_runs.items():
        yield f"{count} more runs of {job} went on meanwhile."
    for what, count in found.told.unsuccessful.items():
        yield f"{count} runs did not succeed: {what}"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    return table
