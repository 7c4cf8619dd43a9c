"""Whether what is measured in minutes is counted, read and told as it was; the minutes themselves take minutes."""

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest
from rich.console import Console

from refresh_pipeline.orchestration.schedules import TICK_TAG
from refresh_pipeline_tests.benchmarks.minute.__main__ import keep
from refresh_pipeline_tests.benchmarks.minute.probe import MINUTE, Probe
from refresh_pipeline_tests.benchmarks.minute.processes import ChannelState, Watch
from refresh_pipeline_tests.benchmarks.minute.report import READABLE, Disturbance, Found, Told, as_json, show
from refresh_pipeline_tests.benchmarks.minute.timeline import told_by
from refresh_pipeline_tests.isolated_env import inside
from refresh_pipeline_tests.project_folder import FEW_INDICATORS, NOW, World

# Three minutes: the second one's rows came with the third one's tick.
FIRST, SECOND, THIRD = (29_000_000 * MINUTE + MINUTE * number for number in range(3))
FOUND = Found(
    series=3,
    minutes=[FIRST, SECOND, THIRD],
    fresh={FIRST: 6.0, SECOND: 67.0, THIRD: 7.0},
    told=Told(
        ticks={
            FIRST: {"launched": 1.0, "indicators begins": 5.0, "indicators done": 6.5},
            THIRD: {"launched": 2.0, "indicators begins": 5.5, "indicators done": 7.5},
        },
        skipped={SECOND: "the previous run is still going"},
        other_runs={"wide_publish": 1},
        busy={SECOND},
        unsuccessful={"wide_refresh failure": 2},
    ),
    cpu={FIRST: {"run": 5.0, "daemon": 1.0}, SECOND: {"run": 8.0, "daemon": 1.0}, THIRD: {"run": 5.0, "daemon": 1.0}},
    memory={
        FIRST: ChannelState(pss={"run": 100.0, "daemon": 90.0}, rss={"run": 150.0, "daemon": 140.0}),
        SECOND: ChannelState(pss={"run": 200.0, "daemon": 100.0}, rss={"run": 250.0, "daemon": 150.0}),
        THIRD: ChannelState(pss={"run": 110.0, "daemon": 90.0}, rss={"run": 160.0, "daemon": 140.0}),
    },
    growth_a_tick={"runs": 1000.0, "ticks": 100.0, "warehouse, the file": 200_000.0},
    sizes={"runs": 4000, "ticks": 300, "warehouse, the file": 5_600_000},
    pruned=["runs"],
    runs_kept=180,
    disturbance=Disturbance(opens=6, seconds_open=0.12, refused=3, cpu=1.5),
)


def test_a_minute_whose_rows_came_with_a_later_tick_is_late_and_counted_as_without_a_run() -> None:
    assert FOUND.latencies == {"median": 7.0, "p95": 67.0, "worst": 67.0}
    assert FOUND.without_a_run == [SECOND]


def test_a_minute_that_was_never_complete_is_infinitely_late_and_null_in_json() -> None:
    found = replace(FOUND, fresh={FIRST: 6.0, THIRD: 7.0})
    assert found.latencies["worst"] == math.inf
    assert json.loads(json.dumps(as_json(found)))["tick_to_fresh_of_each_minute"] == [6.0, None, 7.0]


def test_processor_time_and_growth_are_told_by_the_tick_and_the_day() -> None:
    told = as_json(FOUND)
    assert told["cpu_a_tick"] == {"all": 7.0, "run": 6.0, "daemon": 1.0}
    assert told["bytes_a_tick"] == {"runs": 1000.0, "ticks": 100.0, "warehouse, the file": 200_000.0}
    assert told["bytes_a_day"] == {"runs": 1_440_000.0, "ticks": 144_000.0, "warehouse, the file": 288_000_000.0}
    assert told["bytes_a_day_with_retention"] == told["bytes_a_day"] | {"runs": 180_000.0}
    assert told["memory_peak"]["pss"] == 300.0


def test_minutes_beside_another_jobs_run_are_told_apart() -> None:
    quiet = as_json(FOUND)["quiet_minutes"]
    assert quiet["minutes"] == 2
    assert quiet["tick_to_fresh"] == {"median": 6.5, "p95": 7.0, "worst": 7.0}
    assert quiet["cpu_a_tick"]["all"] == 6.0
    assert quiet["memory_peak"]["pss"] == 200.0
    assert FOUND.quiet.quiet == FOUND.quiet
    assert replace(FOUND, minutes=[SECOND]).quiet.minutes == [SECOND]


def test_a_ticks_moments_stand_in_the_order_in_which_they_came_with_the_reading_among_them() -> None:
    assert [name for name, *_ in FOUND.timeline] == ["launched", "indicators begins", READABLE, "indicators done"]
    assert FOUND.timeline[2] == (READABLE, 6.5, 7.0)


def test_the_report_holds_each_figure_against_its_target_and_names_what_went_wrong(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show(Console(width=120), FOUND)
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "tick to fresh, worst 67.00 s 7.00 s below 12 s" in lines
    assert "memory of all processes, peak (PSS) 300 MB 200 MB below 700 MB" in lines
    assert "indicators done 7.00 +0.50 7.50" in lines
    assert "run 5.00 110 160" in lines
    assert "warehouse, the file 200.0 288.0 288.0 5.6" in lines
    assert "all of Dagster's 1.1 1.6 0.3 0.0" in lines
    assert "A tick was skipped: the previous run is still going" in lines
    assert "2 runs did not succeed: wide_refresh failure" in lines


def test_the_copy_names_commit_and_machine(tmp_path: Path) -> None:
    console = Console(width=120, record=True)
    show(console, FOUND)
    kept = keep(FOUND, {"cores": "2"}, datetime(2026, 1, 1, tzinfo=UTC), console, tmp_path / "results")
    assert "tick to fresh, median" in kept.with_suffix(".txt").read_text()
    said = json.loads(kept.read_text())
    assert said["machine"] == {"cores": "2"}
    assert said["commit"] in kept.name


def test_what_a_child_used_is_counted_by_its_kind_also_once_it_has_ended() -> None:
    # A parent that tells when it has waited for its child, which used a third of a second of processor time.
    busy = "import time; print('run', flush=True); input()\nwhile time.process_time() < 0.33: pass"
    parent = f"""
import subprocess, sys
subprocess.run([sys.executable, "-c", {busy!r}, "--multiprocessing-fork"])
print("over", flush=True)
input()
"""
    command = [sys.executable, "-c", parent]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        watch = Watch(process.pid)
        watch.begin()
        assert process.stdout.readline() == "run\n"
        watch.look(memory=True)
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "over\n"
        spent = watch.seconds()
        process.communicate("\n")
    assert sum(spent.values()) >= 0.3
    assert watch.peak.pss["run"] > 1
    assert watch.peak.rss_sum > watch.peak.pss_sum


@pytest.fixture(scope="module")
def refreshed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, dg.DagsterInstance, str]]:
    """A market after one run, as its schedule would have asked for it."""
    world = World.founded(tmp_path_factory.mktemp("minute") / "world", FEW_INDICATORS)
    with inside(world.root), world.dagster() as instance:
        run_id = world.run(instance=instance).run_id
        instance.add_run_tags(run_id, {TICK_TAG: NOW.replace(second=0).isoformat()})
        yield world, instance, run_id


def test_a_minutes_rows_are_read_once_the_step_that_writes_them_has_begun_and_they_are_all_there(
    refreshed: tuple[World, dg.DagsterInstance, str],
) -> None:
    world, _, _ = refreshed
    home = world.root / "data" / "dagster"
    # The m15 candles that opened at 11:45; of any other minute there is nothing.
    boundary = int(datetime(2026, 6, 1, 11, 46, tzinfo=UTC).timestamp())
    probe = Probe(home, world.root / "data" / "refresh.duckdb", "bazaar", series=4)
    assert probe.refreshes() == 1
    for minute in (boundary, boundary + MINUTE):
        probe.wait_for(minute)
    probe.look()
    assert probe.is_near
    assert probe.opens == 0, "nothing has been written since the step was seen"
    world.change("update bazaar.indicators set sma_10 = sma_10 + 1")
    probe.look()
    probe.look()
    assert [*probe.fresh] == [boundary]
    assert probe.is_waiting
    assert probe.opens == 1, "once a change"


def test_the_moments_of_a_tick_are_read_from_dagsters_own_files(
    refreshed: tuple[World, dg.DagsterInstance, str],
) -> None:
    _, instance, _ = refreshed
    minute = int(NOW.replace(second=0).timestamp())
    moments = told_by(instance, "bazaar", [minute]).ticks[minute]
    assert moments["raw_candles begins"] < moments["raw_candles done"] <= moments["indicators begins"]
    assert moments["indicators done"] <= moments["the run has ended"]
