"""Whether the trial of bounded growth still runs and finds the same states before and after; and what a tick adds."""

from datetime import UTC, datetime
from pathlib import Path

from refresh_pipeline.warehouse.schema import FIXED_TABLES, Table
from refresh_pipeline_tests.benchmarks import old_rows
from refresh_pipeline_tests.benchmarks.growth import attempted, filled
from refresh_pipeline_tests.benchmarks.steady_state import measured


def test_after_pruning_every_partitions_state_is_the_same(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    with filled(tmp_path, series=6, events=180 * 18, now=now) as made:
        found = attempted(made, now)
    assert len(made.runs) == 180
    # Two hours are kept, and of the hour before that the run in which some partitions were made last.
    assert (found.pruned.runs, found.pruned.thinned) == (59, 1)
    assert found.dry.runs == found.pruned.runs
    assert found.events[1] < found.events[0]
    assert found.bytes[1] < found.bytes[0]
    assert found.same_states
    assert found.same_answers


def test_what_a_tick_adds_is_told_of_dagster_and_of_each_large_table(tmp_path: Path) -> None:
    growth = measured(tmp_path, series=2, ticks=1)
    assert growth.dagster > 100_000
    assert list(growth.tables) == ["raw_candles", "enhanced_candles", "indicators", "checkpoints"]
    told = list(growth.lines())
    assert len(told) == 6
    assert "180 runs at most" in told[0]
    assert "2 days are kept" in told[4]


def test_old_rows_are_read_as_appended_and_in_order(tmp_path: Path) -> None:
    cells = 30 * 3 * 1440 * len(FIXED_TABLES[Table.raw_candles])
    before, after, done = old_rows.attempted(tmp_path, series=30, days=4, cells=cells)
    # The newest day is left alone.
    assert (done.rows, done.pieces) == (30 * 3 * (1440 + 288 + 96 + 24 + 1), 1)
    for each in (before, after):
        assert each.megabytes > 0
        assert list(each.ticks) == ["m1", "m5", "m15", "H1", "D1"]
        assert min(*each.ticks.values(), each.one_series) > 0
