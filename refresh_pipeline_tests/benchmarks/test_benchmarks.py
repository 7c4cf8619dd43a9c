"""Whether the benchmarks still run and compare like with like; how fast anything is, they say themselves."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import duckdb
import numpy as np
import pytest

from refresh_pipeline.analytics.enhanced_candles import ENHANCED_CANDLES
from refresh_pipeline.market.candles import instant
from refresh_pipeline.pipeline.quality import candle_verdicts
from refresh_pipeline.sources import Request
from refresh_pipeline.sources.registry import open_source
from refresh_pipeline.warehouse.schema import Table
from refresh_pipeline.warehouse.warehouse import Warehouse
from refresh_pipeline_tests.analytics.sample_bars import INDICATORS, stacked
from refresh_pipeline_tests.benchmarks import __main__ as bench
from refresh_pipeline_tests.benchmarks import api, backfill, bare, cycle, exporting, gaps, goals, scaling
from refresh_pipeline_tests.benchmarks.analytics import traded
from refresh_pipeline_tests.benchmarks.children import in_child
from refresh_pipeline_tests.benchmarks.measuring import Comparison, Findings, Size, Stopwatch
from refresh_pipeline_tests.benchmarks.report import Report, commit
from refresh_pipeline_tests.benchmarks.venue import BEGIN, MINUTE, candles_of, market_at, venue
from refresh_pipeline_tests.isolated_env import inside

# Without other libraries: those are fetched from the package index.
SMALL = Size(series=3, stored=300, rounds=1, exported=2, long=2000, short=(), gap_instruments=2, gap_days=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="module")
def ticks(folder: Path) -> Findings:
    with inside(folder):
        return cycle.measure(SMALL, folder)


def named(findings: Findings) -> Mapping[str, Comparison]:
    return {each.what: each for comparisons in findings.values() for each in comparisons}


def test_the_stages_and_the_rest_add_up_to_the_cycle_and_the_floors_to_its_floor(ticks: Findings) -> None:
    found = named(ticks)
    stages = [found[name] for name in cycle.STAGES]
    unfloored = [found[name] for name in (*cycle.REMEMBERING, cycle.REST)]
    assert min(each.ours[0] for each in stages) > 0
    assert sum(each.ours[0] for each in [*stages, *unfloored]) == pytest.approx(found[cycle.CYCLE].ours[0])
    assert sum(each.bare[0] for each in stages) == pytest.approx(found[cycle.CYCLE].bare[0])
    assert [each.bare for each in unfloored] == [()] * len(unfloored)


def test_the_floors_leave_the_same_rows_as_the_cycle(ticks: Findings, folder: Path) -> None:
    sums = {"raw_candles": "close", "enhanced_candles": "ao", "indicators": "rsi_14"}
    answers = []
    for name in ("refresh", "bare"):
        with duckdb.connect(str(folder / f"{name}.duckdb"), read_only=True) as connection:
            found = [
                connection.execute(
                    f"select count(*), max(open_time), sum({column}) filter (isfinite({column})) from wide.{table}"
                ).fetchall()[0]
                for table, column in sums.items()
            ]
        answers.append([(count, newest, pytest.approx(total)) for count, newest, total in found])
    assert answers[0] == answers[1]
    newest = (BEGIN + MINUTE * SMALL.rounds).replace(tzinfo=None)
    assert answers[0][0][:2] == (SMALL.series * (SMALL.stored + SMALL.rounds + 1), newest)


def test_what_is_computed_some_series_at_a_time_is_taken_as_one() -> None:
    histories = [traded(bars) for bars in (200, 300, 250)]
    whole, (first, rest) = stacked(histories), (stacked(histories[:1]), stacked(histories[1:]))
    watch = cycle.Watch()
    for bars in (first, replace(rest, first=np.array([290, 540]))):
        watch.computed.append((INDICATORS, bars, INDICATORS.compute(bars)))
    _, bars, results = watch.tables[Table.indicators]
    assert bars.starts.tolist() == whole.starts.tolist()
    assert bars.wanted_rows.tolist() == [*range(200), *range(490, 500), *range(740, 750)]
    np.testing.assert_array_equal(results["rsi_14"], INDICATORS.compute(whole)["rsi_14"][bars.wanted_rows])


def test_a_run_of_empty_assets_has_the_steps_of_the_real_one(ticks: Findings) -> None:
    found = named(ticks)
    for name in ("raw_candles", "enhanced_candles", "indicators", "checks"):
        assert len(found[f"Dagster's share of {name}"].bare) == SMALL.rounds
    share, run = found["Dagster's share of the run"], found["the whole run"]
    work = found[cycle.CYCLE].ours[0] + found["the work of the checks"].ours[0]
    assert share.ours[0] + work == pytest.approx(run.ours[0])
    assert 0 < share.ours[0] < run.ours[0]


def test_the_cycle_leaves_nothing_for_a_check_to_find(ticks: Findings, folder: Path) -> None:
    market = market_at("http://127.0.0.1:1", SMALL.series, SMALL.stored)
    verdicts = candle_verdicts(Warehouse(database=str(folder / "refresh.duckdb")), market, BEGIN + MINUTE * 2)
    assert [name for name, verdict in verdicts.items() if verdict.faults] == []


def test_the_venue_serves_the_candles_that_a_history_is_filled_with(tmp_path: Path) -> None:
    with venue() as there:
        market = market_at(there.base_url, 2, 60)
        there.at(BEGIN + MINUTE + timedelta(seconds=30))
        requests = [Request(each, instant(BEGIN - MINUTE * 9), instant(BEGIN + MINUTE * 2)) for each in market.series]
        got = {each.series: each for each in open_source(market, tmp_path).fetch(requests, BEGIN)}
    for series, each in got.items():
        assert each.error is None
        expected = candles_of(series, BEGIN + MINUTE, 10)
        assert each.candles.open_time.tolist() == expected.open_time.tolist()
        assert each.candles["close"].tolist() == expected["close"].tolist()


@pytest.mark.parametrize("part", ["fetch", "storage", "enhanced", "indicators"])
def test_every_figure_has_its_floor_beside_it(part: str) -> None:
    for each in named(bench.measured(bench.PARTS[part], SMALL)).values():
        assert len(each.ours) == len(each.bare) == SMALL.rounds
        assert min(*each.ours, *each.bare) > 0


def test_the_bare_copies_hold_the_same_rows_as_the_export_files(tmp_path: Path) -> None:
    exporting.measure(replace(SMALL, stored=90), tmp_path)
    ours, bare_ = (sorted((tmp_path / f"exported-{number}").rglob("*.parquet")) for number in (0, 1))
    assert len(ours) == len(bare_) == SMALL.exported * 3
    with duckdb.connect() as connection:
        for one, other in zip(ours, bare_, strict=True):
            rows = [
                connection.execute(f"select * replace (epoch_us(open_time) as open_time) from '{path}'").fetchall()
                for path in (one, other)
            ]
            assert rows[0] == rows[1]


def test_without_a_compiler_the_floor_has_a_line_for_each_price_of_ours() -> None:
    one = [traded(300)[name] for name in ("high", "low", "close", "volume")]
    lines = [column for column in ENHANCED_CANDLES.columns if column.unit.startswith("price")]
    assert len(bare.enhanced_lines(*one)) == len(lines)


def test_a_stage_within_another_stops_that_one_meanwhile() -> None:
    watch, began = Stopwatch(), time.perf_counter()
    with watch.on("outer"):
        with watch.on("inner"):
            time.sleep(0.02)
        with watch.on("inner"):
            time.sleep(0.02)
    assert watch.seconds["inner"] >= 0.04
    assert 0 < watch.seconds["outer"] <= time.perf_counter() - began - watch.seconds["inner"]


def test_text_and_every_round_are_kept_by_commit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = {"a thing": [Comparison("step", ours=[0.003, 0.004, 0.9], bare=[0.001, 0.001, 0.5], note="as designed")]}
    report = Report.begun(SMALL)
    report.show(found)
    assert capsys.readouterr().out.split()[-8:] == ["step", "4.0", "1.0", "ms", "3.00", "3", "as", "designed"]
    kept = report.keep(found, tmp_path / "results")
    assert kept.stem.endswith(f"Z-{commit()}")
    said = json.loads(kept.read_text())
    assert said["parts"]["a thing"][0]["ours"] == [0.003, 0.004, 0.9]
    assert (said["size"]["series"], said["seed"], said["machine"]["Python"][0]) == (3, 1, "3")
    assert "as designed" in kept.with_suffix(".txt").read_text()


def test_a_commit_is_dirty_where_a_file_is_another(tmp_path: Path) -> None:
    assert commit(tmp_path) == "unknown"
    by = ["-c", "user.name=x", "-c", "user.email=x@example.com"]
    for command in (["init", "-q"], [*by, "commit", "-q", "--allow-empty", "-m", "nothing"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    clean = commit(tmp_path)
    (tmp_path / "new").touch()
    assert commit(tmp_path) == f"{clean}-dirty"


def here(work: Callable[..., object], folder: Path, *arguments: object) -> tuple[object, float]:
    """In this process, which saves starting another one."""
    with inside(folder):
        return work(*arguments), 1.0


def test_a_number_of_series_is_held_against_the_first_one_in_proportion(tmp_path: Path) -> None:
    case = scaling.Case(1, timeframes=2)
    with inside(tmp_path):
        [stages] = scaling.measure(SMALL, tmp_path, cases=[case], apart=here).values()
    found = {each.what: each for each in stages}
    assert found["indicators"].ratio == 1
    whole = (scaling.WHOLE_RUN, scaling.PROCESSOR)
    parts = sum(each.ours[0] for what, each in found.items() if what not in whole and each.unit == "s")
    assert parts == pytest.approx(found[scaling.WHOLE_RUN].ours[0])
    assert min(each.ours[0] for each in stages) > 0
    usual, other = scaling.Ticks({"fetch": [1.0]}, 0.0), scaling.Ticks({"fetch": [5.0]}, 0.0)
    [compared] = scaling.compared(other, usual, series=40, times=4)
    assert (compared.ratio, compared.note) == (1.25, "125.00 ms a series")


def test_a_backfill_leaves_every_candle_of_its_days_with_all_its_indicators(tmp_path: Path) -> None:
    with inside(tmp_path):
        found = named(backfill.measure(replace(SMALL, symbols=1, days=1), tmp_path, apart=here))
    assert all(found[stage].bare[0] > 0 for stage in cycle.STAGES if not stage.endswith("read"))
    for table in ("raw_candles", "enhanced_candles", "indicators"):
        counts = []
        for name, place in (("refresh", f"wide.{table}"), ("bare", table)):
            with duckdb.connect(str(tmp_path / f"{name}.duckdb"), read_only=True) as connection:
                counts += connection.execute(f"select count(distinct open_time) from {place}").fetchall()
        assert counts == [(1440,), (1440,)]


def test_memory_is_that_of_the_process_that_did_the_work(tmp_path: Path) -> None:
    (_, little), (ones, much) = (in_child(np.ones, tmp_path, count) for count in (1, 12_000_000))
    assert len(ones) == 12_000_000
    assert 90 < much - little < 300


def test_work_that_does_not_come_to_an_end_is_told(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="_exit did not come to an end"):
        in_child(os._exit, tmp_path, 1)


def test_an_unknown_part_is_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench.main(["fetching"])
    assert "found fetching, allowed: cycle, start, fetch" in capsys.readouterr().err


def test_a_look_at_what_is_missing_is_held_against_a_count_of_the_candles(tmp_path: Path) -> None:
    found = named(gaps.measure(SMALL, tmp_path))
    look = found["gaps and completeness, file open"]
    assert len(look.ours) == len(look.bare) == SMALL.rounds
    market = gaps.market_of(SMALL.gap_instruments, SMALL.gap_days)
    coverage = Warehouse(tmp_path / "gaps.duckdb").coverage(market, market.series, gaps.NOW)
    assert {each.expected - each.stored > 0 for each in coverage.values() if each.series.timeframe == "m1"} == {True}


def test_every_target_of_the_api_is_measured_beside_its_floor(tmp_path: Path) -> None:
    small = replace(SMALL, stored=40, requests=8, writes=4)
    with inside(tmp_path):
        found = api.measure(small, tmp_path, refresh=["true"])
    judged = {goal for goal, _, _ in goals.judged(found)}
    assert judged == {goal for goal in goals.GOALS if goal.title.startswith("api:")}
    assert all(min(each.ours) > 0 for comparisons in found.values() for each in comparisons)
