"""The story as a user sees it: what is in the tables and files after one refresh, after two, after a correction."""

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refresh_pipeline_tests.isolated_env import inside
from refresh_pipeline_tests.project_folder import FIRST, LATER, NOW, World, failures_of, metadata_of, verdicts_of

START = NOW - timedelta(days=1)
COMPUTED = ("enhanced_candles", "indicators")
PROVENANCE = {"source", "fetched_at"}

Twin = Callable[..., World]


@pytest.fixture
def twin(founded: World, tmp_path: Path) -> Twin:
    """A world that learns everything at once, to hold another one against that has learnt it bit by bit."""

    def refreshed_at_once(like: World, now: datetime, since: datetime = START) -> World:
        other = founded.copied(tmp_path / "twin")
        for folder in ("candles", "markets"):
            for file in (like.root / folder).iterdir():
                (other.root / folder / file.name).write_bytes(file.read_bytes())
        with inside(other.root):
            refresh(other, now, since=since.isoformat())
        return other

    return refreshed_at_once


def rows(world: World, table: str) -> tuple[list[tuple], np.ndarray]:
    """A table as its keys and its numbers, what only says when and whence left out."""
    described = [row[0] for row in world.query(f"describe bazaar.{table}") if row[0] not in PROVENANCE]
    found = world.query(f"select {', '.join(described)} from bazaar.{table} order by 1, 2, 3")
    numbers = [[np.nan if value is None else value for value in row[3:] if not isinstance(value, str)] for row in found]
    return [(*row[:3], *(value for value in row[3:] if isinstance(value, str))) for row in found], padded(numbers)


def padded(numbers: list[list[float]]) -> np.ndarray:
    width = max(map(len, numbers), default=0)
    return np.array([[*row, *[np.nan] * (width - len(row))] for row in numbers], dtype=float)


def assert_same(one: World, other: World, table: str) -> None:
    (keys, numbers), (other_keys, other_numbers) = rows(one, table), rows(other, table)
    assert keys == other_keys
    np.testing.assert_allclose(numbers, other_numbers, rtol=1e-9, equal_nan=True)


def assert_equals(one: World, other: World) -> None:
    for table in ("raw_candles", *COMPUTED):
        assert_same(one, other, table)


def without_outcomes(world: World) -> dict[str, list[tuple]]:
    """Every table but those that say how things stand at an instant."""
    standing = {f"bazaar.{name}" for name in ("outcomes", "check_results", "gaps", "completeness")}
    return {name: found for name, found in world.tables().items() if name not in standing}


def refresh(world: World, now: datetime, **asked: Any) -> None:
    result = world.run("refresh", now=now, **asked)
    assert result.success, failures_of(result)


def publish(world: World, now: datetime, **asked: Any) -> None:
    result = world.run("publish", now=now, **asked)
    assert result.success, failures_of(result)


# ---- again and again


def test_refreshing_twice_changes_nothing_at_all(world: World) -> None:
    # A copied world uploads into another folder, which is a change.
    publish(world, NOW)
    tables, exports, uploads = without_outcomes(world), world.files("exports"), world.files("uploads")
    refresh(world, NOW + timedelta(minutes=10))
    publish(world, NOW + timedelta(minutes=10))
    assert without_outcomes(world) == tables
    assert world.files("exports") == exports
    assert world.files("uploads") == uploads
    assert {row[0] for row in world.query("select distinct outcome from bazaar.outcomes")} == {"unchanged"}


def test_a_second_refresh_adds_what_closed_in_between_and_nothing_else(world: World) -> None:
    before = {table: world.lasting_rows(table) for table in ("raw_candles", *COMPUTED)}
    refresh(world, LATER)
    after = world.tables()
    for table, old in before.items():
        new = world.lasting_rows(table)
        assert old <= new
        hours = {row[2].isoformat() for row in new - old if row[1] == "H1"}
        assert hours == {f"2026-06-01T{hour}:00:00" for hour in (12, 13)}
        assert len(new - old) == 4 * (8 + 2)
        assert len(after[f"bazaar.{table}"]) == len(new)
    assert after["bazaar.raw_candle_revisions"] == after["bazaar.rejected_candles"] == []


def test_a_second_publishing_brings_what_was_added_to_the_files(world: World) -> None:
    before = world.files("exports")
    keys = ["ETH/USD|m15", "ETH/USD|H1"]
    refresh(world, LATER, keys=keys)
    publish(world, LATER, keys=keys)
    after = world.files("exports")
    changed = {name for name, found in after.items() if before[name] != found}
    assert changed == {f"bazaar/ETH-USD_{name}" for name in ("H1.csv", "H1.parquet", "m15.csv", "m15.parquet")}
    for name in changed:
        assert world.files("uploads")[name][0] == after[name][0]
        path = world.root / "data" / "exports" / name
        newest = "13:45" if "_m15" in name else "13:00"
        assert world.query(f"select max(open_time)::timestamp::varchar from '{path}'") == [(f"2026-06-01 {newest}:00",)]


def test_learning_bit_by_bit_with_a_late_correction_equals_learning_at_once(wide_world: World, twin: Twin) -> None:
    world, corrected = wide_world, "instrument = 'ETH/USD' and timeframe = 'm15' and open_time = '2026-06-01 10:30'"
    # All columns, of half of the series.
    market = world.root / "markets" / "bazaar.yaml"
    market.write_text(market.read_text().replace(", SOL/USD, XRP/USD]", "]"))
    refresh(world, NOW)
    publish(world, NOW)
    old = world.query(f"select close from bazaar.raw_candles where {corrected}")
    world.write_candles("ETH/USD|m15", changes={"2026-06-01T10:30:00": {"close": 777.5, "high": 778.0}})
    result = world.run(now=NOW + timedelta(minutes=7))
    assert metadata_of(result, "raw_candles")["ETH/USD|m15"]["rows_revised"] == 1
    for minutes in (45, 120):
        refresh(world, NOW + timedelta(minutes=minutes))
    # Everything after the corrected candle is computed anew.
    other = twin(world, LATER)
    assert_equals(world, other)
    revisions = world.query("select instrument, timeframe, open_time::varchar, close from bazaar.raw_candle_revisions")
    assert revisions == [("ETH/USD", "m15", "2026-06-01 10:30:00", old[0][0])]
    publish(world, LATER)
    with inside(other.root):
        publish(other, LATER)
    exports, expected = world.files("exports"), other.files("exports")
    csvs = [name for name in expected if name.endswith(".csv")]
    assert {name: exports[name][0] for name in csvs} == {name: expected[name][0] for name in csvs}
    path = world.root / "data" / "exports" / "bazaar" / "ETH-USD_m15.parquet"
    assert world.query(f"select count(*) from '{path}' where close = 777.5") == [(1,)]


# ---- what was wrong or missing


def test_a_correction_of_what_is_older_is_seen_when_it_is_asked_for(world: World, twin: Twin) -> None:
    world.write_candles("ETH/USD|m15", changes={"2026-05-31T13:00:00": {"close": 777.5, "high": 778.0}})
    world.run(now=NOW)
    assert world.query("select count(*) from bazaar.raw_candle_revisions") == [(0,)]
    world.run(now=NOW, since="2026-05-31T12:30Z")
    assert world.query("select count(*) from bazaar.raw_candle_revisions") == [(1,)]
    assert_equals(world, twin(world, NOW))


def test_a_hole_and_a_contradiction_are_filled_once_they_are_mended(new_world: World, refreshed: World) -> None:
    missing = [f"2026-05-31T{hour}:{minute}:00" for hour in (14, 15) for minute in ("00", "15", "30", "45")]
    new_world.write_candles("SOL/USD|m15", without=missing)
    new_world.write_candles("XRP/USD|m15", changes={"2026-06-01T11:00:00": {"high": 1.0, "low": 2.0}})
    for minutes in (0, 1):
        refresh(new_world, NOW + timedelta(minutes=minutes))
    counts = new_world.counts()
    assert (counts["SOL/USD|m15"], counts["XRP/USD|m15"]) == (88, 95)
    rejected = new_world.query("select instrument, timeframe, open_time::varchar, reason from bazaar.rejected_candles")
    assert rejected == [("XRP/USD", "m15", "2026-06-01 11:00:00", "high is below low")]
    for key in ("SOL/USD|m15", "XRP/USD|m15"):
        new_world.write_candles(key)
    refresh(new_world, NOW)
    # What lies deeper than the newest candles is read again where somebody asks for it.
    counts = new_world.counts()
    assert (counts["SOL/USD|m15"], counts["XRP/USD|m15"]) == (88, 96)
    refresh(new_world, NOW, since="2026-05-31T13:55Z")
    assert new_world.counts()["SOL/USD|m15"] == 96
    assert_equals(new_world, refreshed)


def test_since_brings_earlier_history(world: World, twin: Twin) -> None:
    refresh(world, NOW, since=FIRST.isoformat())
    assert world.counts() == {key: 192 if key.endswith("m15") else 48 for key in world.counts()}
    assert_equals(world, twin(world, NOW, FIRST))


def test_until_stops_and_the_next_refresh_goes_on_by_an_earlier_clock_or_now(
    new_world: World, refreshed: World
) -> None:
    newest = "select timeframe, max(open_time)::varchar from bazaar.raw_candles group by 1 order by 1"
    refresh(new_world, NOW, until="2026-06-01T06:00Z")
    assert new_world.counts()["BTC/USD|m15"] == 72
    assert new_world.query(newest) == [("H1", "2026-06-01 05:00:00"), ("m15", "2026-06-01 05:45:00")]
    refresh(new_world, NOW - timedelta(hours=5))
    assert new_world.query(newest) == [("H1", "2026-06-01 06:00:00"), ("m15", "2026-06-01 06:45:00")]
    refresh(new_world, NOW)
    assert new_world.query(newest) == [("H1", "2026-06-01 11:00:00"), ("m15", "2026-06-01 11:45:00")]
    assert_equals(new_world, refreshed)


def test_until_before_what_is_stored_changes_nothing(world: World) -> None:
    before = without_outcomes(world)
    refresh(world, NOW, until="2026-05-31T15:00Z")
    assert without_outcomes(world) == before


def test_a_stretch_may_be_asked_for(world: World) -> None:
    world.lose_candles("open_time between '2026-05-31 14:00' and '2026-05-31 18:00'")
    world.run(now=NOW, since="2026-05-31T15:00Z", until="2026-05-31T16:00Z")
    found = world.query("select count(*) from bazaar.raw_candles where open_time between '2026-05-31 14:00' "
                        "and '2026-05-31 18:00' and timeframe = 'm15' and instrument = 'BTC/USD'")  # fmt: skip
    assert found == [(4,)]


# ---- by another clock


def test_going_by_an_earlier_clock_takes_nothing_back(world: World) -> None:
    before = without_outcomes(world)
    result = world.run(now=NOW - timedelta(hours=5))
    assert result.success
    assert verdicts_of(result)["every_series_is_fresh"]
    assert without_outcomes(world) == before


@pytest.mark.parametrize("now", [NOW.replace(year=1999), NOW.replace(year=2049)])
def test_a_clock_that_is_far_off_finds_nothing_and_breaks_nothing(world: World, now: datetime) -> None:
    # By such a clock all candles are of the future: the source is asked for the history before it, and has none.
    aside = {"bazaar.raw_candles", "bazaar.confirmed_gaps"}
    before = {name: found for name, found in without_outcomes(world).items() if name not in aside}
    if now.year == 2049:
        # Only a simulated market goes by an instant later than the clock.
        assert not world.run(now=now).success
        return
    assert world.run(now=now).success
    after = {name: found for name, found in without_outcomes(world).items() if name in before}
    assert after == before
