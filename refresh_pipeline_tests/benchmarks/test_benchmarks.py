"""Whether the benchmarks still run and compare like with like; how fast anything is, they say themselves."""

import json
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pytest
from rich.console import Console

from refresh_pipeline.analytics.enhanced_candles import ENHANCED_CANDLES
from refresh_pipeline_tests.benchmarks import __main__ as bench
from refresh_pipeline_tests.benchmarks.analytics import enhanced_candles_of_one, random_bars
from refresh_pipeline_tests.benchmarks.bench_indicators import ticks
from refresh_pipeline_tests.benchmarks.measuring import Comparison, Size

SMALL = Size(series=3, history="1h", rounds=2, bars=300)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="module")
def found(folder: Path) -> bench.Findings:
    return bench.findings(SMALL, folder)


def test_every_figure_has_one_beside_it(found: bench.Findings) -> None:
    assert [len(comparisons) for comparisons in found.values()] == [5, 2, 2, 2, 2]
    for comparisons in found.values():
        for each in comparisons:
            assert len(each.ours) == len(each.bare) == SMALL.rounds
            assert min(*each.ours, *each.bare) > 0


def test_the_work_without_dagster_stores_the_same_candles_as_the_wide_run(found: bench.Findings, folder: Path) -> None:
    counted = "select count(*), max(open_time), sum(close) from wide.raw_candles where open_time < '2026-01-07 20:00'"
    answers = []
    for name in ("refresh.duckdb", "bare.duckdb"):
        with duckdb.connect(str(folder / name), read_only=True) as connection:
            answers.append(connection.execute(counted).fetchall())
    assert answers[0] == answers[1]
    assert answers[0][0][0] == SMALL.series * (60 + SMALL.rounds)


def test_the_bare_copies_hold_the_same_rows_as_the_export_files(found: bench.Findings, folder: Path) -> None:
    ours, bare = (sorted((folder / f"exported-{number}").rglob("*.parquet")) for number in (0, 1))
    assert len(ours) == len(bare) == SMALL.series * 3
    with duckdb.connect() as connection:
        for one, other in zip(ours, bare, strict=True):
            rows = [
                connection.execute(f"select * replace (epoch_us(open_time) as open_time) from '{path}'").fetchall()
                for path in (one, other)
            ]
            assert rows[0] == rows[1]


def test_the_bare_loops_make_a_line_for_each_price_of_ours() -> None:
    bars = random_bars(SMALL)
    one = [bars[name][: SMALL.bars] for name in ("high", "low", "close", "volume")]
    lines = [column for column in ENHANCED_CANDLES.columns if column.unit.startswith("price")]
    assert len(enhanced_candles_of_one(*one)) == len(lines)


def test_a_tick_is_split_into_reading_computing_and_writing_and_writes_a_row_a_series(folder: Path) -> None:
    [tick] = ticks(folder, series=2, stored=200, count=1)
    assert min(tick.read, tick.compute, tick.write, tick.bare) > 0
    assert tick.rows == 2 * 201
    with duckdb.connect(str(folder / "ticks.duckdb"), read_only=True) as connection:
        assert connection.execute("select count(*), count(obv), count(rsi_14) from wide.indicators").fetchall() == [
            (402, 402, 374)
        ]


def test_the_table_shows_the_difference_and_the_copy_holds_every_round(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {"a thing": [Comparison("step", ours=[0.003, 0.004, 0.9], bare=[0.001, 0.001, 0.5], note="as designed")]}
    bench.show(Console(width=150), found, rounds=3)
    assert capsys.readouterr().out.split()[-8:] == ["step", "4.0", "1.0", "3.0", "4.0", "75%", "as", "designed"]
    kept = bench.keep(found, {"cores": "2"}, datetime(2026, 1, 1, tzinfo=UTC), tmp_path / "results")
    assert json.loads(kept.read_text())["seconds"]["a thing"]["step"]["ours"] == [0.003, 0.004, 0.9]
