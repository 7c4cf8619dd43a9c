"""Rejected candles are reported wherever a series is: outcome, check, status, alerts, tables, reports."""

import io

import pytest
from rich.console import Console

from refresh_pipeline.cli.status import print_status
from refresh_pipeline.monitoring.problems import rejections
from refresh_pipeline.monitoring.status import status_rows
from refresh_pipeline.pipeline.quality import candle_verdicts
from refresh_pipeline.warehouse.outcomes import Outcome
from refresh_pipeline_tests.project_folder import LATER, NOW, World
from refresh_pipeline_tests.step_helpers import BTC, fetched

HEADER = "open_time,open,high,low,close,volume\n"
GOOD = "2026-06-01 {:02}:00:00,100.0,100.5,98.5,99.0,{}\n"
ZERO = "2026-06-01 {:02}:00:00,0,0,0,0,1000\n"


def refreshed(world: World, text: str, now=NOW):
    """The attempt at a series whose file holds this text."""
    world.candle_file("BTC/USD|m15").write_text(text)
    return fetched(world, now, [BTC])[BTC]


def shown(world: World) -> str:
    rows = status_rows(world.settings, [world.market], NOW)
    output = io.StringIO()
    print_status(Console(file=output, width=300), "", rows, by_series=True)
    return output.getvalue()


# Words, and zeros for everything.
@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("2026-06-01 {:02}:00:00,ten,100.5,98.5,99.0,1000\n", "open is no number"),
        (ZERO, "a price is zero or negative"),
    ],
)
def test_a_series_with_nothing_but_rejected_rows_has_failed_with_the_first_reason(
    new_world: World, row: str, reason: str
) -> None:
    attempt = refreshed(new_world, HEADER + "".join(row.format(hour) for hour in range(4)))
    assert attempt.outcome is Outcome.failed
    assert attempt.reason is not None
    assert attempt.reason.startswith("the answer has no valid candle; 4 rejected: ")
    assert attempt.reason.endswith(reason)
    assert not attempt.transient


@pytest.mark.parametrize("volume", ["N/A", "-", "68.18Q", "", "?"])
def test_an_unreadable_volume_is_null_and_the_candle_stays(new_world: World, volume: str) -> None:
    attempt = refreshed(new_world, HEADER + "".join(GOOD.format(hour, volume) for hour in range(4)))
    assert (attempt.outcome, attempt.rows_added, attempt.reason) == (Outcome.updated, 4, None)
    assert new_world.query("select distinct volume from bazaar.raw_candles") == [(None,)]


def test_rejected_candles_are_reported_until_good_ones_are_stored_in_their_place(new_world: World) -> None:
    good = "".join(GOOD.format(hour, 5) for hour in range(4))
    attempt = refreshed(new_world, HEADER + good + ZERO.format(5) + ZERO.format(6))
    assert (attempt.outcome, attempt.reason) == (Outcome.updated, "2 rejected: a price is zero or negative")
    new_world.warehouse.record(new_world.market, "raw_candles", {BTC: attempt}, run_id="1", now=NOW)
    [fault] = candle_verdicts(new_world.warehouse, new_world.market, NOW)["nothing_was_rejected"].faults
    assert (fault.series, fault.what) == (BTC, "2 rejected: a price is zero or negative")
    assert "2 rejected: a price is zero or negative" in shown(new_world)
    [problem] = rejections(new_world.market, new_world.warehouse.series_status(new_world.market))
    assert (problem.kind, "2 rejected: a price is zero" in problem.text) == ("rejected candles", True)
    # A later answer without them: the candles are missing all the same.
    attempt = refreshed(new_world, HEADER + good, LATER)
    new_world.warehouse.record(new_world.market, "raw_candles", {BTC: attempt}, run_id="2", now=LATER)
    assert candle_verdicts(new_world.warehouse, new_world.market, LATER)["nothing_was_rejected"].faults
    attempt = refreshed(new_world, HEADER + good + GOOD.format(5, 1) + GOOD.format(6, 1), LATER)
    new_world.warehouse.record(new_world.market, "raw_candles", {BTC: attempt}, run_id="3", now=LATER)
    assert not candle_verdicts(new_world.warehouse, new_world.market, LATER)["nothing_was_rejected"].faults
    assert new_world.warehouse.activity(new_world.market, NOW.replace(year=2025), LATER).rejected == 2
