"""Candles that are missing: found wherever they lie, asked for again, given up when the source says so twice."""

import json
from datetime import UTC, datetime, timedelta

import dagster as dg
import numpy as np
import pytest

from refresh_pipeline.instance.orphaned_runs import PROCESS_TAG, this_process
from refresh_pipeline.market.candles import instant
from refresh_pipeline.market.gaps import FIRST_WAIT, LONGEST_WAIT, Gap, Place, due, planned
from refresh_pipeline.market.model import parse_market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.orchestration.sensors import repair_request, repair_sensor
from refresh_pipeline.pipeline import compute
from refresh_pipeline.pipeline import fetch as fetching
from refresh_pipeline.pipeline.quality import candle_verdicts
from refresh_pipeline.sources.registry import open_source
from refresh_pipeline.warehouse.computations import computations
from refresh_pipeline_tests.project_folder import BAZAAR, NOW, QUIET, World, command, metadata_of

BTC = Series("BTC/USD", Timeframe.m15)
KEY = BTC.key
HOLE = ["2026-06-01T03:00:00", "2026-06-01T03:15:00", "2026-06-01T03:30:00"]


def places(world: World, now: datetime = NOW) -> list[tuple[str, str, str, int, str]]:
    return [
        (gap.series.key, str(gap.first)[5:16], str(gap.last)[5:16], gap.candles, gap.place.value)
        for gap in world.warehouse.gaps(world.market, now)
    ]


def own(world: World, now: datetime = NOW) -> list[tuple[str, str, str, int, str]]:
    return [each for each in places(world, now) if each[0] == KEY]


def own_gaps(world: World, now: datetime = NOW) -> list[Gap]:
    return [gap for gap in world.warehouse.gaps(world.market, now) if gap.series == BTC]


def verdict(world: World, now: datetime = NOW) -> list[str]:
    found = candle_verdicts(world.warehouse, world.market, now)["no_candles_are_missing"]
    return [f"{fault.series} {fault.open_time}: {fault.what}" for fault in found.faults]


def fetched_with(world: World, now: datetime = NOW, **written: object) -> None:
    """A first refresh of one series from a file that lacks something."""
    world.write_candles(KEY, **written)  # pyright: ignore
    fetch(world, now)


def fetch(world: World, now: datetime = NOW, hole: tuple[str, str] | None = None) -> None:
    """What the first asset does for the series, without Dagster; just for a hole where one is given."""
    market, warehouse = world.market, world.warehouse
    warehouse.prepare(market)
    held = warehouse.series_stats(market, [BTC])
    requests = fetching.requests_for(market, held, now)
    if hole:
        since, until = (instant(time) for time in hole)
        requests = fetching.requests_for_gaps(held, {BTC: (since, until)})
    fetching.fetch_candles(warehouse, market, open_source(market, world.settings.limits_dir), requests, now)
    for table in computations(market):
        compute.compute(warehouse, market, table, [BTC])


# ---- where gaps are


def test_a_whole_series_has_no_gap(world: World) -> None:
    assert places(world) == []
    assert verdict(world) == []


def test_a_hole_in_the_middle_is_one_gap(new_world: World) -> None:
    fetched_with(new_world, without=HOLE)
    assert own(new_world) == [(KEY, "06-01T03:00", "06-01T03:30", 3, "middle")]


def test_what_lacks_at_the_beginning_and_at_the_end_is_told_apart(new_world: World) -> None:
    fetched_with(
        new_world, first=NOW.replace(second=0) - timedelta(hours=20), last=datetime(2026, 6, 1, 10, tzinfo=UTC)
    )
    gaps = own(new_world)
    # A history of one day; the newest two candles are still allowed to be on their way.
    assert gaps == [
        (KEY, "05-31T12:00", "05-31T15:45", 16, "beginning"),
        (KEY, "06-01T10:00", "06-01T11:15", 6, "end"),
    ]


def test_a_series_without_candles_is_missing_as_a_whole(new_world: World) -> None:
    new_world.candle_file(KEY).unlink()
    fetch(new_world)
    assert (KEY, "05-31T12:00", "06-01T11:15", 94, "whole") in places(new_world)


def test_as_time_goes_by_the_end_is_missing(world: World) -> None:
    late = NOW + timedelta(hours=3)
    assert own(world, late)[0] == (KEY, "06-01T12:00", "06-01T14:15", 10, "end")
    assert len(verdict(world, late)) == 8


def test_every_answer_agrees_with_a_plain_loop(world: World) -> None:
    random = np.random.default_rng(7)
    for series in world.market.series:
        stored = [row[0] for row in world.query(
            "select open_time from bazaar.raw_candles where instrument = ? and timeframe = ? order by 1",
            series.instrument, series.timeframe.value)]  # fmt: skip
        lost = random.choice(stored[1:-1], size=len(stored) // 3, replace=False).tolist()
        world.lose_candles("instrument = ? and timeframe = ? and list_contains(?, open_time)",
                           series.instrument, series.timeframe.value, lost)  # fmt: skip
    expected = []
    for series in world.market.series:
        end = np.datetime64(NOW.replace(tzinfo=None) - timedelta(minutes=30), "us")
        opens = world.market.calendar.open_times(series.timeframe, np.datetime64("2026-05-31T12:00"), end)
        opens = opens[world.market.calendar.closes(series.timeframe, opens) <= end]
        stored = {row[0] for row in world.query(
            "select open_time from bazaar.raw_candles where instrument = ? and timeframe = ?",
            series.instrument, series.timeframe.value)}  # fmt: skip
        run: list[str] = []
        for time in [*opens.tolist(), None]:
            if time is not None and time not in stored:
                run.append(time.isoformat()[5:16])
            elif run:
                expected.append((series.key, run[0], run[-1], len(run)))
                run = []
    assert sorted(gap[:4] for gap in places(world)) == sorted(expected)


def test_a_candle_off_the_grid_does_not_make_up_for_one_that_is_missing(new_world: World) -> None:
    fetched_with(new_world, without=HOLE[:1])
    new_world.change(
        "insert into bazaar.raw_candles by name select * replace (open_time + interval 7 minute as open_time) "
        "from bazaar.raw_candles limit 1"
    )
    assert own(new_world)[0][3] == 1


# ---- the view, the command, the check


def test_sql_says_the_same(world: World) -> None:
    world.lose_candles("open_time between '2026-06-01 03:00' and '2026-06-01 03:30'")
    world.warehouse.write_gaps(world.market, NOW)
    rows = world.query("select instrument, timeframe, candles, place from bazaar.gaps where place = 'middle'")
    lengths = {"m15": 3, "H1": 1}
    expected = [(s.instrument, s.timeframe.value, lengths[s.timeframe.value], "middle") for s in world.market.series]
    assert sorted(rows) == sorted(expected)
    counts = world.query("select instrument, timeframe, stored from bazaar.completeness order by all")
    assert [row[2] for row in counts] == [23, 93] * 4


def test_the_command_lists_counts_and_stretches(world: World) -> None:
    world.lose_candles("timeframe = 'm15' and open_time = '2026-06-01 03:00'")
    result = command("gaps", "--json", "--now", NOW.isoformat())
    assert result.exit_code == 0
    rows = json.loads(result.stdout)
    assert [(row["instrument"], row["timeframe"]) for row in rows] == [
        (series.instrument, series.timeframe.value) for series in world.market.series
    ]
    assert rows[0] == {
        "market": "bazaar", "instrument": "BTC/USD", "timeframe": "m15", "expected_count": 96, "stored_count": 95,
        "completeness": 0.989583,
        "gaps": [{"first": "2026-06-01T03:00:00Z", "last": "2026-06-01T03:00:00Z", "candles": 1, "place": "middle",
                  "confirmed": False, "asked_at": None}],
    }  # fmt: skip
    assert rows[-1]["gaps"] == []
    text = command("gaps", "--now", NOW.isoformat()).stdout
    assert "BTC/USD m15 1 2026-06-01 03:00 2026-06-01 03:00 middle" in [
        " ".join(line.split()) for line in text.splitlines()
    ]
    assert "bazaar: 4 of 8 series complete; 476 of 480 expected candles stored" in text
    every = command("gaps", "--all", "-t", "m15", "--now", NOW.isoformat()).stdout
    assert "BTC/USD m15 96 95 98.96 % 1" in [" ".join(line.split()) for line in every.splitlines()]
    assert "H1" not in every


def test_before_any_refresh_everything_is_missing_and_nothing_is_left_behind(new_world: World) -> None:
    rows = json.loads(command("gaps", "--json", "--now", NOW.isoformat()).stdout)
    assert {(row["stored_count"], row["gaps"][0]["place"]) for row in rows} == {(0, "whole")}
    assert not (new_world.root / "data").exists()


def test_the_check_names_each_gap(new_world: World) -> None:
    fetched_with(new_world, without=HOLE)
    said = [line for line in verdict(new_world) if line.startswith(str(BTC))]
    assert said == ["BTC/USD m15 2026-06-01T03:00:00.000000: 3 missing up to 2026-06-01T03:30:00 (middle)"]


# ---- what the source does not have


def test_a_gap_within_what_was_asked_for_is_noted_and_believed_at_the_second_time(new_world: World) -> None:
    fetched_with(new_world, without=HOLE)
    (gap,) = own_gaps(new_world)
    assert (gap.asked_at, gap.is_confirmed, gap.due_at) == (NOW, False, NOW + FIRST_WAIT)
    later = NOW + timedelta(hours=2)
    ask_for_the_hole(new_world, later)
    gap = own_gaps(new_world, later)[0]
    assert (gap.first_asked_at, gap.asked_at, gap.is_confirmed) == (NOW, later, True)
    assert gap.due_at == later + timedelta(hours=4)
    assert [line for line in verdict(new_world, later) if "middle" in line] == []
    assert new_world.query("select asks, candles from bazaar.confirmed_gaps") == [(2, 3)]
    # Not at the source is missing all the same.
    words = command("gaps", "--now", later.isoformat()).stdout.split()
    assert " ".join(words).count("not at the source") == 1


def ask_for_the_hole(world: World, now: datetime) -> None:
    fetch(world, now, ("2026-06-01T03:00", "2026-06-01T03:30:00.000001"))


def test_a_part_of_a_gap_that_was_asked_for_proves_nothing(new_world: World) -> None:
    fetched_with(new_world, without=HOLE)
    new_world.change("delete from bazaar.confirmed_gaps")
    fetch(new_world, NOW, ("2026-06-01T03:00", "2026-06-01T03:15:00.000001"))
    assert new_world.query("select * from bazaar.confirmed_gaps") == []


def test_what_arrives_after_all_is_known_no_more_and_everything_is_computed_from_it(new_world: World) -> None:
    fetched_with(new_world, without=HOLE)
    new_world.write_candles(KEY)
    ask_for_the_hole(new_world, NOW + timedelta(hours=2))
    assert new_world.query("select * from bazaar.confirmed_gaps") == []
    assert own(new_world) == []
    repaired = {table.value: new_world.lasting_rows(table.value) for table in computations(new_world.market)}
    (new_world.root / "data" / "refresh.duckdb").unlink()
    fetch(new_world)
    for table in computations(new_world.market):
        assert repaired[table.value] == new_world.lasting_rows(table.value)


def test_a_source_that_failed_has_said_nothing(new_world: World) -> None:
    fetched_with(new_world, without=HOLE)
    new_world.change("delete from bazaar.confirmed_gaps")
    new_world.candle_file(KEY).write_text("no\ncandles\n")
    ask_for_the_hole(new_world, NOW)
    assert new_world.query("select * from bazaar.confirmed_gaps") == []


# ---- when gaps are asked for


def gap(first: str = "2026-06-01T03:00", candles: int = 1, series: Series = BTC, asked: float | None = None,
        since: float = 0.0, place: Place = Place.middle) -> Gap:  # fmt: skip
    """A gap of m15 candles that was first asked for `since` hours before NOW, and last `asked` hours before."""
    start = np.datetime64(first, "us")
    last = start + np.timedelta64(15 * (candles - 1), "m")
    moments = () if asked is None else (NOW - timedelta(hours=since), NOW - timedelta(hours=asked))
    return Gap(series, start, last, candles, place, *moments)


def test_a_gap_that_a_clock_which_was_ahead_asked_for_is_due_at_once() -> None:
    asked = datetime(2026, 6, 2, 12, tzinfo=UTC)
    start = np.datetime64("2026-06-01T06:00", "us")
    ahead = Gap(Series("A", Timeframe.m1), start, start, 1, Place.middle, asked, asked)
    assert due([ahead], asked - timedelta(hours=26)) == [ahead]
    assert due([ahead], asked + timedelta(minutes=5)) == []


def test_a_gap_is_due_at_once_and_then_ever_more_rarely() -> None:
    assert due([gap()], NOW) == [gap()]
    assert due([gap(asked=0.9, since=0.9)], NOW) == []
    assert len(due([gap(asked=1, since=1)], NOW)) == 1
    # Last asked for four hours ago, twelve hours after the first time: the next time is a day after that.
    assert due([gap(asked=4, since=16)], NOW) == []
    assert gap(asked=4, since=16).due_at == NOW - timedelta(hours=4) + timedelta(hours=24)
    assert gap(asked=0, since=10_000).due_at == NOW + LONGEST_WAIT


def test_the_end_is_no_repair() -> None:
    assert due([gap(place=Place.end)], NOW) == []


MARKET = parse_market(
    "{name: many, source: {kind: demo}, calendar: crypto, instruments: [A, B, C], timeframes: [m15], history: 2y}",
    "m",
)
A, B, C = MARKET.series


def test_gaps_that_lie_close_together_are_one_request() -> None:
    near, far = gap("2026-06-01T03:00", 3, A), gap("2026-06-05T03:00", 2, A)
    plan = planned(MARKET, [near, far, gap("2026-09-01T03:00", 1, A)])
    assert [str(time)[:16] for time in plan[A]] == ["2026-06-01T03:00", "2026-06-05T03:15"]


def test_a_tick_keeps_to_its_budget_and_important_series_go_first() -> None:
    gaps = [gap(candles=30_000, series=series) for series in (C, B, A)]
    assert list(planned(MARKET, gaps)) == [A]
    assert list(planned(MARKET, [gap(candles=20_000, series=series) for series in (C, B, A)])) == [A, B]
    # One larger than the budget has a tick alone, or it would never be filled.
    assert list(planned(MARKET, [gap(candles=70_000, series=A), gap(series=B)])) == [A]


def test_nothing_missing_is_nothing_to_ask_for() -> None:
    skipped = repair_request(MARKET, [], NOW)
    assert isinstance(skipped, dg.SkipReason)
    assert skipped.skip_message == "no candles of many are missing"


def test_what_the_source_lacks_is_left_alone_for_a_while() -> None:
    skipped = repair_request(MARKET, [gap(series=A, asked=0, since=0)], NOW)
    assert isinstance(skipped, dg.SkipReason)
    assert skipped.skip_message == "gaps without candles at the source: 1; the next attempt is at 2026-06-01 13:00 UTC"


# ---- the sensor on an instance


def look(world: World, instance: dg.DagsterInstance) -> tuple[list[dg.RunRequest], str | None]:
    with dg.build_sensor_context(instance=instance, resources={"warehouse": world.warehouse}) as context:
        answer = repair_sensor(world.market).evaluate_tick(context)
    return list(answer.run_requests or []), answer.skip_message


@pytest.mark.parametrize("found", [False, True])
def test_the_sensor_repairs_a_hole_and_nothing_else(new_world: World, found: bool) -> None:
    only = BAZAAR.replace("[BTC/USD, ETH/USD, SOL/USD, XRP/USD]", "[BTC/USD]").replace("[m15, H1]", "[m15]")
    (new_world.root / "markets" / "bazaar.yaml").write_text(only)
    now = datetime.now(UTC)
    first = now.replace(minute=0, second=0, microsecond=0) - timedelta(hours=20)
    hole = [(first + timedelta(hours=5, minutes=15 * n)).strftime("%Y-%m-%dT%H:%M:%S") for n in range(3)]
    new_world.write_candles(KEY, first=first, last=now, without=hole)
    assert new_world.run(keys=[KEY], now=now).success
    new_world.change("update bazaar.confirmed_gaps set first_asked_at = first_asked_at - interval 61 minute, "
                     "asked_at = asked_at - interval 61 minute")  # fmt: skip
    if found:
        new_world.write_candles(KEY, first=first, last=now)
    with dg.DagsterInstance.ephemeral() as instance:
        (request,), _ = look(new_world, instance)
        result = new_world.job("refresh").execute_in_process(
            instance=instance,
            tags={**request.tags, PROCESS_TAG: this_process()},
            run_config={**request.run_config, **QUIET},
        )
    assert list(metadata_of(result, "raw_candles")) == [KEY]
    assert metadata_of(result, "raw_candles")[KEY]["rows_added"] == (3 if found else 0)
    middle = [gap for gap in new_world.warehouse.gaps(new_world.market, now) if gap.place is Place.middle]
    assert [gap.is_confirmed for gap in middle] == ([] if found else [True])


def test_before_any_refresh_there_is_nothing_to_repair(new_world: World) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        assert look(new_world, instance) == ([], "no candles of bazaar are missing")
    assert not (new_world.root / "data").exists()


# ---- what is kept so that no look reads candles


def test_ranges_that_are_lost_or_of_another_calendar_are_derived_again(world: World) -> None:
    before = world.query("select * from bazaar.stored_ranges order by all")
    for harm in ("delete from bazaar.stored_ranges", "update bazaar.stored_ranges set calendar = 1, "
                 "first_open_time = last_open_time"):  # fmt: skip
        world.change(harm)
        assert places(world) == []
        world.warehouse.prepare(world.market)
        assert world.query("select * from bazaar.stored_ranges where calendar <> 1 order by all") == before


def test_a_look_writes_nothing(world: World) -> None:
    before = world.fingerprints()
    world.change("delete from bazaar.stored_ranges")
    rows = json.loads(command("gaps", "--json", "--now", "2046-01-01T00:00:00Z").stdout)
    assert rows[0]["expected_count"] > 600_000
    assert {**world.fingerprints(), "bazaar.stored_ranges": before["bazaar.stored_ranges"]} == before


def test_tables_of_the_version_that_wrote_expected_bars_down_are_brought_forward(world: World) -> None:
    before = (places(world), world.query("select * from bazaar.raw_candles order by all"))
    for statement in (
        "drop table bazaar.gaps", "drop table bazaar.completeness", "drop table bazaar.stored_ranges",
        "create table bazaar.expected_candles (sessions varchar, timeframe varchar, open_time timestamp, "
        "closes_at timestamp, number bigint)",
        "create table bazaar.expectations (instrument varchar, timeframe varchar, sessions varchar, since timestamp)",
        "create view bazaar.gaps as select instrument, timeframe, since as first_open_time from bazaar.expectations",
        "create view bazaar.completeness as select * from bazaar.expectations",
        "update bazaar.schema_info set schema_version = 2",
    ):  # fmt: skip
        world.change(statement)
    assert places(world) == before[0]
    assert world.run(now=NOW).success
    assert (places(world), world.query("select * from bazaar.raw_candles order by all")) == before
    names = {row[0] for row in world.query("select table_name from duckdb_tables()")}
    assert not names & {"expected_candles", "expectations"}
    assert world.query("select count(*), min(stored), max(as_of) from bazaar.completeness") == [
        (8, 24, NOW.replace(tzinfo=None))
    ]
