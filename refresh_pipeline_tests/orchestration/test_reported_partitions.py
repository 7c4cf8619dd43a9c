"""A scheduled tick reports some partitions in turn and those with news at once; every other run reports all of them."""

from collections.abc import Iterator
from datetime import timedelta

import dagster as dg
import pytest
from dagster import DagsterEventType

from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.orchestration import reported_partitions
from refresh_pipeline.orchestration.reported_partitions import behind, in_turn
from refresh_pipeline_tests.project_folder import LATER, World, metadata_of

NAMES = ("BTC", "ETH", "SOL", "XRP")
QUARTERS, HOURS = ({f"{name}/USD|{timeframe}" for name in NAMES} for timeframe in ("m15", "H1"))
REFRESHED = ["raw_candles", "enhanced_candles", "indicators"]
MINUTE = timedelta(minutes=1)


@pytest.fixture
def instance(world: World) -> Iterator[dg.DagsterInstance]:
    """The refreshed world's own."""
    with world.dagster() as instance:
        yield instance


def told(result: dg.ExecuteInProcessResult) -> set[str]:
    """The partitions that a run materialized, the same ones of each asset."""
    assert result.success
    [keys] = {frozenset(metadata_of(result, asset)) for asset in REFRESHED}
    return set(keys)


def test_a_tick_reports_a_share_in_turn_and_what_recovered_or_was_corrected_at_once(
    world: World, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Eight series count as many, and a quarter of an hour as a quarter of the time in which all are reported.
    monkeypatch.setattr(reported_partitions, "FEW_SERIES", 2)
    monkeypatch.setattr(reported_partitions, "REPORTED_WITHIN", 60 * MINUTE)

    def tick(number: int) -> set[str]:
        at = LATER + 15 * MINUTE * number
        return told(world.run(now=LATER, instance=instance, tick=at))

    assert tick(0) == QUARTERS | HOURS
    first = tick(1)
    assert (len(first & QUARTERS), first & HOURS) == (1, HOURS)
    broken, corrected = sorted(QUARTERS - first)[:2]
    world.candle_file(broken).write_text("this,is,no\nfile,of,candles\n")
    second = tick(2)
    assert broken not in second
    for key, changes in {broken: {}, corrected: {"2026-06-01T11:30:00": {"volume": 99}}}.items():
        world.write_candles(key, changes=changes)
    third = tick(3)
    assert {broken, corrected} <= third
    assert len(first | second | third) >= len(HOURS) + 3
    # A run that no tick asked for reports everything.
    assert told(world.run(now=LATER, instance=instance)) == QUARTERS | HOURS
    # No partition looks outdated: each was reported after the one that it is computed from.
    newest = [
        instance.event_log_storage.get_latest_storage_id_by_partition(
            dg.AssetKey(["bazaar", asset]), DagsterEventType.ASSET_MATERIALIZATION
        )
        for asset in REFRESHED
    ]
    assert all(raw[key] < enhanced[key] < last[key] for raw, enhanced, last in [newest] for key in QUARTERS | HOURS)


def test_within_a_quarter_of_an_hour_every_partition_has_its_turn() -> None:
    series = [Series(f"{number:03}", Timeframe.m1) for number in range(487)]
    newest = {each.key: number for number, each in enumerate(series)}
    most, reported = 0, set[Series]()
    for minute in range(15):
        chosen = in_turn(series, newest, MINUTE)
        newest |= {
            each.key: 1000 * (minute + 1) + number for number, each in enumerate(sorted(chosen, key=series.index))
        }
        most, reported = max(most, len(chosen)), reported | chosen
    assert (most, len(reported)) == (33, 487)


def test_after_an_outage_and_for_new_partitions_there_is_no_turn() -> None:
    series = [Series(name, Timeframe.m1) for name in "ABCD"]
    newest = {each.key: 1 for each in series[:3]}
    assert in_turn(series, newest, timedelta(hours=1)) == set(series)
    assert series[3] in in_turn(series, newest, MINUTE)


def test_a_partition_is_behind_where_its_upstream_was_reported_later() -> None:
    a, b, c = (Series(name, Timeframe.m1) for name in "ABC")
    assert behind([a, b, c], {a.key: 5, b.key: 5}, {a.key: 4, b.key: 6, c.key: 1}) == {b, c}
