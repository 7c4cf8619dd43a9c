"""What the command shows, and the rows of `refresh status`: values held against what is stored."""

import re
import time
from collections.abc import Sequence
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from refresh_pipeline.cli.gaps import print_gaps
from refresh_pipeline.cli.status import print_status
from refresh_pipeline.cli.tables import print_refreshed, progress_bars
from refresh_pipeline.destinations.upload_url import OFF
from refresh_pipeline.market.series import Series
from refresh_pipeline.monitoring.status import status_rows
from refresh_pipeline.orchestration.run_jobs import Refreshed
from refresh_pipeline.warehouse.queries import SeriesOutcome
from refresh_pipeline.warehouse.schema import Table
from refresh_pipeline_tests.project_folder import LATER, NOW, World

BTC, ETH, XRP = (Series.from_key(key) for key in ("BTC/USD|m15", "ETH/USD|m15", "XRP/USD|H1"))
FIELDS = {
    "market",
    "instrument",
    "timeframe",
    "newest_candle",
    "expected_candle",
    "bars_behind",
    "age_seconds",
    "first_candle",
    "candle_count",
    "completeness",
    "outcome",
    "reason",
    "rejections",
    "attempted_at",
    "failed",
}


def printed(
    world: World, outcomes: Sequence[SeriesOutcome], verbose: int = 0, action: str = "refresh", **more: Any
) -> str:
    """What is printed of an action with these outcomes, blanks squeezed."""
    out = StringIO()
    fields: dict[str, Any] = {"errors": [], "failed_checks": {}, "places": {"warehouse": "/here/refresh.duckdb"}} | more
    result = Refreshed(world.market, outcomes, **fields)
    print_refreshed(Console(file=out, width=160), action, [result], verbose)
    return "\n".join(" ".join(line.split()) for line in out.getvalue().splitlines())


def outcome(series: Series, asset: Table, what: str = "updated", **more: Any) -> SeriesOutcome:
    fields: dict[str, Any] = {"reason": None, "rows_added": 0, "rows_revised": 0} | more
    return SeriesOutcome(asset, series, what, **fields)


STORY = [
    outcome(BTC, Table.raw_candles, rows_added=8, rows_revised=1),
    outcome(ETH, Table.raw_candles, "unchanged"),
    outcome(XRP, Table.raw_candles, "no data"),
    outcome(BTC, Table.indicators, rows_added=8, rows_revised=1),
    outcome(BTC, Table.exports, rows_added=104),
    outcome(ETH, Table.exports, "unchanged"),
    outcome(BTC, Table.uploads),
]


def test_a_refresh_is_a_row_per_timeframe(new_world: World) -> None:
    text = printed(new_world, STORY)
    assert "bazaar: refresh" in text.splitlines()
    assert "timeframe series added revised computed exported uploaded outcome" in text
    assert "m15 2 8 1 9 1 1 1 updated, 1 unchanged" in text.splitlines()
    assert "H1 1 0 0 0 0 0 1 no data" in text.splitlines()
    assert "warehouse /here/refresh.duckdb" in text


def test_uploads_that_are_off_are_said_in_the_table_and_below_it(new_world: World) -> None:
    story = [*STORY[:-1], outcome(BTC, Table.uploads, "unchanged", reason=OFF)]
    text = printed(new_world, story, places={"warehouse": "/here/refresh.duckdb", "uploads": OFF})
    assert "m15 2 8 1 9 1 off 1 updated, 1 unchanged" in text.splitlines()
    assert f"uploads {OFF}" in text.splitlines()


@pytest.mark.parametrize("action", ["refresh", "backfill", "publish"])
def test_the_title_is_the_action_whatever_came_of_it(new_world: World, action: str) -> None:
    failed = [outcome(BTC, Table.exports, "failed", reason="no room")]
    for outcomes in ([], failed, STORY):
        assert f"bazaar: {action}" in printed(new_world, outcomes, action=action, errors=["no room"]).splitlines()


def test_with_v_it_is_a_row_per_series(new_world: World) -> None:
    lines = printed(new_world, STORY, verbose=1).splitlines()
    assert "BTC/USD m15 8 1 9 1 1 1 updated" in lines
    assert "ETH/USD m15 0 0 0 0 0 1 unchanged" in lines


def test_a_reason_is_told_once_with_those_it_befell(new_world: World) -> None:
    failed = [outcome(series, Table.raw_candles, "failed", reason="HTTP 503") for series in (BTC, ETH, XRP)]
    text = printed(new_world, [*failed, outcome(BTC, Table.uploads, "failed", reason="no room")])
    assert "failed: raw_candles of BTC/USD m15, ETH/USD m15, XRP/USD H1: HTTP 503" in text
    assert "failed: uploads of BTC/USD m15: no room" in text
    assert "m15 2 0 0 0 0 0 2 failed" in text


def test_of_many_that_failed_a_few_are_named(new_world: World) -> None:
    failed = [outcome(s, Table.raw_candles, "failed", reason="HTTP 503") for s in new_world.market.series]
    assert "SOL/USD m15, XRP/USD m15, BTC/USD H1 and 3 more: HTTP 503" in printed(new_world, failed)


def test_what_was_wrong_beyond_series_is_told(new_world: World) -> None:
    checks = {"prices_are_coherent": "3"}
    text = printed(new_world, [], errors=["bazaar__uploads: [bold]odd[/bold] words"], failed_checks=checks)
    assert "bazaar__uploads: [bold]odd[/bold] words" in text
    assert "check not passed: prices_are_coherent (3)" in text


# ---- status


def row_of(rows: Sequence[dict[str, Any]], series: Series) -> dict[str, Any]:
    return next(r for r in rows if (r["instrument"], r["timeframe"]) == (series.instrument, series.timeframe.value))


def test_every_series_has_a_row_with_every_field_in_the_order_of_importance(world: World) -> None:
    rows = status_rows(world.settings, [world.market], NOW)
    assert [(row["instrument"], row["timeframe"]) for row in rows] == [
        (series.instrument, series.timeframe.value) for series in world.market.series
    ]
    assert all(row.keys() == FIELDS for row in rows)


def test_a_series_that_is_up_to_date(world: World) -> None:
    assert row_of(status_rows(world.settings, [world.market], NOW), BTC) == {
        "market": "bazaar",
        "instrument": "BTC/USD",
        "timeframe": "m15",
        "newest_candle": "2026-06-01T11:45:00Z",
        "expected_candle": "2026-06-01T11:45:00Z",
        "bars_behind": 0,
        "age_seconds": 30.0,
        "first_candle": "2026-05-31T12:00:00Z",
        "candle_count": 96,
        "completeness": 1.0,
        "outcome": "updated",
        "reason": None,
        "rejections": None,
        "attempted_at": "2026-06-01T12:00:30Z",
        "failed": {},
    }


def test_why_a_series_has_no_data_is_printed_and_is_no_rejection(world: World) -> None:
    empty = outcome(ETH, Table.raw_candles, "no data", reason="found no file of it")
    text = printed(world, [outcome(BTC, Table.raw_candles), empty])
    assert "no data: ETH/USD m15: found no file of it" in text
    assert "1 no data, 1 updated" in text.replace("1 updated, 1 no data", "1 no data, 1 updated")
    out = StringIO()
    row = row_of(status_rows(world.settings, [world.market], NOW), ETH) | {"outcome": "no data", "reason": "no file"}
    print_status(Console(file=out, width=80), "/x", [row], by_series=True)
    assert "no data: bazaar ETH/USD m15: no file" in out.getvalue()


def test_a_series_falls_behind_as_time_goes_by(world: World) -> None:
    row = row_of(status_rows(world.settings, [world.market], LATER), BTC)
    assert (row["newest_candle"], row["expected_candle"]) == ("2026-06-01T11:45:00Z", "2026-06-01T13:45:00Z")
    assert (row["bars_behind"], row["age_seconds"]) == (8, 7230.0)
    assert row["completeness"] == round(96 / 102, 6)


def test_a_series_that_failed_says_why(world: World) -> None:
    world.candle_file("ETH/USD|m15").write_text("no\ncandles\n")
    world.run(keys=["ETH/USD|m15"], now=LATER)
    row = row_of(status_rows(world.settings, [world.market], LATER), ETH)
    assert (row["outcome"], row["candle_count"]) == ("failed", 96)
    assert "expected a first row" in row["reason"]


def test_files_that_failed_are_told_beside_the_candles(world: World) -> None:
    in_the_way = world.root / "data" / "uploads" / "bazaar" / "ETH-USD_m15.csv"
    in_the_way.unlink(missing_ok=True)
    in_the_way.mkdir(parents=True)
    world.run("publish", now=LATER)
    rows = status_rows(world.settings, [world.market], LATER)
    assert (row_of(rows, ETH)["outcome"], [*row_of(rows, ETH)["failed"]]) == ("updated", ["uploads"])
    assert row_of(rows, BTC)["failed"] == {}
    out = StringIO()
    print_status(Console(file=out, width=160), str(world.settings.database), rows, by_series=True)
    assert "failed: bazaar/uploads of ETH/USD m15: bazaar/ETH-USD_m15.csv" in out.getvalue()
    in_the_way.rmdir()
    world.run("publish", now=LATER)
    assert row_of(status_rows(world.settings, [world.market], LATER), ETH)["failed"] == {}
    assert in_the_way.is_file()


def test_before_any_refresh_there_is_nothing_but_what_is_expected(new_world: World) -> None:
    rows = status_rows(new_world.settings, [new_world.market], NOW)
    empty = {name for name, value in rows[0].items() if value is None}
    assert empty == FIELDS - {"market", "instrument", "timeframe", "candle_count", "expected_candle", "failed"}
    assert {row["candle_count"] for row in rows} == {0}
    assert not (new_world.root / "data").exists()


def test_a_market_that_was_never_refreshed_stands_beside_one_that_was(world: World) -> None:
    other = world.market.model_copy(update={"name": "other"})
    rows = status_rows(world.settings, [other, world.market, other], NOW)
    assert [row["candle_count"] for row in rows if row["timeframe"] == "H1"] == [0] * 4 + [24] * 4 + [0] * 4


def test_the_table_shows_what_the_rows_say(world: World) -> None:
    world.candle_file("ETH/USD|m15").unlink()
    world.run(keys=["ETH/USD|m15"], now=LATER)
    out = StringIO()
    console = Console(file=out, width=80)
    print_status(
        console, str(world.settings.database), status_rows(world.settings, [world.market], LATER), by_series=True
    )
    assert max(len(line) for line in out.getvalue().splitlines() if "refresh.duckdb" not in line) <= 80
    lines = [" ".join(line.split()) for line in out.getvalue().splitlines()]
    assert "BTC/USD m15 2026-06-01 11:45 2h 8 96 94.12 % updated" in lines
    assert "ETH/USD m15 2026-06-01 11:45 2h 8 96 94.12 % unchanged" in lines
    assert f"warehouse {world.root}/data/refresh.duckdb" in lines


def test_the_table_before_any_refresh(new_world: World) -> None:
    out = StringIO()
    rows = status_rows(new_world.settings, [new_world.market], NOW)
    print_status(Console(file=out, width=160), "", rows, by_series=True)
    assert "XRP/USD H1 - - - 0 - never" in [" ".join(x.split()) for x in out.getvalue().splitlines()]
    assert "Nothing is stored yet: refresh once fetches candles." in out.getvalue()


def five_hundred_rows(fault: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of 500 series on five timeframes; the first one has the fault."""
    row = {
        **dict.fromkeys(FIELDS),
        "market": "wide",
        "newest_candle": "2026-06-01T11:45:00Z",
        "bars_behind": 0,
        "age_seconds": 30.0,
        "candle_count": 96,
        "completeness": 1.0,
        "outcome": "updated",
        "failed": {},
    }
    rows = [
        {**row, "instrument": f"INSTRUMENT{number}", "timeframe": timeframe}
        for timeframe in ("m1", "m5", "m15", "H1", "D1")
        for number in range(100)
    ]
    return [{**rows[0], **fault}, *rows[1:]]


def test_a_status_of_500_series_is_a_line_per_timeframe_that_adds_up() -> None:
    out = StringIO()
    rows = five_hundred_rows({"outcome": "failed", "reason": "HTTP 503", "bars_behind": 3, "completeness": 0.5})
    print_status(Console(file=out, width=80), "/x", rows, by_series=False)
    lines = [" ".join(line.split()) for line in out.getvalue().splitlines()]
    assert len(lines) < 15
    assert "m1 100 2026-06-01 11:45 1 9,600 99.50 % 1" in lines
    assert "m5 100 2026-06-01 11:45 0 9,600 100 % 0" in lines
    assert "failed: wide/raw_candles of INSTRUMENT0 m1: HTTP 503" in lines
    assert "refresh status --failed lists series at fault; refresh gaps lists gaps." in lines


def test_a_window_that_is_too_narrow_cuts_no_figure() -> None:
    out = StringIO()
    print_status(Console(file=out, width=40), "/x", five_hundred_rows({}), by_series=False)
    assert "m1 100 2026-06-01 11:45 0 9,600 100 % 0" in [" ".join(line.split()) for line in out.getvalue().splitlines()]


def test_a_share_just_below_100_percent_does_not_show_as_100() -> None:
    out = StringIO()
    rows = five_hundred_rows({"completeness": 0.999999})
    print_status(Console(file=out, width=80), "/x", rows[:1], by_series=True)
    assert "99.99 %" in out.getvalue()


@pytest.mark.parametrize("verbose", [0, 1])
def test_the_table_of_a_refresh_fits_80_columns(new_world: World, verbose: int) -> None:
    out = StringIO()
    outcomes = [outcome(s, Table.raw_candles, rows_added=100_000) for s in new_world.market.series]
    outcomes[0] = outcome(outcomes[0].series, Table.raw_candles, "no data")
    results = [Refreshed(new_world.market, outcomes, [], {}, {})]
    service = "refresh up (process 1234567, port 3000)" if verbose else None
    print_refreshed(Console(file=out, width=80), "refresh", results, verbose, service)
    text = out.getvalue()
    up = "; web UI and dashboard: refresh up (process 1234567, port 3000)." if verbose else ", refresh up (web UI and"
    assert f"Next: refresh status{up}" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 80
    assert "\u2026" not in text
    assert ("1 no data" in " ".join(text.split())) or verbose


def test_many_gaps_are_cut_unless_all_are_asked_for() -> None:
    gap = {"first": "2026-06-01T03:00:00Z", "last": "2026-06-01T04:00:00Z", "candles": 5, "place": "middle"}
    counts = {"expected_count": 9, "stored_count": 4, "completeness": 0.4444}
    rows = [
        {
            "market": "wide",
            "instrument": f"I{number}",
            "timeframe": "m15",
            "gaps": [{**gap, "confirmed": True}],
            **counts,
        }
        for number in range(500)
    ]
    out, every = StringIO(), StringIO()
    print_gaps(Console(file=out, width=80), rows)
    print_gaps(Console(file=every, width=80), rows, with_complete=True)
    lines = out.getvalue().splitlines()
    assert len(lines) < 70
    assert max(map(len, lines)) <= 80
    assert "... and 470 more: --all, or narrow by -i and -t" in lines
    assert "wide: 0 of 500 series complete; 2,000 of 4,500 expected candles stored" in lines
    assert every.getvalue().count("middle, not at") == 500


# ---- progress


def test_on_a_terminal_each_kind_of_work_has_a_bar() -> None:
    out = StringIO()
    with progress_bars(Console(file=out, force_terminal=True, width=100)) as watch:
        watch("raw_candles", 1, 4)
        watch("raw_candles", 4, 4)
        watch("indicators", 2, 4)
    text = out.getvalue()
    assert "raw candles" in text
    assert "4/4" in text
    assert "2/4" in text


def test_a_bar_shows_how_many_a_second_and_how_much_time_is_left_on_a_narrow_terminal() -> None:
    out = StringIO()
    with progress_bars(Console(file=out, force_terminal=True, width=80)) as watch:
        for done in range(0, 40_000, 10_000):
            watch("candles", done, 1_000_000)
            time.sleep(0.05)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())
    assert re.search(r"30000/1000000 +[\d,]+/s elapsed 0:00:0\d left 0:\d\d:\d\d", text), text


def test_into_a_file_goes_no_bar() -> None:
    out = StringIO()
    with progress_bars(Console(file=out)) as watch:
        watch("raw_candles", 1, 4)
    assert out.getvalue() == ""


@pytest.mark.parametrize("verbose", [0, 1])
def test_a_market_without_any_outcome_is_an_empty_table(new_world: World, verbose: int) -> None:
    assert "bazaar: refresh" in printed(new_world, [], verbose=verbose)
